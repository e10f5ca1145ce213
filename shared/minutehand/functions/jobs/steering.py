"""Routes by which people steer a workspace: pauses, schedules, webhooks and limits.

Each is one call of the queue under the caller's token; what managers alone may do is decided there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import Field

from minutehand.functions.jobs.models import Whole
from minutehand.web.auth import SignedIn
from minutehand.web.bodies import Body, Payload
from minutehand.web.errors import standing_on
from minutehand.web.services import Provided
from minutehand.webhooks.secrets import NewSecret, WebhookSecrets

router = APIRouter(prefix="/api/workspaces/{workspace_id:uuid}", tags=["workspaces"])

Call = Callable[..., Awaitable[dict[str, Any]]]
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
    missed: Literal["once", "skip"] = "once"
    enabled: bool = True


class WebhookChanges(Body):
    """What to change of a webhook; null for a list means all, omitted fields keep their values."""

    url: str | None = None
    description: str | None = None
    event_types: tuple[str, ...] | None = None
    job_types: tuple[str, ...] | None = None
    enabled: bool | None = None


class WebhookBody(WebhookChanges):
    """A webhook to make; without lists it receives every state change of every job."""

    url: str
    enabled: bool = True


class LimitsBody(Body):
    """The limit a manager may set; null lifts it. The rest is the operator's."""

    own_max_running: Whole | None


async def _steered(workspace_id: UUID, caller: SignedIn, services: Provided) -> Call:
    return partial(services.queue_of(caller).call, workspace_id=str(workspace_id))


#: Calls a function for the workspace of the path, as its caller may.
Steered = Annotated[Call, Depends(_steered)]


async def _new_secret(workspace_id: UUID, _: SignedIn, services: Provided) -> NewSecret:
    """A signing secret, sealed for the workspace."""
    secrets = services.provide(WebhookSecrets, lambda: WebhookSecrets(services.settings))
    with standing_on("the key service"):
        return await secrets.make(str(workspace_id))


Secret = Annotated[NewSecret, Depends(_new_secret)]


@router.post("/pause")
async def pause(
    workspace_id: UUID, body: PauseBody, caller: SignedIn, services: Provided
) -> dict[str, Any]:
    """Pause the workspace, or one job type in it; running jobs continue."""
    return await services.queue_of(caller).pause(workspace_id, True, **body.model_dump())


@router.post("/resume")
async def resume(
    workspace_id: UUID, body: PauseBody, caller: SignedIn, services: Provided
) -> dict[str, Any]:
    """Resume what was paused."""
    result = await services.queue_of(caller).pause(workspace_id, False, job_type=body.job_type)
    await services.waker.wake(reason="resume")
    return result


@router.get("/schedules")
async def list_schedules(steered: Steered) -> dict[str, Any]:
    """The schedules by name, each with its next run; at most 1,000."""
    return await steered("list_schedules")


@router.put("/schedules/{name:path}", responses={201: {"description": "It is new."}})
async def put_schedule(
    name: ScheduleName, body: ScheduleBody, steered: Steered, response: Response
) -> dict[str, Any]:
    """Make or change the schedule of that name; the same expression keeps its next run."""
    schedule = {**body.model_dump(mode="json"), "name": name}
    made = await steered("put_schedule", schedule=schedule)
    if made["created_at"] == made["updated_at"]:
        response.status_code = 201
    return made


@router.delete("/schedules/{name:path}", status_code=204)
async def delete_schedule(name: ScheduleName, steered: Steered) -> None:
    """Remove a schedule; jobs it made stay."""
    await steered("delete_schedule", repeatable=False, name=name)


@router.get("/next-runs")
async def next_runs(
    steered: Steered,
    cron: str,
    timezone: str = "UTC",
    count: Annotated[int, Query(ge=1, le=20)] = 5,
) -> dict[str, Any]:
    """When a cron expression will run."""
    return await steered("next_runs", schedule={"cron": cron, "timezone": timezone}, count=count)


@router.get("/webhooks")
async def list_webhooks(steered: Steered) -> dict[str, Any]:
    """The webhooks without their secrets, with failures and why one was switched off."""
    return await steered("list_webhooks")


@router.post("/webhooks", status_code=201)
async def create_webhook(
    body: WebhookBody, steered: Steered, secret: Secret, request: Request, response: Response
) -> dict[str, Any]:
    """Make a webhook; its signing secret is in this answer and in no other."""
    webhook = {**body.model_dump(mode="json"), "sealed_secret": secret.sealed}
    made = await steered("put_webhook", repeatable=False, webhook=webhook)
    response.headers["Location"] = f"{request.scope['path']}/{made['id']}"
    return {**made, "secret": secret.plain}


@router.patch("/webhooks/{webhook_id:uuid}")
async def change_webhook(
    webhook_id: UUID, body: WebhookChanges, steered: Steered
) -> dict[str, Any]:
    """Change what the body names; `enabled: true` also forgives earlier failures."""
    webhook = {**body.model_dump(mode="json", exclude_unset=True), "id": str(webhook_id)}
    return await steered("put_webhook", webhook=webhook)


@router.post("/webhooks/{webhook_id:uuid}/rotate-secret")
async def rotate_secret(webhook_id: UUID, steered: Steered, secret: Secret) -> dict[str, Any]:
    """Make a new signing secret; the old one signs too for a day."""
    webhook = {"id": str(webhook_id), "sealed_secret": secret.sealed}
    made = await steered("put_webhook", repeatable=False, webhook=webhook)
    return {**made, "secret": secret.plain}


@router.post("/webhooks/{webhook_id:uuid}/test", status_code=202)
async def test_webhook(webhook_id: UUID, steered: Steered, services: Provided) -> dict[str, Any]:
    """Send the workspace's latest event to it now; `job_id` is the delivery's."""
    made = await steered("test_webhook", repeatable=False, webhook_id=str(webhook_id))
    await services.waker.wake(reason="enqueue")
    return made


@router.delete("/webhooks/{webhook_id:uuid}", status_code=204)
async def delete_webhook(webhook_id: UUID, steered: Steered) -> None:
    """Remove a webhook; deliveries not yet sent are dropped."""
    await steered("delete_webhook", repeatable=False, webhook_id=str(webhook_id))


@router.get("/limits")
async def get_limits(steered: Steered) -> dict[str, Any]:
    """How much the workspace may use at once, and how much it uses now."""
    return await steered("workspace_limits")


@router.patch("/limits")
async def set_limits(body: LimitsBody, steered: Steered) -> dict[str, Any]:
    """Set the limit that a manager may set; the smaller of it and the operator's holds."""
    await steered("set_workspace_limits", limits=body.model_dump(mode="json"))
    return await steered("workspace_limits")
