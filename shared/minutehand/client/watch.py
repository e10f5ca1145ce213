"""What is read of a job, a workspace or a session, and what a message of theirs means."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal

from minutehand.client.access import Access
from minutehand.client.follower import Timing, Watcher
from minutehand.client.sequence import EventSequence, apply_event
from minutehand.queue.client import UserQueue
from minutehand.queue.errors import QueueError
from minutehand.queue.keys import is_guest_session
from minutehand.queue.models import ENDED, FeedPage, Job, JobEvent, JobId

_PAGE: Final = 500
DEFAULT_TIMING: Final = Timing()
#: Jobs of a feed whose last event is remembered, to recognise late messages.
_MOST_JOBS: Final = 10_000
#: Between two reads of a feed that messages ask for.
_FEED_SECONDS: Final = 0.05


class JobWatcher(Watcher):
    """Every event of one job; made by `Client.watch_job`.

    Attributes:
        job: The job as far as it is known; the whole row once the watch has ended on its own.
    """

    def __init__(
        self,
        access: Access,
        job_id: JobId | str,
        *,
        after: int = 0,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        super().__init__(f"job:{job_id}", access, timing)
        self.job: Job | None = None
        self._job_id = str(job_id)
        self._after = after
        self._sequence = EventSequence(after)

    @property
    def last_seq(self) -> int:
        """The `seq` up to which events are here; pass it as `after` to continue later."""
        return self._sequence.last

    async def ended(self) -> Job:
        """Wait for any end and return the job's row, without handing out events.

        Raises:
            JobNotFound: It was deleted, or was never yours to see.
        """
        async for _ in self:
            continue
        if self.job is None or self.job.status not in ENDED:
            raise QueueError(f"the watch on job {self._job_id} was closed before the job ended")
        return self.job

    @property
    def _has_gap(self) -> bool:
        return self._sequence.has_gap

    @property
    def _is_numbered(self) -> bool:
        return True

    def _receive(self, event: JobEvent) -> None:
        if event.job_id == self._job_id:
            self._take(self._sequence.offer([event]))

    async def _catch_up(self, queue: UserQueue) -> None:
        row = await queue.get_job(self._job_id)
        if self.job is None or row.last_seq >= self.job.last_seq:
            self.job = row
        while self._sequence.last < row.last_seq or self._sequence.has_gap:
            page = await queue.events_after(self._job_id, self._sequence.last, limit=_PAGE)
            self._take(self._sequence.offer_page(page, is_last=len(page) < _PAGE))
            if len(page) < _PAGE:
                break
            await self._room.wait()
        # the row decides, not an event: a dead letter of the past may be running again
        if row.status in ENDED and self._sequence.last <= max(row.last_seq, self._after):
            self._finish()

    def _take(self, events: list[JobEvent]) -> None:
        self._tell(events)
        for event in events:
            if self.job is None or event.seq <= self.job.last_seq:
                continue
            self.job = apply_event(self.job, event)
            if self.job.status in ENDED:
                self._read_within()


class FeedWatcher(Watcher):
    """The events of many jobs, by the database's own durable cursor; messages say when to read.

    Attributes:
        cursor: Where to continue later; None before the first read.
        resets: How often the cursor was of another database, so that events were missed and what
            is shown had better be read again.
    """

    def __init__(
        self,
        access: Access,
        kind: Literal["workspace", "session"],
        subject: str,
        *,
        cursor: str | None = None,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        super().__init__(f"{kind}:{subject}", access, timing)
        self.cursor = cursor
        self.resets = 0
        self._kind = kind
        self._subject = str(subject)
        self._last: OrderedDict[str, int] = OrderedDict()
        self._announced = False

    @property
    def _has_gap(self) -> bool:
        return self._announced

    def _receive(self, event: JobEvent) -> None:
        if event.seq > self._last.get(event.job_id, 0):
            self._announced = True
            self._read_within(max(0.0, self._last_read + _FEED_SECONDS - self._now()))

    async def _catch_up(self, queue: UserQueue) -> None:
        self._announced = False  # what is announced from here on may be too late for this read
        while True:
            page = await self._page(queue)
            if page is None:
                return
            self.cursor = page.cursor
            self.resets += page.reset
            self._tell(page.events)
            for event in page.events:
                self._last[event.job_id] = event.seq
                self._last.move_to_end(event.job_id)
            while len(self._last) > _MOST_JOBS:
                self._last.popitem(last=False)
            if not page.more:
                return
            await self._room.wait()

    async def _page(self, queue: UserQueue) -> FeedPage | None:
        if self._kind == "workspace":
            return await queue.workspace_feed(self._subject, self.cursor, limit=_PAGE)
        try:
            page = await queue.session_feed(self._subject, self.cursor, limit=_PAGE)
        except QueueError as error:
            awaited = self.cursor is None and not is_guest_session(self._subject)
            if error.word == "session_not_found" and awaited:
                return None
            raise
        if self.cursor is None:
            self._topic.hurry()  # no one may join the topic of a session that does not exist yet
        return page
