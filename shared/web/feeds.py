"""The feeds behind event streams: one job's history, and the history of many.

Each reads under its reader's own token, so row level security decides what it tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from shared.queue.client import UserQueue
from shared.queue.models import JobEvent
from shared.web.errors import invalid_argument
from shared.web.hub import Frame
from shared.web.sse import Batch, Line

#: Events of one read; a stream far behind catches up in several.
READ_LIMIT: Final = 500
_ENDS: Final = frozenset({"job.completed", "job.failed", "job.cancelled"})


def seq_cursor(last_event_id: str | None, after: int | None) -> int:
    """Where a job's stream starts: `Last-Event-ID` if there is one, else `after`, else 0.

    Raises:
        ApiError: 400, the header is no cursor of a job's stream.
    """
    if last_event_id is None or not last_event_id.strip():
        return after or 0
    text = last_event_id.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise invalid_argument(
            "Last-Event-ID", "is not one this stream gave out", location="header"
        )
    return int(text)


class JobFeed:
    """One job's events by `seq`; it ends when the job has."""

    def __init__(self, queue: UserQueue, job_id: str, *, after: int) -> None:
        self._queue = queue
        self._job_id = job_id
        self._seq = after

    @property
    def topic(self) -> str:
        """The subject's name in the hub."""
        return f"job:{self._job_id}"

    async def start(self) -> Batch:
        """The first read.

        Raises:
            JobNotFound: No such job, or not the reader's.
        """
        job = await self._queue.get_job(self._job_id)
        if job.last_seq <= self._seq:
            return Batch(end=job.status if job.ended else None)
        return await self.read()

    async def read(self, *, thorough: bool = False) -> Batch:
        """Events after the last one read.

        Raises:
            JobNotFound: The job was deleted, or is no longer the reader's.
        """
        events = await self._queue.events_after(self._job_id, self._seq, limit=READ_LIMIT)
        if events:
            return await self._batch(events)
        if not thorough:
            return Batch()
        # row level security shows a deleted job and a stranger's alike: as nothing
        job = await self._queue.get_job(self._job_id)
        return Batch(end=job.status if job.ended and job.last_seq <= self._seq else None)

    def absorb(self, frames: Sequence[Frame]) -> Batch | None:
        """Events that came along with the news, if they follow on the last one without a gap."""
        events: list[JobEvent] = []
        seq = self._seq
        for frame in frames:
            event = _event(frame)
            if event is None or event.job_id != self._job_id or event.seq > seq + 1:
                return None
            if event.seq == seq + 1:
                seq = event.seq
                events.append(event)
        if any(event.type in _ENDS for event in events):
            return None  # whether it has ended for good is only known to the database
        self._seq = seq
        return Batch([_line(event, str(event.seq)) for event in events])

    async def _batch(self, events: Sequence[JobEvent]) -> Batch:
        self._seq = events[-1].seq
        lines = [_line(event, str(event.seq)) for event in events]
        if len(events) == READ_LIMIT:
            return Batch(lines, more=True)
        if events[-1].type not in _ENDS:
            return Batch(lines)
        # a retry may have revived it in the meantime; then the stream goes on
        job = await self._queue.get_job(self._job_id)
        return Batch(lines, end=job.status if job.ended and job.last_seq <= self._seq else None)


def _event(frame: Frame) -> JobEvent | None:
    """The event of a frame; None for a frame of another shape."""
    try:
        return JobEvent.model_validate({**frame, "created_at": frame["at"]})
    except (KeyError, ValidationError):
        return None


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
