"""The feeds behind event streams: one job's history, and the history of many.

Each reads under its reader's own token, so row level security decides what it tells.
"""

from __future__ import annotations

import time
from typing import Final

from shared.queue.client import UserQueue
from shared.queue.models import JobEvent
from shared.web.errors import invalid_argument
from shared.web.sse import Batch, Line

#: Events of one read; a stream far behind catches up in several.
READ_LIMIT: Final = 500
_ENDS: Final = {
    "job.completed": "completed",
    "job.failed": "failed",
    "job.cancelled": "cancelled",
}
#: Seconds between checks whether a job that says nothing still exists.
EXISTENCE_EVERY: Final = 5.0


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
        self._seen_at = time.monotonic()
        self._ended: str | None = None

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
        if job.ended and job.last_seq <= self._seq:
            return Batch(end=job.status)
        return await self.read()

    async def read(self) -> Batch:
        """Events after the last one read.

        Raises:
            JobNotFound: The job was deleted, or is no longer the reader's.
        """
        events = await self._queue.events_after(self._job_id, self._seq, limit=READ_LIMIT)
        now = time.monotonic()
        if events:
            self._seq = events[-1].seq
            self._seen_at = now
            lines = [_line(event, str(event.seq)) for event in events]
            end = _ENDS.get(events[-1].type)
            if end is not None and len(events) < READ_LIMIT:
                # a retry may have revived it in the meantime; then the stream goes on
                job = await self._queue.get_job(self._job_id)
                end = job.status if job.ended and job.last_seq <= self._seq else None
            return Batch(lines, end=end)
        if now - self._seen_at >= EXISTENCE_EVERY:
            # row level security shows a deleted job and a stranger's alike: as nothing
            job = await self._queue.get_job(self._job_id)
            self._seen_at = now
            if job.ended and job.last_seq <= self._seq:
                return Batch(end=job.status)
        return Batch()


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
