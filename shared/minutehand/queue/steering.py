"""What a workspace's people steer besides single jobs: pauses, schedules, webhooks, limits."""

from __future__ import annotations

from collections.abc import Mapping
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

    async def schedules(self) -> list[dict[str, Any]]:
        """The schedules by name."""
        return list((await self._call("list_schedules"))["schedules"])

    async def put_schedule(self, schedule: Mapping[str, Any]) -> dict[str, Any]:
        """Make the schedule of that name, or change it."""
        return await self._call("put_schedule", schedule=schedule)

    async def delete_schedule(self, name: str) -> None:
        """Remove a schedule; jobs it made stay."""
        await self._call("delete_schedule", repeatable=False, name=name)

    async def next_runs(self, schedule: Mapping[str, Any], *, count: int = 5) -> dict[str, Any]:
        """When `{name}` or `{cron, timezone}` will run."""
        return await self._call("next_runs", schedule=schedule, count=count)

    async def webhooks(self) -> list[dict[str, Any]]:
        """The webhooks, the oldest first."""
        return list((await self._call("list_webhooks"))["webhooks"])

    async def get_webhook(self, webhook_id: str) -> dict[str, Any]:
        """One webhook."""
        for webhook in await self.webhooks():
            if webhook["id"] == webhook_id:
                return webhook
        raise QueueError("no such webhook", code="PT404", hint="webhook_not_found", status=404)

    async def create_webhook(self, webhook: Mapping[str, Any]) -> dict[str, Any]:
        """Make a webhook with its sealed secret."""
        return await self._call("put_webhook", repeatable=False, webhook=webhook)

    async def change_webhook(self, webhook_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change what `changes` names."""
        return await self._call("put_webhook", webhook={**changes, "id": webhook_id})

    async def rotate_secret(self, webhook_id: str, sealed_secret: str) -> dict[str, Any]:
        """Give a webhook a new secret; the old one signs too for a day."""
        return await self.create_webhook({"id": webhook_id, "sealed_secret": sealed_secret})

    async def delete_webhook(self, webhook_id: str) -> None:
        """Remove a webhook; deliveries not yet sent are dropped."""
        await self._call("delete_webhook", repeatable=False, webhook_id=webhook_id)

    async def deliveries(
        self, webhook_id: str, *, cursor: str | None = None, limit: int = 50
    ) -> dict[str, Any]:
        """A page of a webhook's deliveries, newest first; each is a job like any other."""
        at = Cursor.decode(cursor) if cursor is not None else None
        await self.get_webhook(webhook_id)
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

    async def limits(self) -> dict[str, Any]:
        """The limits and their use."""
        return await self._call("workspace_limits")

    async def set_limits(self, limits: Mapping[str, Any]) -> dict[str, Any]:
        """Change what `limits` names; null lifts a limit."""
        await self._call("set_workspace_limits", limits=limits)
        return await self.limits()

    async def _call(self, function: str, **arguments: Any) -> dict[str, Any]:
        return await self._queue.call(function, workspace_id=self._workspace_id, **arguments)
