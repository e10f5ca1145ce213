"""The app's routes below /api/v1, found by the `jobs` function: jobs, executions, keys, outbox.

Each is a call of a SQL function or a read under the caller's own token; what it may do is
decided there, and a row of others is a missing one.
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
Cursor = Annotated[UUID | None, Query(description="The `next` of the page before.")]
WorkspaceFilter = Annotated[
    UUID | None,
    Query(description="One of the caller's workspaces; may be omitted by members of one."),
]
#: A job's own id, or its jobspec_id: the newest job of that id is meant then.
JobOrSpecId = Annotated[str, Path(min_length=1, max_length=200)]
NEXT = Field(description="Pass as `cursor` for more; null at the end.")
R = TypeVar("R", bound=BaseModel)


class Submission(JobSpec):
    """A job spec to run, and where."""

    workspace_id: UUID | None = Field(
        default=None, description="Needed by members of several workspaces."
    )
    priority: int = Field(default=100, ge=0, le=1000, description="Smaller runs first.")


class Submitted(BaseModel):
    """A job that was submitted, now or before."""

    id: UUID
    jobspec_id: str
    status: JobStatus
    workspace_id: UUID


class Execution(BaseModel):
    """One execution; `output`, what it gave, is not in lists."""

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
    """Executions, newest first."""

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
    error: str | None = Field(description="Why it failed; null otherwise.")
    name: str | None = Field(description="Of its benchmark.")
    min_regions: int | None = Field(description="How many regions have to succeed.")
    reached: list[str] = Field(description="Regions that succeeded; filled at the end.")
    outbox_status: Literal["pending", "published", "dead", "cancelled"]
    queue_job_id: UUID | None = Field(description="Follow it live by this job of the queue.")
    created_by: UUID | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    executions: list[Execution]


class JobState(ListedJob):
    """A job with its spec, and its executions with what they gave."""

    spec: dict[str, Any]


class JobPage(BaseModel):
    """Jobs, newest first."""

    jobs: list[ListedJob]
    next: UUID | None = NEXT


class Redrive(Exact):
    """Which dead letters to publish again."""

    workspace_id: UUID | None = None
    ids: list[UUID] | None = Field(
        default=None, max_length=500, description="Messages or jobs; all when absent."
    )


class Redriven(BaseModel):
    """How many dead letters are pending again; at most 500 at a time."""

    count: int


class KeySet(BaseModel):
    """The public key that verifies receipts, as a JWK set (RFC 7517, RFC 8037)."""

    keys: list[dict[str, Any]]


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = Routes(services.provide(Beacon, lambda: Beacon(services.settings)))
    routes = APIRouter(prefix="/api/v1", tags=["beacon"])
    add = routes.add_api_route
    add(
        "/jobs",
        app.submit,
        methods=["POST"],
        status_code=202,
        responses={200: {"description": "Submitted before: the same job.", "model": Submitted}},
    )
    add("/jobs", app.list_jobs, methods=["GET"], response_model_exclude_unset=True)
    # an answer without a category has none, rather than a null
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
    """What each route does."""

    def __init__(self, app: Beacon) -> None:
        self._app = app

    async def submit(
        self, body: Submission, caller: SignedIn, services: Provided, response: Response
    ) -> Submitted:
        """Accept a job spec: it is queued, regardless of the backlog.

        The same jobspec_id and version again is the same job, with 200; with another body, 409.
        """
        spec = body.model_dump(
            mode="json", exclude={"workspace_id", "priority"}, exclude_unset=True
        )
        try:
            canonical(spec)  # receipts hash it
        except ValueError as error:
            raise validation_failed([FieldProblem(field="body", problem=str(error))]) from error
        answer = await self._app.acting_as(caller.token).call(
            "beacon_submit", spec=spec, workspace_id=body.workspace_id, priority=body.priority
        )
        if answer["wake"]:
            await services.waker.wake()
        if not answer["created"]:
            response.status_code = 200
        response.headers["Location"] = f"/api/v1/jobs/{answer['id']}"
        return Submitted.model_validate(answer)

    async def list_jobs(
        self,
        caller: SignedIn,
        workspace_id: WorkspaceFilter = None,
        jobspec_id: Annotated[str | None, Query(max_length=200)] = None,
        status: JobStatus | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> JobPage:
        """Jobs of a workspace, newest first."""
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
        """One job by its id, or the newest one of a jobspec_id."""
        functions = self._app.acting_as(caller.token)
        job = await find_job(functions, id, workspace_id)
        outputs = await functions.select(
            "beacon_executions", ("select", "id,output"), ("job_id", f"eq.{job['id']}")
        )
        by_id = {row["id"]: row["output"] for row in outputs}
        executions = [{**each, "output": by_id.get(each["id"])} for each in job["executions"]]
        return JobState.model_validate({**job, "executions": executions})

    async def get_bundle(
        self, id: JobOrSpecId, caller: SignedIn, workspace_id: WorkspaceFilter = None
    ) -> Bundle:
        """A job's spec and receipts, to be verified without asking anyone."""
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
        """Cancel a job and its executions; repeatable, 409 when it has ended otherwise."""
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
        """Executions of a workspace, newest first."""
        rows, more = await page(
            self._app.acting_as(caller.token),
            "beacon_execution_states",
            Execution,
            {"job_id": job_id, "jobspec_id": jobspec_id, "region": region, "status": status},
            (workspace_id, cursor, limit),
        )
        return ExecutionPage(executions=rows, next=more)

    async def get_receipt(self, id: UUID, caller: SignedIn) -> JSONResponse:
        """The signed receipt of an execution; 404 while there is none."""
        rows = await self._app.acting_as(caller.token).select(
            "beacon_executions", ("select", "receipt"), ("id", f"eq.{id}")
        )
        if not rows or rows[0]["receipt"] is None:
            raise not_found("receipt")
        await self._check(rows[0]["receipt"])
        return JSONResponse(rows[0]["receipt"])

    async def _check(self, *receipts: dict[str, Any]) -> None:
        """Refuse stored receipts that the app's key did not sign."""
        keys = read_keys(await self._app.keys()) if receipts else {}
        for each in receipts:
            if problem := signature_problem(each, keys):
                raise ApiError(409, "receipt_invalid", f"Receipt {each.get('id')}: {problem}")

    async def get_keys(self) -> Response:
        """The public key that verifies receipts; needs no token."""
        return JSONResponse(await self._app.keys(), headers={"Cache-Control": "max-age=300"})

    async def redrive(self, body: Redrive, caller: SignedIn, services: Provided) -> Redriven:
        """Publish dead letters again; their jobs become `created` again."""
        answer = await self._app.acting_as(caller.token).call(
            "beacon_redrive", workspace_id=body.workspace_id, ids=body.ids
        )
        if answer["wake"]:
            await services.waker.wake()
        return Redriven(count=answer["count"])

    async def get_schema(self, name: Annotated[str, Path(max_length=100)]) -> dict[str, Any]:
        """One JSON Schema (2020-12): jobspec, output, receipt, closing, bundle, job-message."""
        if name not in SCHEMAS:
            raise not_found("schema")
        return SCHEMAS[name].model_json_schema()


async def find_job(
    functions: CallerFunctions, id: str, workspace_id: UUID | None
) -> dict[str, Any]:
    """Find a job by either id; a jobspec_id is one workspace's. 404 where it is missing."""
    wanted = ("select", ",".join(JobState.model_fields)), ("order", "id.desc"), ("limit", "1")
    if _is_uuid(id):
        rows: list[dict[str, Any]] = await functions.select(
            "beacon_job_states", ("id", f"eq.{id}"), *wanted
        )
        if rows:
            return rows[0]
    home = ("workspace_id", f"eq.{await functions.workspace(workspace_id)}")
    rows = await functions.select("beacon_job_states", ("jobspec_id", f"eq.{id}"), home, *wanted)
    if not rows:
        raise not_found("job")
    return rows[0]


async def page(
    functions: CallerFunctions,
    table: str,
    row: type[R],
    filters: dict[str, object],
    asked: tuple[UUID | None, UUID | None, int],
) -> tuple[list[R], UUID | None]:
    """Read a page of rows, newest first by id, and the cursor of the next one."""
    workspace_id, cursor, limit = asked
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
    return [row.model_validate(each) for each in rows[:limit]], more


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
