"""Follows one subject: joins its topic, reads what it may have missed, says how fresh it is.

What is read and what a message means is left to the watchers in watch.py. The browser's counterpart
is infra/console/lib/jobs/follower.js.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, Self

from minutehand.client.access import Access
from minutehand.client.sequence import event_of_frame
from minutehand.client.topic import Topic
from minutehand.queue.broadcasts import READY_SECONDS
from minutehand.queue.client import UserQueue
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import JobEvent, TopicFollowed
from minutehand.tasks import end_tasks

#: How current a watch is; see `Watcher.freshness`.
Freshness = Literal["live", "catching-up", "polling", "offline"]

logger = logging.getLogger(__name__)

_LONGEST_POLL_SECONDS: Final = 30.0
#: Events kept for a slow reader; beyond this they are left in the database until there is room.
_MOST_QUEUED: Final = 2000
#: Between reads while messages are held back to stay within the plan.
_LOOK_AGAIN_SECONDS: Final = 1.5
#: A socket that brought something so lately and lacks something now is not dead: above the plan's
#: rate Realtime drops messages silently. Its mean is over a minute, and reads go on as long.
_LOSSY_SECONDS: Final = 60.0
#: At least so many times as long as a read took: servers under load rest.
_LOOK_AGAIN_SHARE: Final = 5.0
#: A check is due after this share of the time since the last news.
_CHECK_SHARE: Final = 20.0
#: Spread of the first of them, so that many followers woken together do not all read together.
_SPREAD_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient a watch is; all in seconds."""

    #: Between reads while Realtime is unavailable.
    polling_interval: float = 3.0
    #: At most until a read proves that nothing was missed.
    silence: float = 30.0
    #: At least until then: Realtime drops messages silently.
    first_silence: float = 1.5
    #: After a join, until a server is believed that does not say whether messages arrive.
    ready_timeout: float = READY_SECONDS
    #: Wait for a missing event to arrive.
    reorder: float = 0.1
    #: After which a first join counts as failed.
    join_timeout: float = 5.0

    def check_pause(self, idle: float, took: float, advised: float) -> float:
        """Until a read proves again that nothing was missed.

        What Realtime drops silently is found within a twentieth of the time since the last news,
        or as the project's followers allow.

        Args:
            idle: Since the last news.
            took: The last read.
            advised: See `follow_topic`.
        """
        pause = max(self.first_silence, advised, idle / _CHECK_SHARE)
        return max(min(pause, self.silence), _LOOK_AGAIN_SHARE * took)


class Watcher(ABC):
    """A watch on one subject; iterate it once, at best inside `async with`.

    Leaving the loop in any way, cancellation included, closes the watch.
    """

    def __init__(self, topic: str, access: Access, timing: Timing) -> None:
        self.error: QueueError | None = None  #: Why the last read failed.
        self._timing = timing
        self._access = access
        self._topic = Topic(
            access,
            topic,
            timeout=timing.join_timeout,
            joined=self._on_joined,
            ready=self._on_ready,
            lost=self._on_lost,
            message=self._on_message,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: list[Callable[[], None]] = []
        self._told: Freshness | None = None
        self._queue: deque[JobEvent] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._due = asyncio.Event()
        self._done = False
        self._closed = False
        self._failure: BaseException | None = None
        self._joined = False
        self._joins = 0
        self._lost_once = False
        self._distrusted = False
        self._distrusts = 0
        self._synced = False
        self._behind = False
        self._terms: TopicFollowed | None = None
        self._held = False
        self._queued_count = 0
        self._look_again_at = -math.inf
        self._took = 0.0
        self._unreachable = False
        self._reads = 0
        self._failures = 0
        self._checks = 0
        self._check_at = math.inf
        self._news_at = -math.inf
        self._deaf_until = -math.inf
        self._lossy_until = -math.inf
        self._unheard: set[tuple[str, int]] = set()
        self._judge_at = math.inf
        self._read_at = 0.0
        self._started_at = 0.0
        self._last_heard = -math.inf
        self._last_read = 0.0
        self._waiters: list[asyncio.Future[None]] = []

    # For watchers --------------------------------------------------------------------------

    @abstractmethod
    async def _catch_up(self, queue: UserQueue) -> None:
        """Read everything since what is known, and `_tell` it. May raise; then it is repeated."""

    @abstractmethod
    def _receive(self, event: JobEvent) -> None:
        """Take one event of the topic."""

    @property
    def _has_gap(self) -> bool:
        """Whether something is known to be missing."""
        return False

    @property
    def _is_numbered(self) -> bool:
        """Whether a message shows that one before it was lost."""
        return False

    def _tell(self, events: Iterable[JobEvent]) -> None:
        """Hand events to the reader."""
        before = len(self._queue)
        self._queue.extend(events)
        self._queued_count += len(self._queue) - before
        if self._queue:
            self._news.set()
        if len(self._queue) >= _MOST_QUEUED:
            self._room.clear()

    def _finish(self, failure: BaseException | None = None) -> None:
        """Nothing follows the events so far."""
        self._done = True
        self._failure = failure
        self._news.set()

    def _read_within(self, seconds: float = 0.0) -> None:
        at = self._now() + seconds
        if at < self._read_at:
            self._read_at = at
            self._due.set()

    # Public --------------------------------------------------------------------------------

    @property
    def freshness(self) -> Freshness:
        """How current the events are.

        `live`: joined, messages arrive, and everything up to now was read since. `catching-up`: a
        read is under way, something is known to be missing, or messages do not arrive yet, are
        held back to stay within the plan, or dropped above it. `polling`: Realtime is
        unavailable, reads continue.
        `offline`: neither works, or the watch is closed.
        """
        if self._closed or self._unreachable:
            return "offline"
        if not self._joined or self._distrusted:
            waited = self._now() - self._started_at if self._started_at else 0.0
            joining = not self._lost_once and waited < self._timing.join_timeout
            return "catching-up" if joining or self._reads == 0 else "polling"
        gap = self._has_gap or self._behind or self._reads_anyway
        return "live" if self._synced and not gap else "catching-up"

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` whenever `freshness` changes; the returned function ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    async def refresh(self) -> None:
        """Read now; returns when a read that began after this call has ended."""
        if self._done or self._closed:
            return
        self._start()
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._read_within()
        await waiter

    async def aclose(self) -> None:
        """Leave the topic and drop undelivered events."""
        if self._closed:
            return
        self._closed = True
        self._done = True
        self._queue.clear()
        self._news.set()
        await end_tasks(self._tasks)
        self._release()
        self._notify()

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[JobEvent]:
        """Each event once and in order, until the subject has ended.

        Raises:
            QueueError: The subject is gone or not yours, or the call itself is wrong.
            TokenRefused: The token expired, and there is no function to ask for another.
        """
        self._start()
        try:
            while True:
                while not self._queue:
                    if self._done:
                        if self._failure is not None:
                            raise self._failure
                        return
                    self._news.clear()
                    await self._news.wait()
                event = self._queue.popleft()
                if len(self._queue) < _MOST_QUEUED:
                    self._room.set()
                yield event
        finally:
            await self.aclose()

    # Inside --------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._tasks or self._closed:
            return
        self._started_at = self._now()
        self._tasks = [
            asyncio.create_task(self._topic.run()),
            asyncio.create_task(self._read_when_due()),
        ]
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """What no one expected is the reader's to see."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._finish(error)
            self._on_lost(str(error))

    def _on_joined(self, terms: TopicFollowed | None) -> None:
        self._joined = True
        self._terms = terms
        self._last_heard = -math.inf
        self._deaf_until = self._now() + self._timing.ready_timeout
        self._begin()
        self._due.set()  # while deaf, reads go on

    def _on_ready(self) -> None:
        """What is committed from now on arrives: what was before is in a read that begins now."""
        if self._is_deaf:
            self._deaf_until = -math.inf
            self._begin()
            self._read_within()  # only now: what was committed before is in this read

    @property
    def _is_deaf(self) -> bool:
        return self._now() < self._deaf_until

    @property
    def _reads_anyway(self) -> bool:
        """Whether messages do not bring everything now, so that reads must."""
        return self._held or self._now() < max(self._deaf_until, self._lossy_until)

    def _begin(self) -> None:
        self._joins += 1
        self._synced = False
        # a new socket is trusted once; after that only a message proves that any arrive
        self._distrusted = self._distrusted and self._distrusts > 1
        self._checks = 0
        self._news_at = self._now()
        self._unheard.clear()
        self._judge_at = math.inf
        self._notify()

    def _on_lost(self, reason: str) -> None:
        was = self._joined or not self._lost_once
        self._joined = False
        self._synced = False
        self._lost_once = True
        if was:
            self._read_within()
        self._notify()

    def _on_message(self, frame: object) -> None:
        looks_again = isinstance(frame, Mapping) and frame.get("look_again") is True
        event = event_of_frame(frame)
        if (event is None and not looks_again) or self._done:
            return
        self._on_ready()
        if not self._is_quiet:
            self._last_heard = self._news_at = self._now()
        check_at, due_at = self._now() + self._check_pause, self._check_at
        # a stream of messages must not postpone the check, unless it shows what is missing
        shows_holes = self._is_numbered and self._checks > 0
        self._check_at = check_at if shows_holes else min(due_at, check_at)
        if self._check_at < due_at:
            self._due.set()
        self._distrusted = False
        self._distrusts = 0
        if event is None:
            self._look_again()
            return
        self._unheard.discard((event.job_id, event.seq))
        if self._room.is_set():
            self._receive(event)
        else:
            self._behind = True
            self._read_within()
        # a hole is what was held back: many who would all fill it at once are worse than a late one
        if self._has_gap and not self._held:
            self._read_within(self._timing.reorder)
        self._notify()

    @property
    def _is_quiet(self) -> bool:
        return self._terms is not None and self._terms.quiet

    @property
    def _check_pause(self) -> float:
        advised = 0.0 if self._terms is None else self._terms.check_seconds
        return self._timing.check_pause(self._now() - self._news_at, self._took, advised)

    def _look_again(self) -> None:
        """More happened than may be sent: reads bring it, until one finds nothing new."""
        self._held = True
        self._look_again_at = self._now()
        self._unheard.clear()
        self._judge_at = math.inf
        self._read_within(random.random() * _SPREAD_SECONDS)
        self._notify()

    async def _read_when_due(self) -> None:
        try:
            while not self._done:
                at = min(self._read_at, self._calm_read_at(), self._judge_at)
                if (wait := at - self._now()) > 0:
                    self._due.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await self._due.wait()
                    self._notify()
                elif at == self._judge_at:
                    self._judge()
                else:
                    await self._read()
        finally:
            self._release()

    def _calm_read_at(self) -> float:
        """When to read although nothing asks for it."""
        timing = self._timing
        if self._failures or not self._joined or self._distrusted:
            wait = timing.polling_interval * 1.6 ** min(self._failures, 8)
            return self._last_read + min(wait, _LONGEST_POLL_SECONDS)
        if self._reads_anyway:
            pause = _LOOK_AGAIN_SECONDS if self._held else timing.first_silence
            return self._last_read + max(pause, _LOOK_AGAIN_SHARE * self._took)
        return self._check_at

    async def _read(self) -> None:
        """Read once; a refusal that repeating cannot change ends the watch."""
        began, told = self._now(), self._queued_count
        rests = self._failures or self._reads_anyway
        is_check = self._read_at > began and self._synced and not rests
        joins = self._joins if self._joined else 0
        waiters, self._waiters = self._waiters, []
        self._read_at = math.inf
        before = len(self._queue)
        try:
            await self._room.wait()
            self._behind = False
            await self._catch_up(await self._access.user(read_once=True))
        except (QueueUnavailable, TokenRefused) as error:
            self._failed(error)
        except QueueError as error:
            self._finish(error)
        else:
            self._reads += 1
            self._took = self._now() - began
            if self._queued_count > told:
                self._news_at = self._now()
            elif began - self._look_again_at > _LOOK_AGAIN_SECONDS / 2:
                self._held = False
            if self._failures:
                self._topic.hurry()
            if self._unreachable and self._joined:
                # what cut the reads off may have left the socket half-open: trust a new one
                self._distrusted = True
                self._topic.reconnect()
            self._failures = 0
            self._unreachable = False
            self.error = None
            if self._joined and joins == self._joins:
                self._synced = True
        finally:
            self._last_read = self._now()
            self._check_at = self._last_read + self._check_pause
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        if is_check and joins == self._joins:
            self._checks += 1
            self._expect([*self._queue][before:])
        if (self._has_gap and not self._held) or self._behind:
            self._read_within(self._timing.reorder)
        self._notify()

    def _failed(self, error: QueueUnavailable | TokenRefused) -> None:
        self._failures += 1
        self.error = error
        self._unreachable = not 400 <= error.status < 500
        if isinstance(error, TokenRefused):
            if not self._access.tokens.can_renew:
                self._finish(error)
                return
            self._access.tokens.expire()

    def _expect(self, found: list[JobEvent]) -> None:
        """What a check found, the socket must bring too, where it brings all."""
        if found and not self._is_quiet:
            self._unheard |= {(event.job_id, event.seq) for event in found}
            self._judge_at = min(self._judge_at, self._now() + self._timing.first_silence)

    def _judge(self) -> None:
        """If it did not, messages are dropped, or the socket is dead even if it looks alive."""
        self._judge_at = math.inf
        if self._unheard and self._joined:
            if self._last_heard + _LOSSY_SECONDS > self._now():
                self._lossy_until = self._now() + _LOSSY_SECONDS
            elif self._distrusted:
                self._distrusts += 1
                self._topic.reconnect()
            else:
                self._distrusted = True
                # a first message may only be late: a new socket would lose it
                self._judge_at = self._now() + self._timing.polling_interval
                self._notify()
                return
        self._unheard.clear()
        self._notify()

    def _release(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = []

    def _notify(self) -> None:
        if self.freshness != self._told:
            self._told = self.freshness
            for listener in [*self._listeners]:
                listener()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
