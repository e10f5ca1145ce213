"""Routes by which people steer a workspace: pauses, schedules and limits.

Each is one call of the queue under the caller's token; what managers alone may do is decided there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from minutehand.functions.jobs.models import Whole
from minutehand.web.auth import SignedIn, WorkspaceQueue
from minutehand.web.request_bodies import Body, Payload
from minutehand.web.services import Provided

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
    missed: Literal["once", "skip"] = "once"
    enabled: bool = True


class LimitsBody(Body):
    """The limit a manager may set; null lifts it. The rest is the operator's."""

    own_max_running: Whole | None


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
async def list_schedules(queue: WorkspaceQueue) -> dict[str, Any]:
    """The schedules by name, each with its next run; at most 1,000."""
    return await queue("list_schedules")


@router.put("/schedules/{name:path}", responses={201: {"description": "It is new."}})
async def put_schedule(
    name: ScheduleName, body: ScheduleBody, queue: WorkspaceQueue, response: Response
) -> dict[str, Any]:
    """Make or change the schedule of that name; the same expression keeps its next run."""
    schedule = {**body.model_dump(mode="json"), "name": name}
    made = await queue("put_schedule", schedule=schedule)
    if made["created_at"] == made["updated_at"]:
        response.status_code = 201
    return made


@router.delete("/schedules/{name:path}", status_code=204)
async def delete_schedule(name: ScheduleName, queue: WorkspaceQueue) -> None:
    """Remove a schedule; jobs it made stay."""
    await queue("delete_schedule", repeatable=False, name=name)


@router.get("/next-runs")
async def next_runs(
    queue: WorkspaceQueue,
    cron: str,
    timezone: str = "UTC",
    count: Annotated[int, Query(ge=1, le=20)] = 5,
) -> dict[str, Any]:
    """When a cron expression will run."""
    return await queue("next_runs", schedule={"cron": cron, "timezone": timezone}, count=count)


@router.get("/limits")
async def get_limits(queue: WorkspaceQueue) -> dict[str, Any]:
    """How much the workspace may use at once, and how much it uses now."""
    return await queue("workspace_limits")


@router.patch("/limits")
async def set_limits(body: LimitsBody, queue: WorkspaceQueue) -> dict[str, Any]:
    """Set the limit that a manager may set; the smaller of it and the operator's holds."""
    await queue("set_workspace_limits", limits=body.model_dump(mode="json"))
    return await queue("workspace_limits")
