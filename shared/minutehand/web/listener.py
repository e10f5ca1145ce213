"""Wakes event streams when something happens to what they read, where a database notifies.

One connection a process, open while there are streams; where there is none, streams poll.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Final

from minutehand.config import ConfigurationError, Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError
from minutehand.queue.functions import WorkerFunctions

logger = logging.getLogger(__name__)

CHANNEL: Final = "minutehand_events"
#: The database forgets a topic a minute after it was named.
AGAIN_SECONDS: Final = 30.0


class News:
    """What the database notifies this process of; while it `is_live`, streams need not look."""

    def __init__(self, settings: Settings, api: DataApi) -> None:
        self._url = settings.environ.get("DATABASE_URL", "")
        self._streams: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._named: dict[str, float] = {}  # until when
        self.is_live = self._is_listening = False
        self._task: asyncio.Task[None] | None = None
        self._functions: WorkerFunctions | None = None
        if settings.streaming and self._url:
            with suppress(ConfigurationError):
                self._functions = WorkerFunctions(settings, api=api)

    @contextmanager
    def of(self, topic: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever a stream of the topic, as `job:<id>`, should read it."""
        event = asyncio.Event()
        self._streams[topic].add(event)
        if self._functions is not None and self._task is None:
            self._task = asyncio.create_task(self._listen(), name="news")
        elif self._is_listening:
            event.set()  # the read names the topic
        try:
            yield event
        finally:
            self._streams[topic].remove(event)
            if not self._streams[topic]:
                del self._streams[topic]
                self._named.pop(topic, None)
            if self._task is not None and not self._streams:
                self._task.cancel()
                self._task = None
                self.is_live = self._is_listening = False

    async def name(self, topic: str) -> None:
        """Have the database notify of a topic from now on; to be called before each read."""
        now = time.monotonic()
        if self._functions is None or not self._is_listening or now < self._named.get(topic, 0.0):
            return
        self._named[topic] = now + AGAIN_SECONDS
        try:
            await self._functions.call("stream_topics", {"p_topics": [topic]})
            self.is_live = True
        except QueueError as error:
            self.is_live = False
            extra = {"event": "sse.polling", "reason": str(error)}
            logger.warning("event streams poll: the database notifies no one", extra=extra)

    async def _listen(self) -> None:
        from minutehand.queue.connection_probe import ask_again  # only here: its driver is an extra
        from minutehand.queue.direct import notifications

        address = await ask_again(self._url)
        if not address.notifications:
            self._functions = None  # they poll, and it is not asked again
            extra = {"event": "sse.polling", **address.facts}
            logger.warning("event streams poll: DATABASE_URL passes no notifications", extra=extra)
            return
        async with aclosing(notifications(self._url, CHANNEL)) as notified:
            async for topic in notified:
                if topic:
                    self._wake(topic)
                    continue
                self.is_live, self._is_listening = False, topic is not None
                self._named.clear()
                for each in self._streams:  # of what was committed while no one listened
                    self._wake(each)

    def _wake(self, topic: str) -> None:
        for event in self._streams.get(topic, ()):
            event.set()
