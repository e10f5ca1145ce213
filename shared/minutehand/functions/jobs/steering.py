"""Routes that control the pauses, schedules and limits of a workspace.

Each route calls one SQL function with the caller's token. The database decides which calls only a
manager may make.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field, StrictInt

from minutehand.web.auth import CallerQueue, WorkspaceQueue
from minutehand.web.request_bodies import Body, Payload
from minutehand.web.services import Provided

router = APIRouter(prefix="/api/workspaces/{workspace_id:uuid}", tags=["workspaces"])

#: Name of a schedule, which is the rest of the path, because a name may contain a slash.
ScheduleName = Annotated[str, Path(max_length=200)]


class PauseBody(Body):
    """The target of a pause or resume, which is the whole workspace or its jobs of one type."""

    job_type: str | None = None
    reason: str | None = None


class ScheduleBody(Body):
    """A schedule, whose name is in the path. The database's default applies to an omitted field."""

    cron: str
    timezone: str = "UTC"
    job_type: str
    payload: Payload = Field(default_factory=dict)
    options: Payload = Field(
        default_factory=dict, description="Job options, such as queue and priority."
    )
    missed: Literal["once", "skip"] = "once"
    enabled: bool = True


class LimitsBody(Body):
    """A manager's limit on running jobs of the workspace. Null removes the limit."""

    own_max_running: StrictInt | None


@router.post("/pause")
async def pause(workspace_id: UUID, body: PauseBody, queue: CallerQueue) -> dict[str, Any]:
    """Pause the workspace, or one job type in it. Running jobs continue."""
    return await queue.pause(workspace_id, True, **body.model_dump())


@router.post("/resume")
async def resume(
    workspace_id: UUID, body: PauseBody, queue: CallerQueue, services: Provided
) -> dict[str, Any]:
    """Resume the workspace, or one job type in it."""
    result = await queue.pause(workspace_id, False, job_type=body.job_type)
    await services.waker.wake()
    return result


@router.get("/schedules")
async def list_schedules(queue: WorkspaceQueue) -> dict[str, Any]:
    """List up to 1,000 schedules by name, each with the time of its next job."""
    return await queue("list_schedules")


@router.put("/schedules/{name:path}", responses={201: {"description": "It was created."}})
async def put_schedule(
    name: ScheduleName, body: ScheduleBody, queue: WorkspaceQueue, response: Response
) -> dict[str, Any]:
    """Create or change a schedule.

    The time of the next job changes only if the cron expression changes.
    """
    schedule = {**body.model_dump(mode="json"), "name": name}
    stored = await queue("put_schedule", schedule=schedule)
    if stored["created_at"] == stored["updated_at"]:
        response.status_code = 201
    return stored


@router.delete("/schedules/{name:path}", status_code=204)
async def delete_schedule(name: ScheduleName, queue: WorkspaceQueue) -> None:
    """Delete a schedule. Jobs that the schedule has already enqueued are kept."""
    await queue("delete_schedule", repeatable=False, name=name)


@router.get("/next-runs")
async def next_runs(
    queue: WorkspaceQueue,
    cron: str,
    timezone: str = "UTC",
    count: Annotated[int, Query(ge=1, le=20)] = 5,
) -> dict[str, Any]:
    """Return the next times of a cron expression."""
    return await queue("next_runs", schedule={"cron": cron, "timezone": timezone}, count=count)


@router.get("/limits")
async def get_limits(queue: WorkspaceQueue) -> dict[str, Any]:
    """Return the limits of the workspace, and how much of each limit is in use."""
    return await queue("workspace_limits")


@router.patch("/limits")
async def set_limits(body: LimitsBody, queue: WorkspaceQueue) -> dict[str, Any]:
    """Set the manager's limit on running jobs. A smaller limit of the operator still applies."""
    await queue("set_workspace_limits", limits=body.model_dump(mode="json"))
    return await queue("workspace_limits")
