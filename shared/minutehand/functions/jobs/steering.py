"""Routes by which people steer a workspace: pauses, schedules, webhooks and limits.

Each is one call of the queue under the caller's token; what managers alone may do is decided there.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import AfterValidator, Field

from minutehand.functions.jobs.models import Body, Whole
from minutehand.queue.steering import (
    DeliveryPage,
    Missed,
    NextRuns,
    Pause,
    Schedule,
    Webhook,
    WebhookWithSecret,
    WorkspaceLimits,
    WorkspaceSteering,
)
from minutehand.web.auth import SignedIn
from minutehand.web.bodies import Payload
from minutehand.web.caller import Caller
from minutehand.web.errors import FieldProblem, validation_failed
from minutehand.web.foreign import standing_on
from minutehand.web.paging import unknown_cursor
from minutehand.web.services import Provided, Services
from minutehand.webhooks.secrets import NewSecret, WebhookSecrets

router = APIRouter(prefix="/api/workspaces/{workspace_id:uuid}", tags=["workspaces"])

#: Whole paths, because a schedule's name may hold a slash.
ScheduleName = Annotated[str, Path(max_length=200)]


class PauseBody(Body):
    """What to pause or resume: the workspace, or its jobs of one type."""

    job_type: str | None = None
    reason: str | None = None


class ScheduleBody(Body):
    """A schedule, whose name is in the path; omitted fields take their defaults."""

    cron: str
    timezone: str = "UTC"
    job_type: str
    payload: Payload = Field(default_factory=dict)
    options: Payload = Field(
        default_factory=dict, description="queue, priority, max_attempts and the like."
    )
    missed: Missed = "once"
    enabled: bool = True


class Schedules(Body):
    """A workspace's schedules, by name."""

    schedules: tuple[Schedule, ...]


class WebhookBody(Body):
    """A webhook to make; without lists it receives every state change of every job."""

    url: str
    description: str | None = None
    event_types: tuple[str, ...] | None = None
    job_types: tuple[str, ...] | None = None
    enabled: bool = True


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("omit it, or give a value")
    return value


class WebhookChanges(Body):
    """What to change of a webhook; null for a list means all, omitted fields keep their values."""

    url: Annotated[str | None, AfterValidator(_not_null)] = None
    description: str | None = None
    event_types: tuple[str, ...] | None = None
    job_types: tuple[str, ...] | None = None
    enabled: Annotated[bool | None, AfterValidator(_not_null)] = None


class Webhooks(Body):
    """A workspace's webhooks, the oldest first."""

    webhooks: tuple[Webhook, ...]


class LimitsBody(Body):
    """The limit a manager may set; null lifts it. The rest is the operator's."""

    own_max_running: Whole | None


def steering(services: Services, caller: Caller, workspace_id: UUID) -> WorkspaceSteering:
    """The workspace as the caller may steer it."""
    return WorkspaceSteering(services.queue_of(caller), str(workspace_id))


def webhook_secrets(services: Services) -> WebhookSecrets:
    """Those of the process."""
    return services.provide(WebhookSecrets, lambda: WebhookSecrets(services.settings))


async def new_secret(services: Services, workspace_id: UUID) -> NewSecret:
    """A signing secret, sealed for the workspace."""
    with standing_on("the key service"):
        return await webhook_secrets(services).make(str(workspace_id))


@router.post("/pause")
async def pause(workspace_id: UUID, body: PauseBody, caller: SignedIn, services: Provided) -> Pause:
    """Pause the workspace, or one job type in it; running jobs continue."""
    return await steering(services, caller, workspace_id).pause(
        True, job_type=body.job_type, reason=body.reason
    )


@router.post("/resume")
async def resume(
    workspace_id: UUID, body: PauseBody, caller: SignedIn, services: Provided
) -> Pause:
    """Resume what was paused."""
    result = await steering(services, caller, workspace_id).pause(False, job_type=body.job_type)
    await services.waker.wake(reason="resume")
    return result


@router.get("/schedules")
async def list_schedules(workspace_id: UUID, caller: SignedIn, services: Provided) -> Schedules:
    """The schedules by name, each with its next run; at most 1,000."""
    return Schedules(schedules=await steering(services, caller, workspace_id).schedules())


@router.put(
    "/schedules/{name:path}",
    response_model=Schedule,
    responses={201: {"model": Schedule, "description": "It is new."}},
)
async def put_schedule(
    workspace_id: UUID,
    name: ScheduleName,
    body: ScheduleBody,
    caller: SignedIn,
    services: Provided,
    response: Response,
) -> Schedule:
    """Make or change the schedule of that name; the same expression keeps its next run."""
    made = await steering(services, caller, workspace_id).put_schedule(
        {**body.model_dump(mode="json"), "name": name}
    )
    if made.created_at == made.updated_at:
        response.status_code = 201
    return made


@router.delete("/schedules/{name:path}", status_code=204)
async def delete_schedule(
    workspace_id: UUID, name: ScheduleName, caller: SignedIn, services: Provided
) -> None:
    """Remove a schedule; jobs it made stay."""
    await steering(services, caller, workspace_id).delete_schedule(name)


@router.get("/next-runs")
async def next_runs(
    workspace_id: UUID,
    caller: SignedIn,
    services: Provided,
    schedule: Annotated[str | None, Query(max_length=200)] = None,
    cron: Annotated[str | None, Query(max_length=200)] = None,
    timezone: Annotated[str, Query(max_length=100)] = "UTC",
    count: Annotated[int, Query(ge=1, le=20)] = 5,
) -> NextRuns:
    """When a schedule, or a cron expression that is not saved yet, will run."""
    if (schedule is None) == (cron is None):
        problem = "give either schedule, a name, or cron"
        raise validation_failed([FieldProblem(field="cron", problem=problem, location="query")])
    wanted = {"name": schedule} if cron is None else {"cron": cron, "timezone": timezone}
    return await steering(services, caller, workspace_id).next_runs(wanted, count=count)


@router.get("/webhooks")
async def list_webhooks(workspace_id: UUID, caller: SignedIn, services: Provided) -> Webhooks:
    """The webhooks without their secrets, with failures and why one was switched off."""
    return Webhooks(webhooks=await steering(services, caller, workspace_id).webhooks())


@router.post("/webhooks", status_code=201)
async def create_webhook(
    workspace_id: UUID, body: WebhookBody, caller: SignedIn, services: Provided, response: Response
) -> WebhookWithSecret:
    """Make a webhook; its signing secret is in this answer and in no other."""
    secret = await new_secret(services, workspace_id)
    made = await steering(services, caller, workspace_id).create_webhook(
        {**body.model_dump(mode="json"), "sealed_secret": secret.sealed}
    )
    response.headers["Location"] = f"/api/workspaces/{workspace_id}/webhooks/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return WebhookWithSecret(**made.model_dump(), secret=secret.plain)


@router.get("/webhooks/{webhook_id:uuid}")
async def get_webhook(
    workspace_id: UUID, webhook_id: UUID, caller: SignedIn, services: Provided
) -> Webhook:
    """One webhook without its secret."""
    return await steering(services, caller, workspace_id).get_webhook(str(webhook_id))


@router.patch("/webhooks/{webhook_id:uuid}")
async def change_webhook(
    workspace_id: UUID,
    webhook_id: UUID,
    body: WebhookChanges,
    caller: SignedIn,
    services: Provided,
) -> Webhook:
    """Change what the body names; `enabled: true` also forgives earlier failures."""
    return await steering(services, caller, workspace_id).change_webhook(
        str(webhook_id), body.model_dump(mode="json", exclude_unset=True)
    )


@router.post("/webhooks/{webhook_id:uuid}/rotate-secret")
async def rotate_secret(
    workspace_id: UUID, webhook_id: UUID, caller: SignedIn, services: Provided, response: Response
) -> WebhookWithSecret:
    """Make a new signing secret; the old one signs too for a day."""
    secret = await new_secret(services, workspace_id)
    made = await steering(services, caller, workspace_id).rotate_secret(
        str(webhook_id), secret.sealed
    )
    response.headers["Cache-Control"] = "no-store"
    return WebhookWithSecret(**made.model_dump(), secret=secret.plain)


@router.delete("/webhooks/{webhook_id:uuid}", status_code=204)
async def delete_webhook(
    workspace_id: UUID, webhook_id: UUID, caller: SignedIn, services: Provided
) -> None:
    """Remove a webhook; deliveries not yet sent are dropped."""
    await steering(services, caller, workspace_id).delete_webhook(str(webhook_id))


@router.get("/webhooks/{webhook_id:uuid}/deliveries")
async def list_deliveries(
    workspace_id: UUID,
    webhook_id: UUID,
    caller: SignedIn,
    services: Provided,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> DeliveryPage:
    """A page of a webhook's deliveries, newest first; each is a job with attempts and errors."""
    try:
        return await steering(services, caller, workspace_id).deliveries(
            str(webhook_id), cursor=cursor, limit=limit
        )
    except ValueError as error:
        raise unknown_cursor() from error


@router.get("/limits")
async def get_limits(workspace_id: UUID, caller: SignedIn, services: Provided) -> WorkspaceLimits:
    """How much the workspace may use at once, and how much it uses now."""
    return await steering(services, caller, workspace_id).limits()


@router.patch("/limits")
async def set_limits(
    workspace_id: UUID, body: LimitsBody, caller: SignedIn, services: Provided
) -> WorkspaceLimits:
    """Set the limit that a manager may set; the smaller of it and the operator's holds."""
    return await steering(services, caller, workspace_id).set_limits(body.model_dump(mode="json"))
