"""Routes of operations: cancel, retry or replay all jobs that match, counted first and undone.

Each is one call of the queue under the caller's token; workers do what the call leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field, JsonValue

from minutehand.functions.jobs.models import Body, Instant, Key, Name, Tag
from minutehand.queue.models import JobState, Status
from minutehand.queue.operations import (
    Action,
    Operation,
    OperationCount,
    OperationJobs,
    OperationPage,
    Operations,
    Outcome,
)
from minutehand.web.auth import SignedIn
from minutehand.web.bodies import Payload
from minutehand.web.caller import Caller
from minutehand.web.idempotency import IdempotencyHeader, parse_key
from minutehand.web.paging import unknown_cursor
from minutehand.web.services import Provided, Services

router = APIRouter(prefix="/api", tags=["operations"])

Milliseconds = Annotated[float, Field(ge=0, le=1e12)]
Words = Annotated[str, Field(min_length=1, max_length=500)]


class JobFilter(Body):
    """Which jobs an operation touches: as the list of jobs; every criterion must hold."""

    job_type: Name | None = None
    queue: Name | None = None
    status: Annotated[tuple[Status, ...], Field(min_length=1, max_length=10)] | None = None
    state: Annotated[tuple[JobState, ...], Field(min_length=1, max_length=10)] | None = None
    session_id: Key | None = None
    parent_id: UUID | None = None
    batch_id: UUID | None = None
    tag: Tag | None = None
    payload: Payload | None = None
    created_after: Instant | None = None
    created_before: Instant | None = None
    finished_after: Instant | None = None
    finished_before: Instant | None = None
    min_run_ms: Milliseconds | None = None
    max_run_ms: Milliseconds | None = None
    error: Words | None = None
    error_type: Key | None = None
    error_fingerprint: Key | None = None
    worker_id: Key | None = None
    version: Key | None = None
    search: Words | None = None
    ids: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=10_000)] | None = None

    def wire(self) -> Mapping[str, Any]:
        """The filter as the queue takes it."""
        return self.model_dump(mode="json", exclude_none=True)


class Wanted(Body):
    """What is to be done to which jobs."""

    workspace_id: UUID
    action: Action
    filter: JobFilter = JobFilter()


class CreateOperation(Wanted):
    """An operation to begin; the jobs that match now are chosen, the newest within `limit`."""

    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 100_000


class Redrive(Body):
    """Which failed jobs to retry."""

    workspace_id: UUID
    filter: JobFilter = JobFilter()
    limit: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 100_000


def operations(services: Services, caller: Caller) -> Operations:
    """Operations as the caller may see and begin them."""
    return Operations(services.queue_of(caller))


async def _begun(services: Services, response: Response, operation: Operation) -> Operation:
    await services.waker.wake(reason="operation")
    response.headers["Location"] = f"/api/operations/{operation.id}"
    if not operation.created:
        response.status_code = 200
    return operation


@router.post("/operations/count")
async def count_operation(body: Wanted, caller: SignedIn, services: Provided) -> OperationCount:
    """How many jobs an operation would choose now; counts for a second at most."""
    return await operations(services, caller).count(
        str(body.workspace_id), body.action, body.filter.wire()
    )


_SAME: dict[int | str, dict[str, JsonValue | type]] = {
    200: {"model": Operation, "description": "It was there before."}
}


@router.post("/operations", status_code=201, responses=_SAME)
async def create_operation(
    body: CreateOperation,
    caller: SignedIn,
    services: Provided,
    response: Response,
    idempotency_key: IdempotencyHeader = None,
) -> Operation:
    """Cancel, retry or replay the jobs that match, which must name something to cancel or replay.

    The answer comes when a moment's work is done; workers finish it.
    """
    made = await operations(services, caller).create(
        str(body.workspace_id),
        body.action,
        body.filter.wire(),
        name=body.name,
        limit=body.limit,
        idempotency_key=parse_key(idempotency_key),
    )
    return await _begun(services, response, made)


@router.post("/jobs/redrive", status_code=201)
async def redrive_jobs(
    body: Redrive, caller: SignedIn, services: Provided, response: Response
) -> Operation:
    """Retry the failed jobs that match a filter: the operation of that action."""
    made = await operations(services, caller).create(
        str(body.workspace_id), "retry", body.filter.wire(), limit=body.limit
    )
    return await _begun(services, response, made)


@router.get("/operations")
async def list_operations(
    workspace_id: UUID,
    caller: SignedIn,
    services: Provided,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> OperationPage:
    """A page of a workspace's operations, newest first; kept for 30 days after their end."""
    try:
        return await operations(services, caller).list(
            str(workspace_id), cursor=cursor, limit=limit
        )
    except ValueError as error:
        raise unknown_cursor() from error


@router.get("/operations/{operation_id:uuid}")
async def get_operation(operation_id: UUID, caller: SignedIn, services: Provided) -> Operation:
    """An operation and how far it is."""
    return await operations(services, caller).get(str(operation_id))


@router.get("/operations/{operation_id:uuid}/jobs")
async def list_operation_jobs(
    operation_id: UUID,
    caller: SignedIn,
    services: Provided,
    outcome: Outcome | None = None,
    cursor: Annotated[int | None, Query(ge=0, le=200_000)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> OperationJobs:
    """A page of what became of each job; `next` is the next page's `cursor`."""
    return await operations(services, caller).jobs(
        str(operation_id), outcome=outcome, cursor=cursor, limit=limit
    )


@router.post("/operations/{operation_id:uuid}/undo", status_code=201, responses=_SAME)
async def undo_operation(
    operation_id: UUID, caller: SignedIn, services: Provided, response: Response
) -> Operation:
    """Take it back by another: retry what it cancelled, cancel what it made ready."""
    return await _begun(
        services, response, await operations(services, caller).undo(str(operation_id))
    )


@router.post("/operations/{operation_id:uuid}/{action}")
async def steer_operation(
    operation_id: UUID,
    action: Literal["pause", "resume", "stop"],
    caller: SignedIn,
    services: Provided,
) -> Operation:
    """Pause, resume or stop it between two batches."""
    operation = await operations(services, caller).steer(str(operation_id), action)
    if action == "resume":
        await services.waker.wake(reason="operation")
    return operation
