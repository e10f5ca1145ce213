"""Subscriptions of all streams of the process, over one upstream.

The hub carries hints and, for single jobs, the latest events; what counts is the log in the
database, which each reader reads with its own token, so a hint that is lost only costs time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import datetime
from typing import Final, Protocol, Self

from minutehand.web.ring import Frame, Ring
from minutehand.web.shared_reads import SharedReads

#: Reads of the log a second, over all streams of the process, when hints or polls ask for them.
READS_PER_SECOND: Final = 200.0
#: Checks a second, over all streams, whether their subjects are still there.
CHECKS_PER_SECOND: Final = 20.0


class Upstream(Protocol):
    """Feeds a hub: reports updates of the topics it was asked to follow."""

    def follow(self, topic: str, *, token: str | None, until: datetime) -> None:
        """Begin or continue following; of several readers' tokens the one that lives longest."""
        ...

    def leave(self, topic: str) -> None:
        """Stop following."""
        ...

    def is_live(self, topic: str) -> bool:
        """Whether updates of `topic` arrive now."""
        ...

    async def aclose(self) -> None:
        """Stop altogether."""
        ...


class Subscription:
    """One reader's subscription to a subject such as `job:<id>`."""

    def __init__(self, hub: EventHub, topic: str) -> None:
        self._hub = hub
        self._topic = topic
        self._updated = asyncio.Event()
        self._must_read = False
        #: When the reader was last notified, on the loop's clock.
        self.notified_at = 0.0
        #: When it last learned that messages were held back, on the loop's clock; None when a
        #: read since then has found nothing more.
        self.held_at: float | None = None

    async def wait(self, seconds: float) -> bool:
        """Whether the subject had an update within `seconds`; may be true without one."""
        try:
            async with asyncio.timeout(seconds):
                await self._updated.wait()
        except TimeoutError:
            return False
        return True

    def must_read(self) -> bool:
        """Whether the log must be read, even with events kept; forgets all updates until now."""
        must_read, self._must_read = self._must_read, False
        self._updated.clear()
        return must_read

    def since(self, seq: int) -> list[Frame] | None:
        """What followed on `seq` and was kept; None when something between is missing."""
        return self._hub.frames_of(self._topic, seq)

    def share(self, frame: Frame) -> None:
        """Spare the other readers of the subject the read that brought this."""
        self._hub.share(self._topic, frame, self)

    def wake(self, *, read: bool) -> None:
        """Wake the reader; with `read` it must read the log."""
        self._must_read = self._must_read or read
        self.notified_at = asyncio.get_running_loop().time()
        self._updated.set()

    def look_again(self) -> None:
        """Make the reader read until nothing more is found: messages were held back."""
        self.wake(read=True)
        self.held_at = self.notified_at

    @property
    def is_live(self) -> bool:
        """Whether updates arrive without polling, so that polling can be rare."""
        return self._hub.is_live(self._topic)

    @property
    def pause(self) -> float:
        """Seconds between two reads of the log that keep all streams within the budget."""
        return self._hub.count / READS_PER_SECOND

    @property
    def check_pause(self) -> float:
        """Seconds between two checks that keep all streams within their budget."""
        return self._hub.count / CHECKS_PER_SECOND

    def wake_others(self) -> None:
        """Make every reader of the subject check: this one found it deleted."""
        self._hub.notify(self._topic)

    async def __aenter__(self) -> Self:
        self._hub.add(self._topic, self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._hub.remove(self._topic, self)


class EventHub:
    """Wakes the readers of a subject; fed by `notify`, from any caller."""

    def __init__(self) -> None:
        self._readers: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._rings: dict[str, Ring] = {}
        self._upstream: Upstream | None = None
        self.reads = SharedReads()
        self.count = 0
        self.closing = False

    def feed_from(self, upstream: Upstream) -> None:
        """Follow every subject someone reads through `upstream`; without one, readers poll."""
        self._upstream = upstream

    def subscribe(self, topic: str, *, token: str | None, until: datetime) -> Subscription:
        """A subscription to `topic`, open while its context is.

        Args:
            topic: `job:<id>`, `workspace:<id>` or `session:<id>`, which the reader was found to
                be allowed to follow.
            token: The reader's own; the upstream joins with it. None for a guest.
            until: When the token expires.
        """
        if self._upstream is not None:
            self._upstream.follow(topic, token=token, until=until)
        return Subscription(self, topic)

    def notify(self, topic: str, frame: Frame | None = None) -> None:
        """Wake every reader of `topic`; `frame` is the event, if it came along."""
        ring = self._rings.get(topic)
        if ring is not None and frame is not None:
            ring.offer(frame)
        for reader in self._readers.get(topic, ()):
            reader.wake(read=frame is None)

    def look_again(self, topic: str) -> None:
        """Make every reader of `topic` read: its messages were held back to stay within a plan."""
        for reader in self._readers.get(topic, ()):
            reader.look_again()

    def share(self, topic: str, frame: Frame, finder: Subscription) -> None:
        """Keep an event that `finder` read from the log, and wake the others for it."""
        ring = self._rings.get(topic)
        if ring is not None and ring.offer(frame):
            for reader in self._readers.get(topic, ()):
                if reader is not finder:
                    reader.wake(read=False)

    def frames_of(self, topic: str, seq: int) -> list[Frame] | None:
        """What followed on `seq`, as far as it was kept."""
        ring = self._rings.get(topic)
        return [] if ring is None else ring.after(seq)

    def is_live(self, topic: str) -> bool:
        """Whether updates of `topic` arrive without polling."""
        return self._upstream is not None and self._upstream.is_live(topic)

    def add(self, topic: str, reader: Subscription) -> None:
        """Called by a subscription that opens."""
        self._readers[topic].add(reader)
        # a job's events are numbered; those of many jobs are not, and their frames are hints
        if topic.startswith("job:"):
            self._rings.setdefault(topic, Ring())
        self.count += 1

    def remove(self, topic: str, reader: Subscription) -> None:
        """Called by a subscription that closes."""
        readers = self._readers[topic]
        readers.discard(reader)
        self.count -= 1
        if not readers:
            del self._readers[topic]
            self._rings.pop(topic, None)
            if self._upstream is not None:
                self._upstream.leave(topic)

    def close(self) -> None:
        """Let every stream end soon; its client comes back to the process that serves next."""
        self.closing = True
        for topic in list(self._readers):
            self.notify(topic)

    async def aclose(self) -> None:
        """End every stream and leave the upstream."""
        self.close()
        if self._upstream is not None:
            await self._upstream.aclose()
