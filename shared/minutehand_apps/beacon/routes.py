"""The app's routes below /api/v1, which the `jobs` function finds.

Each route calls a SQL function or reads with the caller's token. SQL decides what the caller may
do, and rows of others count as missing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, Field

from minutehand.queue import CallerFunctions, reading
from minutehand.web import (
    ApiError,
    FieldProblem,
    Provided,
    Services,
    SignedIn,
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
)
from minutehand_apps.beacon.receipts import canonical, read_keys, signature_problem
from minutehand_apps.beacon.services import Beacon

Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[UUID | None, Query(description="`next` of the previous page.")]
WorkspaceFilter = Annotated[
    UUID | None,
    Query(description="A workspace of the caller. Optional for members of one workspace."),
]
#: A job's id, or a jobspec_id, which means the newest job with it.
JobOrSpecId = Annotated[str, Path(min_length=1, max_length=200)]
NEXT = Field(description="`cursor` of the next page, or null on the last page.")
R = TypeVar("R", bound=BaseModel)


class Submission(JobSpec):
    """A job spec to run, with its workspace and priority."""

    workspace_id: UUID | None = Field(
        default=None, description="Required for members of several workspaces."
    )
    priority: int = Field(default=100, ge=0, le=1000, description="Smaller runs first.")


class Submitted(BaseModel):
    """A submitted job, or the job of an earlier identical submission."""

    id: UUID
    jobspec_id: str
    status: JobStatus
    workspace_id: UUID


class Execution(BaseModel):
    """One execution. Lists omit `output`."""

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
    """A job in a list."""

    id: UUID
    workspace_id: UUID
    jobspec_id: str
    version: str
    priority: int
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
    """A job with its spec, executions and outputs."""

    spec: dict[str, Any]


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[ListedJob]
    next: UUID | None = NEXT


class Redrive(Exact):
    """Dead letters to publish again."""

    workspace_id: UUID | None = None
    ids: list[UUID] | None = Field(
        default=None, max_length=500, description="Ids of messages or jobs. Default: all."
    )


class Redriven(BaseModel):
    """Number of dead letters that are pending again, at most 500 per call."""

    count: int


class KeySet(BaseModel):
    """The public key that verifies receipts, as a JWK set (RFC 7517, RFC 8037)."""

    keys: list[dict[str, Any]]


def router(services: Services) -> APIRouter:
    """Create the app's routes."""
    app = Routes(services.provide(Beacon, lambda: Beacon(services.settings)))
    routes = APIRouter(prefix="/api/v1", tags=["beacon"])
    add = routes.add_api_route
    add(
        "/jobs",
        app.submit,
        methods=["POST"],
        status_code=202,
        responses={200: {"description": "The job of an earlier submission.", "model": Submitted}},
    )
    add("/jobs", app.list_jobs, methods=["GET"], response_model_exclude_unset=True)
    # Answers without a category omit the field, so unset fields are excluded.
    add("/jobs/{id}", app.get_job, methods=["GET"], response_model_exclude_unset=True)
    add("/jobs/{id}/bundle", app.get_bundle, methods=["GET"])
    add("/jobs/{id}/cancel", app.cancel, methods=["POST"])
    add("/executions", app.list_executions, methods=["GET"], response_model_exclude_unset=True)
    add(
        "/executions/{id}/receipt",
        app.get_receipt,
        methods=["GET"],
        responses={200: {"model": Receipt, "description": "The receipt, as it was signed."}},
    )
    add("/keys", app.get_keys, methods=["GET"], response_model=KeySet)
    add("/outbox/redrive", app.redrive, methods=["POST"])
    add("/schemas/{name}", app.get_schema, methods=["GET"])
    return routes


class Routes:
    """The handlers of the routes."""

    def __init__(self, app: Beacon) -> None:
        self._app = app

    async def submit(
        self, body: Submission, caller: SignedIn, services: Provided, response: Response
    ) -> Submitted:
        """Accept a job spec and queue it.

        A repeated jobspec_id and version returns the same job with 200, or 409 if the body differs.
        """
        spec = body.model_dump(
            mode="json", exclude={"workspace_id", "priority"}, exclude_unset=True
        )
        try:
            canonical(spec)  # fails for values that receipts could not hash
        except ValueError as error:
            raise validation_failed([FieldProblem(field="body", problem=str(error))]) from error
        result = await self._app.acting_as(caller.token).call(
            "beacon_submit", spec=spec, workspace_id=body.workspace_id, priority=body.priority
        )
        if result["wake"]:
            await services.waker.wake()
        if not result["created"]:
            response.status_code = 200
        response.headers["Location"] = f"/api/v1/jobs/{result['id']}"
        return Submitted.model_validate(result)

    async def list_jobs(
        self,
        caller: SignedIn,
        workspace_id: WorkspaceFilter = None,
        jobspec_id: Annotated[str | None, Query(max_length=200)] = None,
        status: JobStatus | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> JobPage:
        """List the jobs of a workspace, newest first."""
        rows, more = await page(
            self._app.acting_as(caller.token),
            "beacon_job_states",
            ListedJob,
            {"jobspec_id": jobspec_id, "status": status},
            (workspace_id, cursor, limit),
        )
        return JobPage(jobs=rows, next=more)

    async def get_job(
        self, id: JobOrSpecId, caller: SignedIn, workspace_id: WorkspaceFilter = None
    ) -> JobState:
        """Return a job by its id, or the newest job with a jobspec_id."""
        functions = self._app.acting_as(caller.token)
        job = await find_job(functions, id, workspace_id)
        outputs = await functions.select(
            "beacon_executions", ("select", "id,output"), ("job_id", f"eq.{job['id']}")
        )
        by_id = {row["id"]: row["output"] for row in outputs}
        executions = [
            {**execution, "output": by_id.get(execution["id"])} for execution in job["executions"]
        ]
        return JobState.model_validate({**job, "executions": executions})

    async def get_bundle(
        self, id: JobOrSpecId, caller: SignedIn, workspace_id: WorkspaceFilter = None
    ) -> Bundle:
        """Return a job's spec and receipts, which can be verified offline."""
        functions = self._app.acting_as(caller.token)
        job = await find_job(functions, id, workspace_id)
        of, select = f"eq.{job['id']}", functions.select
        receipts = [
            row["receipt"]
            for row in await select("beacon_executions", ("job_id", of), ("order", "id.asc"))
            if row["receipt"] is not None
        ]
        closing = (await select("beacon_jobs", ("select", "closing"), ("id", of)))[0]["closing"]
        await self._check(*receipts, *([closing] if closing else []))
        return Bundle(jobspec=job["spec"], receipts=receipts, closing=closing)

    async def cancel(
        self, id: JobOrSpecId, caller: SignedIn, workspace_id: WorkspaceFilter = None
    ) -> Submitted:
        """Cancel a job and its executions. Repeatable. 409 if the job has completed or failed."""
        functions = self._app.acting_as(caller.token)
        job = await find_job(functions, id, workspace_id)
        return await functions.call("beacon_cancel", parse=reading(Submitted), id=job["id"])

    async def list_executions(
        self,
        caller: SignedIn,
        workspace_id: WorkspaceFilter = None,
        job_id: UUID | None = None,
        jobspec_id: Annotated[str | None, Query(max_length=200)] = None,
        region: Annotated[str | None, Query(max_length=63)] = None,
        status: ExecutionStatus | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> ExecutionPage:
        """List the executions of a workspace, newest first."""
        rows, more = await page(
            self._app.acting_as(caller.token),
            "beacon_execution_states",
            Execution,
            {"job_id": job_id, "jobspec_id": jobspec_id, "region": region, "status": status},
            (workspace_id, cursor, limit),
        )
        return ExecutionPage(executions=rows, next=more)

    async def get_receipt(self, id: UUID, caller: SignedIn) -> JSONResponse:
        """Return the signed receipt of an execution. 404 before there is a receipt."""
        rows = await self._app.acting_as(caller.token).select(
            "beacon_executions", ("select", "receipt"), ("id", f"eq.{id}")
        )
        if not rows or rows[0]["receipt"] is None:
            raise not_found("receipt")
        await self._check(rows[0]["receipt"])
        return JSONResponse(rows[0]["receipt"])

    async def _check(self, *receipts: dict[str, Any]) -> None:
        """Reject stored receipts that the app's key did not sign."""
        keys = read_keys(await self._app.keys()) if receipts else {}
        for receipt in receipts:
            if problem := signature_problem(receipt, keys):
                raise ApiError(409, "receipt_invalid", f"Receipt {receipt.get('id')}: {problem}")

    async def get_keys(self) -> Response:
        """Return the public key that verifies receipts. Needs no token."""
        return JSONResponse(await self._app.keys(), headers={"Cache-Control": "max-age=300"})

    async def redrive(self, body: Redrive, caller: SignedIn, services: Provided) -> Redriven:
        """Publish dead letters again. Their jobs become `created` again."""
        result = await self._app.acting_as(caller.token).call(
            "beacon_redrive", workspace_id=body.workspace_id, ids=body.ids
        )
        if result["wake"]:
            await services.waker.wake()
        return Redriven(count=result["count"])

    async def get_schema(self, name: Annotated[str, Path(max_length=100)]) -> dict[str, Any]:
        """Return a JSON Schema: jobspec, output, receipt, closing, bundle or job-message."""
        if name not in SCHEMAS:
            raise not_found("schema")
        return SCHEMAS[name].model_json_schema()


async def find_job(
    functions: CallerFunctions, id: str, workspace_id: UUID | None
) -> dict[str, Any]:
    """Find a job by its id, or by a jobspec_id within one workspace. 404 if there is none."""
    params = ("select", ",".join(JobState.model_fields)), ("order", "id.desc"), ("limit", "1")
    if _is_uuid(id):
        rows: list[dict[str, Any]] = await functions.select(
            "beacon_job_states", ("id", f"eq.{id}"), *params
        )
        if rows:
            return rows[0]
    home = ("workspace_id", f"eq.{await functions.workspace(workspace_id)}")
    rows = await functions.select("beacon_job_states", ("jobspec_id", f"eq.{id}"), home, *params)
    if not rows:
        raise not_found("job")
    return rows[0]


async def page(
    functions: CallerFunctions,
    table: str,
    row: type[R],
    filters: dict[str, object],
    part: tuple[UUID | None, UUID | None, int],
) -> tuple[list[R], UUID | None]:
    """Read a page of rows, newest first by id, and the cursor of the next page."""
    workspace_id, cursor, limit = part
    params: list[tuple[str, str]] = [
        ("select", ",".join(name for name in row.model_fields if name != "output")),
        ("workspace_id", f"eq.{await functions.workspace(workspace_id)}"),
        *((name, f"eq.{value}") for name, value in filters.items() if value is not None),
        ("order", "id.desc"),
        ("limit", str(limit + 1)),
    ]
    if cursor is not None:
        params.append(("id", f"lt.{cursor}"))
    rows = await functions.select(table, *params)
    more = UUID(rows[limit - 1]["id"]) if len(rows) > limit else None
    return [row.model_validate(values) for values in rows[:limit]], more


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
