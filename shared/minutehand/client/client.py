"""Enqueue, read, steer and follow jobs from any code, over a supabase-py client.

What a caller may see and do is decided by the database, under the session of that client.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypedDict, TypeVar, Unpack

from minutehand.client.access import Access, BlockingCalls, TokenSource, bearer
from minutehand.client.follower import Timing
from minutehand.client.watch import DEFAULT_TIMING, FeedWatcher, JobWatcher
from minutehand.queue.client import UserQueue
from minutehand.queue.models import (
    BackoffOptions,
    Enqueued,
    EnqueuedBatch,
    EnqueueOptions,
    Explanation,
    Job,
    JobId,
    JobPage,
    NewJob,
    Status,
    UniqueOptions,
    WorkspaceId,
)
from supabase import AsyncClient
from supabase import Client as SupabaseClient

#: The schema `minutehand install` chooses by default.
INSTALLED: Final = "minutehand"

T = TypeVar("T")


class Options(TypedDict, total=False):
    """Everything about a new job but its type and payload; see `EnqueueOptions`."""

    queue: str
    priority: int
    scheduled_for: datetime
    delay_seconds: float
    max_attempts: int
    idempotency_key: str
    idempotency_ttl_seconds: float
    concurrency_key: str
    session_id: str
    parent_id: str
    deadline_at: datetime
    timeout_seconds: float
    backoff: BackoffOptions
    unique: UniqueOptions
    debounce_seconds: float
    traceparent: str
    schema_version: int
    tags: tuple[str, ...]


class JobFilter(TypedDict, total=False):
    """Which jobs a list shows, and where it continues; see `UserQueue.list_jobs`."""

    status: Sequence[Status]
    job_type: str
    queue: str
    session_id: str
    parent_id: str
    created_after: datetime
    created_before: datetime
    search: str
    id_prefix: str
    more: Mapping[str, Any]
    cursor: str
    limit: int


class Client:
    """Jobs through `supabase.AsyncClient`.

    Args:
        supabase: The client; sign it in, or give it a secret key where no user acts.
        schema: Where the install put what clients see.
        token: Whose token is sent instead of the session's: a JWT, or a function (async or not)
            that gives a valid one and is asked again shortly before each expires.

    Example:
        supabase = await acreate_client(url, key)
        await supabase.auth.sign_in_with_password({"email": email, "password": password})
        client = Client(supabase)

        job = (await client.enqueue("invoices.mail", {"n": 7}, workspace_id=workspace_id)).job
        async with client.watch_job(job.id) as watcher:
            async for event in watcher:  # ends when the job does
                print(event.seq, event.type, watcher.freshness)
        print(watcher.job.status, watcher.job.result)
    """

    def __init__(
        self, supabase: AsyncClient, *, schema: str = INSTALLED, token: TokenSource = None
    ) -> None:
        self._access = Access(supabase, schema=schema, token=token)

    async def enqueue(
        self,
        job_type: str,
        payload: Any = None,
        *,
        workspace_id: WorkspaceId | str,
        **options: Unpack[Options],
    ) -> Enqueued:
        """Add one job; with an idempotency key, or find the one that key made.

        Raises:
            QueueError: With word `workspace_not_found`, `unknown_job_type`, `payload_invalid`,
                `payload_too_large`, `invalid_argument`, `idempotency_conflict`,
                `quota_exceeded`.
            DuplicateJob: A unique job is there and `on_conflict` is `raise`.
            QueueUnavailable: No answer. Without an idempotency key the job may or may not exist.
        """
        queue = await self.queue()
        chosen = EnqueueOptions(**options)
        return await queue.enqueue(workspace_id, job_type, payload, options=chosen)

    async def enqueue_many(
        self, jobs: Sequence[NewJob], *, workspace_id: WorkspaceId | str
    ) -> EnqueuedBatch:
        """Add 1 to 1,000 jobs in one transaction, all or nothing.

        Raises:
            QueueError: As `enqueue`; `details` names the index of the job at fault.
        """
        return await (await self.queue()).enqueue_many(workspace_id, jobs)

    async def get_job(self, job_id: JobId | str) -> Job:
        """The job as it is now.

        Raises:
            JobNotFound: No such job, or not yours.
        """
        return await (await self.queue()).get_job(job_id)

    async def list_jobs(
        self, workspace_id: WorkspaceId | str | None = None, **which: Unpack[JobFilter]
    ) -> JobPage:
        """A page of jobs, newest first; continue with its `next_cursor`."""
        return await (await self.queue()).list_jobs(workspace_id, **which)

    async def explain(self, job_id: JobId | str) -> Explanation:
        """Why the job is not running, and when it will.

        Raises:
            JobNotFound: No such job, or not yours.
        """
        return await (await self.queue()).explain(job_id)

    async def cancel(self, job_id: JobId | str) -> Job:
        """Cancel a job in any live state; a running one stops within a heartbeat.

        Raises:
            JobNotFound: No such job, or not yours.
            InvalidState: It has ended; `present` says how.
        """
        return await (await self.queue()).cancel(job_id)

    async def retry(self, job_id: JobId | str, *, payload: Any = None) -> Job:
        """Run a failed or cancelled job again, with `payload` in place of its own where given.

        Raises:
            JobNotFound: No such job, or not yours.
            InvalidState: It has not failed; `present` says what it does.
        """
        return await (await self.queue()).retry(job_id, payload=payload)

    async def replay(
        self,
        job_id: JobId | str,
        *,
        from_step: str | None = None,
        payload: Any = None,
        results: Mapping[str, Any] | None = None,
    ) -> Enqueued:
        """Run a job again as a new one, from a finished step or from its start.

        The steps that finished before `from_step` are kept, with `results` in place of theirs;
        `payload` takes the place of the job's own.

        Raises:
            JobNotFound: No such job, or not yours.
            QueueError: As `enqueue`; `invalid_argument` where a step is not finished or not kept.
        """
        queue = await self.queue()
        return await queue.replay(job_id, from_step=from_step, payload=payload, results=results)

    async def edit(self, job_id: JobId | str, *, payload: Any) -> Job:
        """Change the payload of a scheduled or retrying job before it runs.

        Raises:
            JobNotFound: No such job, or not yours.
            InvalidState: It is in another state; `present` says which.
        """
        return await (await self.queue()).edit(job_id, payload=payload)

    async def answer(self, job_id: JobId | str, answer: Any) -> Job:
        """Answer the question a waiting job asks.

        Raises:
            JobNotFound: No such job, or not yours.
            InvalidState: It asks nothing; `present` says what it does.
        """
        return await (await self.queue()).answer(job_id, answer)

    async def queue(self) -> UserQueue:
        """Everything else members may call, under a token that is valid now."""
        return await self._access.user()

    def watch_job(
        self, job_id: JobId | str, *, after: int = 0, timing: Timing = DEFAULT_TIMING
    ) -> JobWatcher:
        """Follow one job until it ends: completed, failed or cancelled.

        Each watcher holds a socket of its own; for many jobs at once follow their workspace.

        Args:
            after: Only events with a `seq` above this, e.g. the last one of an earlier watch.
        """
        return JobWatcher(self._access, job_id, after=after, timing=timing)

    def watch_workspace(
        self,
        workspace_id: WorkspaceId | str,
        *,
        cursor: str | None = None,
        timing: Timing = DEFAULT_TIMING,
    ) -> FeedWatcher:
        """Follow the state changes of all jobs of a workspace, from now or a cursor on; never ends.

        Per job they come in order, but `seq` has holes: progress and logs do not travel here.
        """
        return FeedWatcher(
            self._access, "workspace", str(workspace_id), cursor=cursor, timing=timing
        )

    def watch_session(
        self, session_id: str, *, cursor: str | None = None, timing: Timing = DEFAULT_TIMING
    ) -> FeedWatcher:
        """Follow all jobs of a session, from its beginning or a cursor on; never ends.

        Every event but log lines, so `seq` has holes. A session without a job is waited for. A
        guest session needs no user, as its id is the key; the watch raises once it has ended.
        """
        return FeedWatcher(self._access, "session", session_id, cursor=cursor, timing=timing)


class SyncClient:
    """The same through the blocking `supabase.Client`, without following.

    Args:
        supabase: The client; sign it in, or give it a secret key where no user acts.
        schema: Where the install put what clients see.
        token: Whose token is sent instead of the session's.

    Example:
        client = SyncClient(create_client(url, key))
        enqueued = client.enqueue("invoices.mail", {"n": 7}, workspace_id=workspace_id)
    """

    def __init__(
        self, supabase: SupabaseClient, *, schema: str = INSTALLED, token: str | None = None
    ) -> None:
        self._queue = UserQueue(BlockingCalls(supabase, schema), bearer(token))

    def enqueue(
        self,
        job_type: str,
        payload: Any = None,
        *,
        workspace_id: WorkspaceId | str,
        **options: Unpack[Options],
    ) -> Enqueued:
        """As `Client.enqueue`."""
        chosen = EnqueueOptions(**options)
        return _done(self._queue.enqueue(workspace_id, job_type, payload, options=chosen))

    def enqueue_many(
        self, jobs: Sequence[NewJob], *, workspace_id: WorkspaceId | str
    ) -> EnqueuedBatch:
        """As `Client.enqueue_many`."""
        return _done(self._queue.enqueue_many(workspace_id, jobs))

    def get_job(self, job_id: JobId | str) -> Job:
        """As `Client.get_job`."""
        return _done(self._queue.get_job(job_id))

    def list_jobs(
        self, workspace_id: WorkspaceId | str | None = None, **which: Unpack[JobFilter]
    ) -> JobPage:
        """As `Client.list_jobs`."""
        return _done(self._queue.list_jobs(workspace_id, **which))

    def explain(self, job_id: JobId | str) -> Explanation:
        """As `Client.explain`."""
        return _done(self._queue.explain(job_id))

    def cancel(self, job_id: JobId | str) -> Job:
        """As `Client.cancel`."""
        return _done(self._queue.cancel(job_id))

    def retry(self, job_id: JobId | str, *, payload: Any = None) -> Job:
        """As `Client.retry`."""
        return _done(self._queue.retry(job_id, payload=payload))

    def replay(
        self,
        job_id: JobId | str,
        *,
        from_step: str | None = None,
        payload: Any = None,
        results: Mapping[str, Any] | None = None,
    ) -> Enqueued:
        """As `Client.replay`."""
        return _done(
            self._queue.replay(job_id, from_step=from_step, payload=payload, results=results)
        )

    def edit(self, job_id: JobId | str, *, payload: Any) -> Job:
        """As `Client.edit`."""
        return _done(self._queue.edit(job_id, payload=payload))

    def answer(self, job_id: JobId | str, answer: Any) -> Job:
        """As `Client.answer`."""
        return _done(self._queue.answer(job_id, answer))


def _done(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine over blocking calls, which is there without any loop."""
    try:
        call.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    call.close()
    raise RuntimeError("a blocking call suspended")
