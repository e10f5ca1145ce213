"""The feeds behind event streams: one job's history, and the history of many.

Each reads under its reader's own token, so row level security decides what it returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from minutehand.queue.client import UserQueue
from minutehand.queue.models import FeedPage, JobEvent
from minutehand.web.errors import invalid_argument
from minutehand.web.ring import Frame
from minutehand.web.shared_reads import SharedReads
from minutehand.web.sse import Batch, Line

T = TypeVar("T")

#: Events of one read; a stream far behind catches up in several.
READ_LIMIT: Final = 500
_ENDS: Final = frozenset({"job.completed", "job.failed", "job.cancelled"})


def seq_cursor(last_event_id: str | None, after: int | None) -> int:
    """Where a job's stream starts: `Last-Event-ID` if there is one, else `after`, else 0.

    Raises:
        ApiError: 400, the header is not a cursor of a job's stream.
    """
    if last_event_id is None or not last_event_id.strip():
        return after or 0
    text = last_event_id.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise invalid_argument(
            "Last-Event-ID", "is not a valid cursor for this stream", location="header"
        )
    return int(text)


class JobFeed:
    """One job's events by `seq`; it ends when the job has."""

    def __init__(self, queue: UserQueue, job_id: str, *, after: int) -> None:
        self._queue = queue
        self._job_id = job_id
        self._seq = after
        self._may_have_ended = False

    @property
    def topic(self) -> str:
        """The subject's name in the hub."""
        return f"job:{self._job_id}"

    @property
    def position(self) -> int | None:
        """The `seq` of the last event told."""
        return self._seq

    async def start(self) -> Batch:
        """The first read.

        Raises:
            JobNotFound: No such job, or not the reader's.
        """
        return await self.read(thorough=True)

    async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
        """Events after the last one read.

        Raises:
            JobNotFound: The job was deleted, or is no longer the reader's.
        """
        batch = await self._read()
        if batch.lines or not (thorough or self._may_have_ended):
            return batch
        self._may_have_ended = False
        found = await self.check()
        if not found.more:
            return found
        batch = await self._read()
        # an ended job whose events are no longer kept will never bring the missing ones
        return batch if batch.lines else Batch(end=await self._end())

    async def _read(self) -> Batch:
        events = await self._queue.events_after(self._job_id, self._seq, limit=READ_LIMIT)
        return self._batch([_frame(event) for event in events])

    async def _end(self) -> str | None:
        job = await self._queue.get_job(self._job_id)
        return job.status if job.ended else None

    async def check(self) -> Batch:
        """The job's end if everything was sent, `more` if the log has grown.

        Raises:
            JobNotFound: The job was deleted, or is no longer the reader's.
        """
        # row level security shows a deleted job and a stranger's alike: as nothing
        job = await self._queue.get_job(self._job_id)
        if job.last_seq > self._seq:
            return Batch(more=True)
        return Batch(end=job.status if job.ended else None)

    def absorb(self, frames: Sequence[Frame]) -> Batch | None:
        """Events that came with the update, if they follow the last one without a gap."""
        seq = self._seq
        for frame in frames:
            told = _parse(frame)
            if told is None or told.job_id != self._job_id or told.seq != seq + 1:
                return None
            seq = told.seq
        return self._batch(frames)

    def _batch(self, frames: Sequence[Frame]) -> Batch:
        """The lines; the next read finds out whether a last one is the end for good."""
        if not frames:
            return Batch()
        told: list[_Told] = [frame.parsed for frame in frames]
        self._seq = told[-1].seq
        # a retry may have retried the job in the meantime, and then the stream continues
        self._may_have_ended = told[-1].line.type in _ENDS
        return Batch(
            [each.line for each in told],
            more=self._may_have_ended or len(told) == READ_LIMIT,
            frames=frames,
        )


class SharedFeed:
    """A feed whose frames are hints alone: its log is read, once for all who are at one place.

    Args:
        topic: The subject's name in the hub.
        reads: Shares what is read among its readers.
        circle: Readers with an equal one see the same events, and may share reads.
    """

    #: Its events have no numbers that a frame could continue.
    position: int | None = None

    def __init__(self, topic: str, *, reads: SharedReads, circle: str = "") -> None:
        self.topic = topic
        self._reads = reads
        self._circle = circle

    async def shared(
        self, place: Hashable, read: Callable[[], Awaitable[T]], since: float | None
    ) -> T:
        """What is read at a place: by another reader if that began at `since` or later."""
        if since is None or place is None:
            return await read()
        return await self._reads.get((self.topic, self._circle, place), read, since=since)

    def absorb(self, frames: Sequence[Frame]) -> Batch | None:
        """Nothing: the log is read instead."""
        return None


#: The cursor before everything that ever happened.
BEGINNING: Final = "1:1:"


class HistoryFeed(SharedFeed):
    """The events of many jobs, a workspace's or a session's; it never ends.

    Its cursors are the database's snapshots, so that each event comes exactly once, in any
    order transactions commit; per job in order of `seq`.

    Args:
        topic: The subject's name in the hub.
        read_after: Reads a page with the reader's own token.
        after: Where to begin; None for the subject's own beginning.
    """

    def __init__(
        self,
        topic: str,
        read_after: Callable[[str | None], Awaitable[FeedPage]],
        *,
        after: str | None,
        reads: SharedReads,
        circle: str = "",
    ) -> None:
        super().__init__(topic, reads=reads, circle=circle)
        self._read_after = read_after
        self._cursor = after

    async def page(self, *, since: float | None = None) -> FeedPage:
        """The events after the last ones read, as the database gives them.

        Raises:
            QueueError: 404, the subject is missing or not the reader's; 400 for the cursor.
        """
        cursor = self._cursor
        page = await self.shared(cursor, lambda: self._read_after(cursor), since)
        self._cursor = page.cursor
        return page

    async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
        """Events after the last ones read.

        Raises:
            QueueError: 404, the subject is gone or no longer the reader's.
        """
        before, page = self._cursor, await self.page(since=since)
        cursors = cursors_between(before, page)
        lines = [_line(event, cursor) for event, cursor in zip(page.events, cursors, strict=True)]
        if page.reset:
            lines.insert(0, Line(cursor=page.cursor, type="reset", data={"reason": "cursor"}))
        return Batch(lines, more=page.more, cursor=page.cursor)

    async def check(self) -> Batch:
        """Whether the reader may still read; the answer's content is read again.

        Raises:
            QueueError: 404, the subject is gone or no longer the reader's.
        """
        page = await self._read_after(self._cursor)
        return Batch(more=bool(page.events))


def cursors_between(before: str | None, page: FeedPage) -> list[str]:
    """A cursor after each event of a page, so that a stream cut anywhere repeats nothing."""
    parts = (before or BEGINNING).split("~")
    seen = parts[0]
    until = parts[1] if len(parts) > 1 else page.cursor.partition("~")[2].partition("~")[0]
    until = until or page.cursor
    inner = [
        f"{seen}~{until}~{place}~{event.job_id}~{event.seq}"
        for event, place in list(zip(page.events, page.places, strict=True))[:-1]
    ]
    return [*inner, page.cursor] if page.events else []


@dataclass(frozen=True)
class _Told:
    job_id: str
    seq: int
    line: Line


def _parse(frame: Frame) -> _Told | None:
    """The content of a frame, parsed once for all readers; None for one of another shape."""
    if frame.parsed is None and frame.content is not None:
        try:
            content = {**frame.content, "created_at": frame.content["at"]}
            frame.parsed = _told(JobEvent.model_validate(content))
        except (KeyError, ValidationError):
            return None
    told: _Told | None = frame.parsed
    return told


def _frame(event: JobEvent) -> Frame:
    """A frame of an event that was read from the log."""
    told = _told(event)
    return Frame(event.seq, size=len(told.line.encoded), parsed=told)


def _told(event: JobEvent) -> _Told:
    return _Told(event.job_id, event.seq, _line(event, str(event.seq)))


def _line(event: JobEvent, cursor: str) -> Line:
    return Line(
        cursor=cursor,
        type=event.type,
        data={
            "job_id": event.job_id,
            "seq": event.seq,
            "type": event.type,
            "data": event.data,
            "at": event.created_at,
        },
    )
