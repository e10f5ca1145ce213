"""Enqueue, read, steer and follow jobs from any code, for the user of a supabase-py client."""

from __future__ import annotations

from typing import Self

from minutehand.client.access import Access, TokenSource
from minutehand.client.watch import FeedWatcher, JobWatcher
from minutehand.queue.client import UserQueue
from minutehand.queue.models import JobId, WorkspaceId
from supabase import AsyncClient


class Client(UserQueue):
    """Jobs through `supabase.AsyncClient`; keep one open per process."""

    def __init__(
        self, supabase: AsyncClient, *, schema: str = "minutehand", token: TokenSource = None
    ) -> None:
        access = Access(supabase, schema=schema, token=token)
        super().__init__(access.api, {"apikey": access.key}, signed=access.headers)
        self._access = access

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; watches close their own."""
        await self._access.api.aclose()

    def watch_job(self, job_id: JobId | str, *, after: int = 0) -> JobWatcher:
        """Follow one job until it ends: completed, failed or cancelled."""
        return JobWatcher(self._access, job_id, after=after)

    def watch_workspace(
        self, workspace_id: WorkspaceId | str, *, cursor: str | None = None
    ) -> FeedWatcher:
        """Follow the state changes of a workspace's jobs, from now or a cursor on; never ends."""
        return FeedWatcher(self._access, "workspace", str(workspace_id), cursor=cursor)

    def watch_session(self, session_id: str, *, cursor: str | None = None) -> FeedWatcher:
        """Follow all jobs of a session, from its beginning or a cursor on; never ends."""
        return FeedWatcher(self._access, "session", session_id, cursor=cursor)
