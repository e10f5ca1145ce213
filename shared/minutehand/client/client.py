"""Enqueue, read, steer and follow jobs from any code, for the user of a supabase-py client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

from minutehand.client.access import Access, TokenSource
from minutehand.client.follow import Timing
from minutehand.client.watch import DEFAULT_TIMING, FeedWatcher, JobWatcher
from minutehand.queue.client import JobCalls, UserQueue
from minutehand.queue.models import (
    Enqueued,
    EnqueuedBatch,
    EnqueueOptions,
    JobId,
    NewJob,
    WorkspaceId,
)
from supabase import AsyncClient

#: The schema `minutehand install` chooses by default.
INSTALLED: Final = "minutehand"


class Client(JobCalls):
    """Jobs through `supabase.AsyncClient`; keep one open per process."""

    def __init__(
        self,
        supabase: AsyncClient,
        *,
        schema: str = INSTALLED,
        token: TokenSource = None,
    ) -> None:
        self._access = Access(supabase, schema=schema, token=token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

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
        **options: Any,
    ) -> Enqueued:
        """Add one job; with an idempotency key, or find the one that key made."""
        chosen = EnqueueOptions(**options)
        return await (await self.queue()).enqueue(workspace_id, job_type, payload, options=chosen)

    async def enqueue_many(
        self, jobs: Sequence[NewJob], *, workspace_id: WorkspaceId | str
    ) -> EnqueuedBatch:
        """Add up to 1,000 jobs in one transaction, all or nothing."""
        return await (await self.queue()).enqueue_many(workspace_id, jobs)

    def watch_job(
        self, job_id: JobId | str, *, after: int = 0, timing: Timing = DEFAULT_TIMING
    ) -> JobWatcher:
        """Follow one job until it ends: completed, failed or cancelled."""
        return JobWatcher(self._access, job_id, after=after, timing=timing)

    def watch_workspace(
        self,
        workspace_id: WorkspaceId | str,
        *,
        cursor: str | None = None,
        timing: Timing = DEFAULT_TIMING,
    ) -> FeedWatcher:
        """Follow the state changes of a workspace's jobs, from now or a cursor on; never ends."""
        subject = str(workspace_id)
        return FeedWatcher(self._access, "workspace", subject, cursor=cursor, timing=timing)

    def watch_session(
        self, session_id: str, *, cursor: str | None = None, timing: Timing = DEFAULT_TIMING
    ) -> FeedWatcher:
        """Follow all jobs of a session, from its beginning or a cursor on; never ends."""
        return FeedWatcher(self._access, "session", session_id, cursor=cursor, timing=timing)

    async def select(self, table: str, params: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """As `JobCalls.select`."""
        return await (await self.queue()).select(table, params)

    async def _call(self, function: str, /, *, repeatable: bool = True, **arguments: Any) -> Any:
        return await (await self.queue())._call(function, repeatable=repeatable, **arguments)
