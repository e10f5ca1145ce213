"""One workspace as its people steer it: pauses, schedules, webhooks, limits."""

from __future__ import annotations

from typing import Any, Final, Literal

from minutehand.queue.client import JOB_COLUMNS, UserQueue
from minutehand.queue.errors import QueueError
from minutehand.queue.models import Cursor, Job, WorkspaceId

#: The engine's own job type that carries an event to an endpoint; its key is the webhook's id.
WEBHOOK_DELIVERY: Final = "webhook_delivery"

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

    async def deliveries(
        self, webhook_id: str, *, cursor: str | None = None, limit: int = 50
    ) -> dict[str, Any]:
        """A page of a webhook's deliveries, newest first; each is a job like any other."""
        at = Cursor.decode(cursor) if cursor is not None else None
        webhooks = (await self.call("list_webhooks"))["webhooks"]
        if not any(webhook["id"] == webhook_id for webhook in webhooks):
            raise QueueError("no such webhook", code="PT404", hint="webhook_not_found", status=404)
        params = [
            ("select", JOB_COLUMNS),
            ("workspace_id", f"eq.{self._workspace_id}"),
            ("job_type", f"eq.{WEBHOOK_DELIVERY}"),
            ("concurrency_key", f"eq.{webhook_id}"),
            ("order", "created_at.desc,id.desc"),
            ("limit", str(limit + 1)),
        ]
        if at is not None:
            earlier = f'created_at.lt."{at.created_at}"'
            params.append(("or", f'({earlier},and(created_at.eq."{at.created_at}",id.lt.{at.id}))'))
        rows = await self._queue.select("jobs", *params)
        last = rows[limit - 1] if len(rows) > limit else None
        return {
            "jobs": [Job.model_validate(row) for row in rows[:limit]],
            "next_cursor": last and Cursor(created_at=last["created_at"], id=last["id"]).encode(),
        }
