"""A job, a workspace or a session that is followed: its reads, its topic and its reader."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Final, Literal, Self

from minutehand.client.access import Access
from minutehand.client.follow import JOIN_SECONDS, EventSequence, Follow, Freshness
from minutehand.client.topic import Topic
from minutehand.queue.data_api import patiently
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.keys import is_guest_session
from minutehand.queue.models import ENDED, FeedPage, Job, JobEvent, JobId
from minutehand.tasks import end_tasks

_PAGE: Final = 500
_ENDS: Final = frozenset({"job.completed", "job.failed", "job.cancelled"})


class Watcher(ABC):
    """A watch on one subject; iterate it once, at best inside `async with`."""

    def __init__(self, topic: str, access: Access, sequence: EventSequence | None = None) -> None:
        self.error: QueueError | None = None  #: Why the last read failed.
        self._access = access
        self._follow = Follow(sequence)
        self._topic = Topic(
            access,
            topic,
            timeout=JOIN_SECONDS,
            joined=lambda terms: self._on(partial(self._follow.on_joined, terms=terms)),
            ready=lambda: self._on(self._follow.on_ready),
            lost=lambda _: self._on(self._follow.on_lost),
            message=self._on_message,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._reconnects = 0
        self._finished = False
        self._closed = False
        self._failure: BaseException | None = None

    @abstractmethod
    async def _read(self) -> None:
        """Read everything since what is known into `_follow`."""

    def _take(self, events: list[JobEvent]) -> None:  # noqa: B027 - a feed never ends
        """See what it says now."""

    @property
    def freshness(self) -> Freshness:
        """How current the events are, see `Follow.freshness`; `offline` when closed."""
        return "offline" if self._closed else self._follow.freshness(self._now())

    async def aclose(self) -> None:
        """Leave the topic and drop undelivered events."""
        if not self._closed:
            self._closed = self._finished = True
            self._follow.delivered.clear()
            self._news.set()
            await end_tasks(self._tasks)

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[JobEvent]:
        """Each event once and in order, until the subject has ended."""
        self._start()
        delivered = self._follow.delivered
        try:
            while True:
                while not delivered:
                    if self._finished:
                        if self._failure is not None:
                            raise self._failure
                        return
                    self._news.clear()
                    await self._news.wait()
                was_full = self._follow.is_full
                event = delivered.popleft()
                if was_full:
                    self._wake.set()
                yield event
        finally:
            await self.aclose()

    def _start(self) -> None:
        if not self._tasks and not self._closed:
            self._follow.start(self._now())
            tasks = (self._topic.run(), self._read_when_due())
            self._tasks = [asyncio.create_task(task) for task in tasks]
            for task in self._tasks:
                task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """What no one expected is the reader's to see."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._finish(error)

    def _finish(self, failure: BaseException | None = None) -> None:
        self._finished = True
        self._failure = failure
        self._changed()

    def _on(self, change: Callable[[float], None]) -> None:
        change(self._now())
        self._changed()

    def _on_message(self, frame: object) -> None:
        if not self._finished:
            self._take(self._follow.on_message(self._now(), frame))
            self._changed()

    def _changed(self) -> None:
        self._news.set()
        self._wake.set()
        if self._reconnects != self._follow.reconnects:
            self._reconnects = self._follow.reconnects
            self._topic.reconnect()

    async def _read_when_due(self) -> None:
        while not self._finished:
            self._wake.clear()
            if self._follow.due(self._now()):
                await self._read_once()
            else:
                wait = self._follow.next_at(self._now()) - self._now()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, wait)):
                        await self._wake.wait()
            self._changed()

    async def _read_once(self) -> None:
        """Read; a refusal that repeating cannot change ends the watch."""
        self._follow.began(self._now())
        try:
            await self._read()
        except (QueueUnavailable, TokenRefused) as error:
            self.error = error
            self._follow.failed(self._now(), unreachable=not 400 <= error.status < 500)
            if isinstance(error, TokenRefused):
                if not self._access.tokens.can_renew:
                    self._finish(error)
                self._access.tokens.expire()
        except QueueError as error:
            self._finish(error)
        else:
            self.error = None
            self._follow.ended(self._now())

    def _page(self, events: list[JobEvent] | tuple[JobEvent, ...], *, is_last: bool) -> None:
        self._take(self._follow.page(self._now(), events, is_last=is_last))
        self._news.set()

    async def _room(self) -> None:
        while self._follow.is_full:
            self._wake.clear()
            await self._wake.wait()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class JobWatcher(Watcher):
    """Every event of one job, and in `job` its row as it was last read."""

    def __init__(self, access: Access, job_id: JobId | str, *, after: int = 0) -> None:
        self.job: Job | None = None
        self._job_id = str(job_id)
        self._after = after
        self._sequence = EventSequence(after)
        super().__init__(f"job:{job_id}", access, self._sequence)

    @property
    def last_seq(self) -> int:
        """The `seq` up to which events are here; pass it as `after` to continue later."""
        return self._sequence.last

    async def ended(self) -> Job:
        """Wait for any end and return the job's row, without handing out events."""
        async for _ in self:
            continue
        if self.job is None or self.job.status not in ENDED:
            raise QueueError(f"the watch on job {self._job_id} was closed before the job ended")
        return self.job

    async def _read(self) -> None:
        row = self.job = await self._access.reader.get_job(self._job_id)
        while self._sequence.last < row.last_seq or self._sequence.has_gap:
            page = await self._access.reader.events_after(
                self._job_id, self._sequence.last, limit=_PAGE
            )
            self._page(page, is_last=len(page) < _PAGE)
            if len(page) < _PAGE:
                break
            await self._room()
        # the row decides, not an event: a dead letter of the past may be running again
        if row.status in ENDED and self._sequence.last <= max(row.last_seq, self._after):
            self._finish()

    def _take(self, events: list[JobEvent]) -> None:
        known = 0 if self.job is None else self.job.last_seq
        if any(event.type in _ENDS and event.seq > known for event in events):
            self._follow.ask(self._now())


class FeedWatcher(Watcher):
    """The events of many jobs, by the database's own durable cursor; messages say when to read."""

    def __init__(
        self,
        access: Access,
        kind: Literal["workspace", "session"],
        subject: str,
        *,
        cursor: str | None = None,
    ) -> None:
        super().__init__(f"{kind}:{subject}", access)
        self.cursor = cursor
        self._kind = kind
        self._subject = str(subject)

    async def _read(self) -> None:
        while (page := await self._next_page()) is not None:
            self.cursor = page.cursor
            self._page(page.events, is_last=not page.more)
            if not page.more:
                return
            await self._room()

    async def _next_page(self) -> FeedPage | None:
        queue, is_session = self._access.reader, self._kind == "session"
        read = queue.session_feed if is_session else queue.workspace_feed
        try:
            page = await patiently(partial(read, self._subject, self.cursor, limit=_PAGE))
        except QueueError as error:
            # one that no job has begun yet is awaited
            awaited = self.cursor is None and not is_guest_session(self._subject)
            if error.word == "session_not_found" and awaited:
                return None
            raise
        if is_session and self.cursor is None and not self._follow.joined:
            self._topic.reconnect()  # no one may join the topic of a session before it begins
        return page
