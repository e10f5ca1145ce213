"""What a workspace's people steer besides single jobs: pauses, schedules, webhooks, limits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field

from minutehand.queue.client import JOB_COLUMNS, UserQueue
from minutehand.queue.errors import QueueError
from minutehand.queue.models import Cursor, Job, JobId, Model, Report, WorkspaceId

#: The engine's own job type that carries an event to an endpoint; its key is the webhook's id.
WEBHOOK_DELIVERY: Final = "webhook_delivery"

Missed = Literal["once", "skip", "all"]


class Pause(Model):
    """Whether jobs of a workspace, or its jobs of one type, may start."""

    workspace_id: WorkspaceId
    job_type: str | None = None
    paused: bool


class Schedule(Model):
    """Jobs that the clock enqueues; `next_at` is the next run, while it is switched on."""

    id: str
    workspace_id: WorkspaceId
    workspace_name: str | None = None
    name: str
    cron: str
    timezone: str
    job_type: str
    payload: Any = None
    options: dict[str, Any] = Field(default_factory=dict)
    missed: Missed = "once"
    enabled: bool = True
    next_at: datetime | None = None
    last_slot_at: datetime | None = None
    last_job_id: JobId | None = None
    problem: str | None = None
    created_by: str | None = None
    created_at: datetime
    updated_at: datetime


class NextRuns(Model):
    """When a cron expression comes due, the soonest first."""

    cron: str
    timezone: str
    runs: tuple[datetime, ...]


class DeliveryPage(Model):
    """A page of deliveries, newest first: jobs whose small payload names the job and its event."""

    jobs: tuple[Job, ...]
    next_cursor: str | None = None


class Webhook(Model):
    """An endpoint that receives job events; null lists mean all."""

    id: str
    workspace_id: WorkspaceId
    workspace_name: str | None = None
    url: str
    description: str | None = None
    event_types: tuple[str, ...] | None = None
    job_types: tuple[str, ...] | None = None
    enabled: bool = True
    failures: int = 0
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    last_delivered_at: datetime | None = None
    last_status: int | None = None
    problem: str | None = None
    rotated_at: datetime | None = None
    created_by: str | None = None
    created_at: datetime


class WebhookWithSecret(Webhook):
    """A webhook in the one answer that shows its signing secret."""

    secret: str


class WorkspaceLimits(Report):
    """How much of the whole a workspace may use, and how many of its jobs run now."""

    workspace_id: WorkspaceId
    weight: float
    max_running: int | None = None
    own_max_running: int | None = None
    max_pending: int | None = None
    running: int


class WorkspaceSteering:
    """One workspace under one user's token."""

    def __init__(self, queue: UserQueue, workspace_id: WorkspaceId | str) -> None:
        self._queue = queue
        self._workspace_id = str(workspace_id)

    async def pause(
        self, paused: bool, *, job_type: str | None = None, reason: str | None = None
    ) -> Pause:
        """Let no job of the workspace, or none of a type, start; or let them start again."""
        request = {
            "kind": "workspace" if job_type is None else "workspace_type",
            "name": job_type or self._workspace_id,
            "workspace_id": self._workspace_id,
            "paused": paused,
            "reason": reason,
        }
        await self._queue._call("pause_jobs", request=request)
        return Pause(workspace_id=WorkspaceId(self._workspace_id), job_type=job_type, paused=paused)

    async def schedules(self) -> tuple[Schedule, ...]:
        """The schedules by name."""
        found = await self._call("list_schedules")
        return tuple(Schedule.model_validate(one) for one in found["schedules"])

    async def put_schedule(self, schedule: Mapping[str, Any]) -> Schedule:
        """Make the schedule of that name, or change it."""
        return Schedule.model_validate(await self._call("put_schedule", schedule=dict(schedule)))

    async def delete_schedule(self, name: str) -> None:
        """Remove a schedule; jobs it made stay."""
        await self._call("delete_schedule", repeatable=False, name=name)

    async def next_runs(self, schedule: Mapping[str, Any], *, count: int = 5) -> NextRuns:
        """When `{name}` or `{cron, timezone}` will run."""
        found = await self._call("next_runs", schedule=dict(schedule), count=count)
        return NextRuns.model_validate(found)

    async def webhooks(self) -> tuple[Webhook, ...]:
        """The webhooks, the oldest first."""
        found = await self._call("list_webhooks")
        return tuple(Webhook.model_validate(one) for one in found["webhooks"])

    async def get_webhook(self, webhook_id: str) -> Webhook:
        """One webhook."""
        for webhook in await self.webhooks():
            if webhook.id == webhook_id:
                return webhook
        raise QueueError("no such webhook", code="PT404", hint="webhook_not_found", status=404)

    async def create_webhook(self, webhook: Mapping[str, Any]) -> Webhook:
        """Make a webhook with its sealed secret."""
        made = await self._call("put_webhook", repeatable=False, webhook=dict(webhook))
        return Webhook.model_validate(made)

    async def change_webhook(self, webhook_id: str, changes: Mapping[str, Any]) -> Webhook:
        """Change what `changes` names."""
        made = await self._call("put_webhook", webhook={**changes, "id": webhook_id})
        return Webhook.model_validate(made)

    async def rotate_secret(self, webhook_id: str, sealed_secret: str) -> Webhook:
        """Give a webhook a new secret; the old one signs too for a day."""
        return await self.create_webhook({"id": webhook_id, "sealed_secret": sealed_secret})

    async def delete_webhook(self, webhook_id: str) -> None:
        """Remove a webhook; deliveries not yet sent are dropped."""
        await self._call("delete_webhook", repeatable=False, webhook_id=webhook_id)

    async def deliveries(
        self, webhook_id: str, *, cursor: str | None = None, limit: int = 50
    ) -> DeliveryPage:
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
        rows = await self._queue.select("jobs", params)
        last = rows[limit - 1] if len(rows) > limit else None
        return DeliveryPage(
            jobs=tuple(Job.model_validate(row) for row in rows[:limit]),
            next_cursor=last and Cursor(created_at=last["created_at"], id=last["id"]).encode(),
        )

    async def limits(self) -> WorkspaceLimits:
        """The limits and their use."""
        return WorkspaceLimits.model_validate(await self._call("workspace_limits"))

    async def set_limits(self, limits: Mapping[str, Any]) -> WorkspaceLimits:
        """Change what `limits` names; null lifts a limit."""
        await self._call("set_workspace_limits", limits=dict(limits))
        return await self.limits()

    async def _call(self, function: str, *, repeatable: bool = True, **arguments: Any) -> Any:
        return await self._queue._call(
            function, repeatable=repeatable, workspace_id=self._workspace_id, **arguments
        )
