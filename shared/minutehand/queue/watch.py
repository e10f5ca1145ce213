"""Follow jobs from Python: nothing missed, nothing twice; the twin of the browser's jobs.js.

A watch joins the private Realtime topic, reads what is in the database after that, and merges both
by `seq`. It reads again when it sees a gap, joins again after any close, reads after 30 s of
silence, pushes fresh tokens to the socket, and polls when Realtime is away or refuses the topic.
`watcher.freshness` says which of these it does: `live`, `catching-up`, `polling` or `offline`, and
`live` only when it is.

Example:
    async with watch_job(
        job_id, supabase_url=url, key=publishable_key, token=fresh_token
    ) as watcher:
        async for event in watcher:  # ends when the job does
            print(event.seq, event.type, watcher.freshness)
        print(watcher.job.status, watcher.job.result)
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from minutehand.queue.client import UserQueue
from minutehand.queue.errors import QueueError
from minutehand.queue.follower import Freshness, Timing, Watcher
from minutehand.queue.keys import is_visit
from minutehand.queue.models import ENDED, FeedPage, Job, JobEvent, JobId, WorkspaceId
from minutehand.queue.sequence import EventSequence, apply_event
from minutehand.queue.topic import TokenSource

__all__ = [
    "FeedWatcher",
    "Freshness",
    "JobWatcher",
    "Timing",
    "TokenSource",
    "Watcher",
    "watch_job",
    "watch_session",
    "watch_workspace",
]

_PAGE: Final = 500
_DEFAULT_TIMING: Final = Timing()
#: Jobs of a feed whose last event is remembered, to know a late message from news.
_MOST_JOBS: Final = 10_000
#: Between two reads of a feed that messages ask for.
_FEED_SECONDS: Final = 0.05


def watch_job(
    job_id: JobId | str,
    *,
    supabase_url: str,
    key: str,
    token: TokenSource = None,
    after: int = 0,
    timing: Timing = _DEFAULT_TIMING,
) -> JobWatcher:
    """Follow one job until it ends: completed, failed or cancelled.

    Each watcher holds a socket of its own; for many jobs at once follow their workspace.

    Args:
        key: The project's publishable key.
        token: The user's JWT, or a function (async or not) that gives a valid one; it is asked
            shortly before each expires. Nobody's when left out.
        after: Only events with a `seq` above this, e.g. the last one a former watch handed out.
    """
    return JobWatcher(job_id, after, supabase_url=supabase_url, key=key, token=token, timing=timing)


def watch_workspace(
    workspace_id: WorkspaceId | str,
    *,
    supabase_url: str,
    key: str,
    token: TokenSource = None,
    cursor: str | None = None,
    timing: Timing = _DEFAULT_TIMING,
) -> FeedWatcher:
    """Follow the state changes of all jobs of a workspace, from now or a cursor on; never ends.

    Per job they come in order, but `seq` has holes: progress and logs do not travel here.
    """
    return FeedWatcher(
        "workspace",
        workspace_id,
        cursor,
        supabase_url=supabase_url,
        key=key,
        token=token,
        timing=timing,
    )


def watch_session(
    session_id: str,
    *,
    supabase_url: str,
    key: str,
    token: TokenSource = None,
    cursor: str | None = None,
    timing: Timing = _DEFAULT_TIMING,
) -> FeedWatcher:
    """Follow all jobs of a session, from its beginning or a cursor on; never ends.

    Every event but log lines, so `seq` has holes. A session without a job is waited for. A visit
    needs no token, as its id is the key; the watch raises once it has ended or was closed.
    """
    return FeedWatcher(
        "session",
        session_id,
        cursor,
        supabase_url=supabase_url,
        key=key,
        token=token,
        timing=timing,
    )


class JobWatcher(Watcher):
    """Every event of one job; made by `watch_job`.

    Attributes:
        job: The job as far as it is known; the whole row once the watch has ended by itself.
    """

    def __init__(
        self,
        job_id: JobId | str,
        after: int,
        *,
        supabase_url: str,
        key: str,
        token: TokenSource,
        timing: Timing,
    ) -> None:
        super().__init__(
            f"job:{job_id}", supabase_url=supabase_url, key=key, token=token, timing=timing
        )
        self.job: Job | None = None
        self._job_id = str(job_id)
        self._after = after
        self._sequence = EventSequence(after)

    @property
    def last_seq(self) -> int:
        """The `seq` up to which events are here; pass it as `after` to go on later."""
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

    def _receive(self, event: JobEvent) -> None:
        if event.job_id == self._job_id:
            self._take(self._sequence.offer([event]))

    async def _catch_up(self, queue: UserQueue) -> None:
        row = await queue.get_job(self._job_id)
        if self.job is None or row.last_seq >= self.job.last_seq:
            self.job = row
        while True:
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
        cursor: Where to go on later; None before the first read.
        resets: How often the cursor was of another database, so that events were missed and what
            is shown had better be read anew.
    """

    def __init__(
        self,
        kind: str,
        subject: str,
        cursor: str | None,
        *,
        supabase_url: str,
        key: str,
        token: TokenSource,
        timing: Timing,
    ) -> None:
        super().__init__(
            f"{kind}:{subject}", supabase_url=supabase_url, key=key, token=token, timing=timing
        )
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
            awaited = self.cursor is None and not is_visit(self._subject)
            if error.word == "session_not_found" and awaited:
                return None
            raise
        if self.cursor is None:
            self._topic.hurry()  # nobody may join the topic of a session that does not exist yet
        return page
