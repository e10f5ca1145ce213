"""One workspace as its people steer it: pauses, schedules, webhooks, limits."""

from __future__ import annotations

from typing import Any, Literal

from minutehand.queue.client import UserQueue
from minutehand.queue.models import WorkspaceId

Missed = Literal["once", "skip", "all"]


class WorkspaceSteering:
    """One workspace under one user's token."""

    def __init__(self, queue: UserQueue, workspace_id: WorkspaceId | str) -> None:
        self._queue = queue
        self._workspace_id = str(workspace_id)

    async def call(self, function: str, **arguments: Any) -> dict[str, Any]:
        """Call one of the workspace's functions: of schedules, webhooks or limits."""
        return await self._queue.call(function, workspace_id=self._workspace_id, **arguments)

    async def pause(
        self, paused: bool, *, job_type: str | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        """Let no job of the workspace, or none of a type, start; or let them start again."""
        request = {
            "kind": "workspace" if job_type is None else "workspace_type",
            "name": job_type or self._workspace_id,
            "workspace_id": self._workspace_id,
            "paused": paused,
            "reason": reason,
        }
        await self._queue.call("pause_jobs", request=request)
        return {"workspace_id": self._workspace_id, "job_type": job_type, "paused": paused}
