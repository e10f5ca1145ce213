"""Who is waiting for news of what: one place per process, however many streams it serves.

The hub only carries hints. What happened is read from the database by each reader with its own
token, so a hint that is lost costs time and one that is false costs a query.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import TracebackType
from typing import Self

from shared.config import Settings


class Subscription:
    """One reader's ear on one subject, such as `job:<id>`."""

    def __init__(self, hub: EventHub, topic: str) -> None:
        self._hub = hub
        self._topic = topic
        self._news = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Whether there was news of the subject within `seconds`; false news is possible."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    def wake(self) -> None:
        """Tell the reader to look."""
        self._news.set()

    async def __aenter__(self) -> Self:
        self._hub.add(self._topic, self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hub.remove(self._topic, self)


class EventHub:
    """Wakes the readers of a subject; fed by `notify`, whoever calls it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._readers: defaultdict[str, set[Subscription]] = defaultdict(set)
        self.closing = False

    def subscribe(self, topic: str) -> Subscription:
        """An ear on `topic`, open while its context is."""
        return Subscription(self, topic)

    def notify(self, topic: str) -> None:
        """Wake every reader of `topic`."""
        for reader in self._readers.get(topic, ()):
            reader.wake()

    @property
    def count(self) -> int:
        """Streams open now."""
        return sum(len(readers) for readers in self._readers.values())

    def add(self, topic: str, reader: Subscription) -> None:
        """Called by a subscription that opens."""
        self._readers[topic].add(reader)

    def remove(self, topic: str, reader: Subscription) -> None:
        """Called by a subscription that closes."""
        readers = self._readers[topic]
        readers.discard(reader)
        if not readers:
            del self._readers[topic]

    async def aclose(self) -> None:
        """Wake everyone for the last time: the process is about to end."""
        self.closing = True
        for topic in list(self._readers):
            self.notify(topic)
