"""The app's routes below /api/v1, which the `jobs` function finds and serves.

Each route calls a SQL function, or reads rows, with the caller's token. The SQL functions decide
what the caller may do. A row of another workspace is treated like a missing row.
"""

from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import AwareDatetime, BaseModel, Field

from minutehand.queue import CallerFunctions, reading
from minutehand.web import (
    ApiError,
    FieldProblem,
    Provided,
    Services,
    Share,
    Shared,
    UserFunctions,
    not_found,
    validation_failed,
)
from minutehand_apps.beacon.models import (
    SCHEMAS,
    Bundle,
    Exact,
    ExecutionStatus,
    JobSpec,
    JobStatus,
    Output,
    Receipt,
    SharedJob,
)
from minutehand_apps.beacon.page import render
from minutehand_apps.beacon.receipts import canonical, read_keys, signature_problem

Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[UUID | None, Query(description="`next` of the previous page.")]
WorkspaceFilter = Annotated[
    UUID | None,
    Query(description="A workspace of the caller. Optional for members of one workspace."),
]
NEXT = Field(description="`cursor` of the next page, or null on the last page.")
R = TypeVar("R", bound=BaseModel)


class Submission(JobSpec):
    """A job spec to run, with a workspace."""

    workspace_id: UUID | None = Field(
        default=None, description="Required for members of several workspaces."
    )


class Submitted(BaseModel):
    """A submitted job.

    If an identical spec was submitted before, return the job of the first submission.
    """

    id: UUID
    jobspec_id: str
    status: JobStatus
    workspace_id: UUID


class Execution(BaseModel):
    """An execution. In lists, `output` is omitted."""

    id: UUID
    job_id: UUID
    jobspec_id: str
    region: str
    model: str | None
    provider: str | None
    status: ExecutionStatus
    error: str | None
    receipt_id: UUID | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    completed_at: AwareDatetime | None
    output: Output | None = None


class ExecutionPage(BaseModel):
    """A page of executions, newest first."""

    executions: list[Execution]
    next: UUID | None = NEXT


class ListedJob(BaseModel):
    """A job in a list of jobs."""

    id: UUID
    workspace_id: UUID
    jobspec_id: str
    version: str
    status: JobStatus
    error: str | None = Field(description="Why it failed, or null.")
    name: str | None = Field(description="Name of the benchmark.")
    min_regions: int | None = Field(description="Number of regions that must succeed.")
    reached: list[str] = Field(description="Regions that succeeded, stored at the end.")
    outbox_status: Literal["pending", "published", "dead", "cancelled"]
    queue_job_id: UUID | None = Field(description="Job in the queue, for live updates.")
    created_by: UUID | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    executions: list[Execution]


class JobState(ListedJob):
    """A job with its spec, its executions and their outputs."""

    spec: dict[str, Any]
    share_id: UUID | None = Field(description="Key of the answers' public link, or null.")
    previous_id: UUID | None = Field(description="Latest earlier job that completed.")


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[ListedJob]
    next: UUID | None = NEXT


class Redrive(Exact):
    """Selection of the dead letters of the outbox to publish again."""

    workspace_id: UUID | None = None


class Redriven(BaseModel):
    """Number of dead letters that are pending again. One call publishes up to 500 messages."""

    count: int


class KeySet(BaseModel):
    """The public key that verifies receipts, as a JWK set (RFC 7517, RFC 8037)."""

    keys: list[dict[str, Any]]


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


async def _find_job(
    id: Annotated[str, Path(min_length=1, max_length=200)],
    functions: UserFunctions,
    workspace_id: WorkspaceFilter = None,
) -> dict[str, Any]:
    """Find a job by its id, or the latest job of a workspace with a jobspec_id, or raise a 404."""
    params = ("select", ",".join(JobState.model_fields)), ("order", "id.desc"), ("limit", "1")
    rows: list[dict[str, Any]] = []
    if _is_uuid(id):
        rows = await functions.select("beacon_job_states", ("id", f"eq.{id}"), *params)
    if not rows:
        home = ("workspace_id", f"eq.{await functions.workspace(workspace_id)}")
        of_spec = ("jobspec_id", f"eq.{id}")
        rows = await functions.select("beacon_job_states", of_spec, home, *params)
    if not rows:
        raise not_found("job")
    return rows[0]


FoundJob = Annotated[dict[str, Any], Depends(_find_job)]
routes = APIRouter(prefix="/api/v1", tags=["beacon"])


@routes.post(
    "/jobs",
    status_code=202,
    responses={200: {"description": "The job of an earlier submission.", "model": Submitted}},
)
async def submit(
    body: Submission, functions: UserFunctions, services: Provided, response: Response
) -> Submitted:
    """Store a job spec, and enqueue the job that runs it.

    A repeated jobspec_id and version returns the existing job with status 200. If the body differs,
    the status is 409.
    """
    spec = body.model_dump(mode="json", exclude={"workspace_id"}, exclude_unset=True)
    try:
        canonical(spec)  # raises an error for values that a receipt could not hash
    except ValueError as error:
        raise validation_failed([FieldProblem(field="body", problem=str(error))]) from error
    result = await functions.call("beacon_submit", spec=spec, workspace_id=body.workspace_id)
    if result["wake"]:
        await services.waker.wake()
    if not result["created"]:
        response.status_code = 200
    response.headers["Location"] = f"/api/v1/jobs/{result['id']}"
    return Submitted.model_validate(result)


@routes.get("/jobs", response_model_exclude_unset=True)
async def list_jobs(
    functions: UserFunctions,
    workspace_id: WorkspaceFilter = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> JobPage:
    """List the jobs of a workspace, newest first."""
    part = (workspace_id, cursor, limit)
    rows, more = await page(functions, "beacon_job_states", ListedJob, part)
    return JobPage(jobs=rows, next=more)


# omit unset fields, because an answer without a category has no field `category`
@routes.get("/jobs/{id}", response_model_exclude_unset=True)
async def get_job(job: FoundJob, functions: UserFunctions) -> JobState:
    """Return a job by its id, or the latest job with this jobspec_id."""
    executions = await functions.select(
        "beacon_execution_states", ("job_id", f"eq.{job['id']}"), ("order", "id.asc")
    )
    return JobState.model_validate({**job, "executions": executions})


@routes.get("/jobs/{id}/bundle")
async def get_bundle(job: FoundJob, functions: UserFunctions) -> Bundle:
    """Return the spec and the receipts of a job, which anyone can verify offline."""
    of, select = f"eq.{job['id']}", functions.select
    receipts = [
        row["receipt"]
        for row in await select("beacon_executions", ("job_id", of), ("order", "id.asc"))
        if row["receipt"] is not None
    ]
    closing = (await select("beacon_jobs", ("select", "closing"), ("id", of)))[0]["closing"]
    await _check(functions, *receipts, *([closing] if closing else []))
    return Bundle(jobspec=job["spec"], receipts=receipts, closing=closing)


@routes.post("/jobs/{id}/cancel")
async def cancel(job: FoundJob, functions: UserFunctions) -> Submitted:
    """Cancel a job and its executions.

    The call may be repeated. The status is 409 if the job has completed or failed.
    """
    return await functions.call("beacon_cancel", parse=reading(Submitted), id=job["id"])


@routes.put("/jobs/{id}/share")
async def share(job: FoundJob, body: Share, functions: UserFunctions) -> Shared:
    """Create or delete the public link to a job's answers."""
    link = await functions.call("beacon_share", id=job["id"], is_shared=body.shared)
    return Shared.below("/api/v1/shared", link["share_id"])


@routes.get("/shared/{share_id}", response_class=HTMLResponse)
async def shared(request: Request, share_id: UUID, services: Provided) -> HTMLResponse:
    """Show the answers of a job to anyone who has its public link."""
    async with services.request_slot(request, None):
        found = await services.queue_of(None).call("beacon_shared", share_id=share_id)
    if found["job"] is None:
        raise not_found("benchmark")
    return render(SharedJob.model_validate(found["job"]))


@routes.get("/executions", response_model_exclude_unset=True)
async def list_executions(
    functions: UserFunctions,
    workspace_id: WorkspaceFilter = None,
    job_id: UUID | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ExecutionPage:
    """List the executions of a workspace, newest first."""
    part = (workspace_id, cursor, limit)
    of_job = [("job_id", f"eq.{job_id}")] if job_id else []
    rows, more = await page(functions, "beacon_execution_states", Execution, part, *of_job)
    return ExecutionPage(executions=rows, next=more)


@routes.get(
    "/executions/{id}/receipt",
    responses={200: {"model": Receipt, "description": "The receipt, as it was signed."}},
)
async def get_receipt(id: UUID, functions: UserFunctions) -> JSONResponse:
    """Return the signed receipt of an execution.

    The status is 404 if the execution has no receipt yet.
    """
    rows = await functions.select("beacon_executions", ("select", "receipt"), ("id", f"eq.{id}"))
    if not rows or rows[0]["receipt"] is None:
        raise not_found("receipt")
    await _check(functions, rows[0]["receipt"])
    return JSONResponse(rows[0]["receipt"])


async def _check(functions: CallerFunctions, *receipts: dict[str, Any]) -> None:
    """Raise an error for stored receipts that were not signed with the app's key."""
    keys = read_keys(await functions.call("beacon_keys")) if receipts else {}
    for receipt in receipts:
        if problem := signature_problem(receipt, keys):
            raise ApiError(409, "receipt_invalid", f"Receipt {receipt.get('id')}: {problem}")


@routes.get("/keys", response_model=KeySet)
async def get_keys(services: Provided) -> Response:
    """Return the public key that verifies receipts. The route needs no token."""
    keys = await services.queue_of(None).call("beacon_keys")
    return JSONResponse(keys, headers={"Cache-Control": "max-age=300"})


@routes.post("/outbox/redrive")
async def redrive(body: Redrive, functions: UserFunctions, services: Provided) -> Redriven:
    """Publish dead letters of the outbox again.

    The jobs of the messages get the status `created` again.
    """
    result = await functions.call("beacon_redrive", workspace_id=body.workspace_id)
    if result["wake"]:
        await services.waker.wake()
    return Redriven(count=result["count"])


@routes.get("/schemas/{name}")
async def get_schema(name: Annotated[str, Path(max_length=100)]) -> dict[str, Any]:
    """Return a JSON Schema: jobspec, output, receipt, closing, bundle or job-message."""
    if name not in SCHEMAS:
        raise not_found("schema")
    return SCHEMAS[name].model_json_schema()


async def page(
    functions: CallerFunctions,
    table: str,
    row: type[R],
    part: tuple[UUID | None, UUID | None, int],
    *filters: tuple[str, str],
) -> tuple[list[R], UUID | None]:
    """Read a page of rows, newest first, and the cursor of the next page."""
    workspace_id, cursor, limit = part
    params: list[tuple[str, str]] = [
        ("select", ",".join(name for name in row.model_fields if name != "output")),
        ("workspace_id", f"eq.{await functions.workspace(workspace_id)}"),
        *filters,
        ("order", "id.desc"),
        ("limit", str(limit + 1)),
    ]
    if cursor is not None:
        params.append(("id", f"lt.{cursor}"))
    rows = await functions.select(table, *params)
    more = UUID(rows[limit - 1]["id"]) if len(rows) > limit else None
    return [row.model_validate(values) for values in rows[:limit]], more


def router(_: Services) -> APIRouter:
    """Return the app's routes."""
    return routes
