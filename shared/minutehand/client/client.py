"""Enqueue, read, steer and follow jobs from any code, for the user of a supabase-py client.

What a caller may see and do is decided by the database; what a call does and raises is said by
`UserQueue`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypedDict, TypeVar, Unpack

from minutehand.client.access import Access, TokenSource
from minutehand.client.follow import Timing
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
        self,
        supabase: AsyncClient | SupabaseClient,
        *,
        schema: str = INSTALLED,
        token: TokenSource = None,
    ) -> None:
        self._access = Access(supabase, schema=schema, token=token)

    async def aclose(self) -> None:
        """Close the connections; watches close their own."""
        await self._access.aclose()

    async def queue(self) -> UserQueue:
        """Everything members may call, under a token that is valid now."""
        return await self._access.user()

    async def enqueue(
        self,
        job_type: str,
        payload: Any = None,
        *,
        workspace_id: WorkspaceId | str,
        **options: Unpack[Options],
    ) -> Enqueued:
        """Add one job; with an idempotency key, or find the one that key made."""
        chosen = EnqueueOptions(**options)
        return await (await self.queue()).enqueue(workspace_id, job_type, payload, options=chosen)

    async def enqueue_many(
        self, jobs: Sequence[NewJob], *, workspace_id: WorkspaceId | str
    ) -> EnqueuedBatch:
        """Add up to 1,000 jobs in one transaction, all or nothing."""
        return await (await self.queue()).enqueue_many(workspace_id, jobs)

    async def get_job(self, job_id: JobId | str) -> Job:
        """The job as it is now."""
        return await (await self.queue()).get_job(job_id)

    async def list_jobs(
        self, workspace_id: WorkspaceId | str | None = None, **which: Unpack[JobFilter]
    ) -> JobPage:
        """A page of jobs, newest first; continue with its `next_cursor`."""
        return await (await self.queue()).list_jobs(workspace_id, **which)

    async def explain(self, job_id: JobId | str) -> Explanation:
        """Why the job is not running, and when it will."""
        return await (await self.queue()).explain(job_id)

    async def cancel(self, job_id: JobId | str) -> Job:
        """Cancel a job in any live state; a running one stops within a heartbeat."""
        return await (await self.queue()).cancel(job_id)

    async def retry(self, job_id: JobId | str, *, payload: Any = None) -> Job:
        """Run a failed or cancelled job again, with `payload` in place of its own where given."""
        return await (await self.queue()).retry(job_id, payload=payload)

    async def replay(
        self, job_id: JobId | str, *, from_step: str | None = None, payload: Any = None
    ) -> Enqueued:
        """Run a job again as a new one, from a finished step or from its start."""
        queue = await self.queue()
        return await queue.replay(job_id, from_step=from_step, payload=payload)

    async def answer(self, job_id: JobId | str, answer: Any) -> Job:
        """Answer the question a waiting job asks."""
        return await (await self.queue()).answer(job_id, answer)

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
        subject = str(workspace_id)
        return FeedWatcher(self._access, "workspace", subject, cursor=cursor, timing=timing)

    def watch_session(
        self, session_id: str, *, cursor: str | None = None, timing: Timing = DEFAULT_TIMING
    ) -> FeedWatcher:
        """Follow all jobs of a session, from its beginning or a cursor on; never ends.

        Every event but log lines, so `seq` has holes. A session without a job is waited for. A
        guest session needs no user, as its id is the key; the watch raises once it has ended.
        """
        return FeedWatcher(self._access, "session", session_id, cursor=cursor, timing=timing)


class SyncClient:
    """`Client` through the blocking `supabase.Client`, without following; for any thread.

    Example:
        client = SyncClient(create_client(url, key))
        enqueued = client.enqueue("invoices.mail", {"n": 7}, workspace_id=workspace_id)
    """

    def __init__(
        self, supabase: SupabaseClient, *, schema: str = INSTALLED, token: str | None = None
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = self._run(self._make(supabase, schema, token))

    @staticmethod
    async def _make(supabase: SupabaseClient, schema: str, token: str | None) -> Client:
        return Client(supabase, schema=schema, token=token)

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def close(self) -> None:
        """Close the connections."""
        self._run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def enqueue(
        self,
        job_type: str,
        payload: Any = None,
        *,
        workspace_id: WorkspaceId | str,
        **options: Unpack[Options],
    ) -> Enqueued:
        """As `Client.enqueue`."""
        return self._run(
            self._client.enqueue(job_type, payload, workspace_id=workspace_id, **options)
        )

    def enqueue_many(
        self, jobs: Sequence[NewJob], *, workspace_id: WorkspaceId | str
    ) -> EnqueuedBatch:
        """As `Client.enqueue_many`."""
        return self._run(self._client.enqueue_many(jobs, workspace_id=workspace_id))

    def get_job(self, job_id: JobId | str) -> Job:
        """As `Client.get_job`."""
        return self._run(self._client.get_job(job_id))

    def list_jobs(
        self, workspace_id: WorkspaceId | str | None = None, **which: Unpack[JobFilter]
    ) -> JobPage:
        """As `Client.list_jobs`."""
        return self._run(self._client.list_jobs(workspace_id, **which))

    def explain(self, job_id: JobId | str) -> Explanation:
        """As `Client.explain`."""
        return self._run(self._client.explain(job_id))

    def cancel(self, job_id: JobId | str) -> Job:
        """As `Client.cancel`."""
        return self._run(self._client.cancel(job_id))

    def retry(self, job_id: JobId | str, *, payload: Any = None) -> Job:
        """As `Client.retry`."""
        return self._run(self._client.retry(job_id, payload=payload))

    def answer(self, job_id: JobId | str, answer: Any) -> Job:
        """As `Client.answer`."""
        return self._run(self._client.answer(job_id, answer))
