"""Jobs over HTTP: submit a job spec, look at it, cancel it; and the schemas of the contracts.

Listing and reading happen under row level security: a job of others is a missing one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from minutehand import strict_json
from minutehand.queue.functions import CallerFunctions
from minutehand.signing.canonical import canonical
from minutehand.web.auth import SignedIn
from minutehand.web.errors import FieldProblem, not_found, validation_failed
from minutehand.web.paging import decode, encode
from minutehand.web.services import Provided
from minutehand_apps.beacon.models import (
    SCHEMAS,
    Bundle,
    ExecutionStatus,
    JobSpec,
    JobStatus,
    Output,
    schema_of,
)
from minutehand_apps.beacon.services import Beacon

Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=500, description="The `next` of the page before.")]
WorkspaceFilter = Annotated[
    UUID | None,
    Query(description="One of the caller's workspaces; may be omitted by members of one."),
]
R = TypeVar("R", bound=BaseModel)
#: A job's own id, or its jobspec_id: the newest job of that id is meant then.
JobOrSpecId = Annotated[str, Path(min_length=1, max_length=200)]


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


class ExecutionOfJob(BaseModel):
    """One execution, as its job shows it."""

    id: UUID
    region: str
    model: str
    provider: str | None
    status: ExecutionStatus
    error: str | None
    receipt_id: UUID | None
    receipt_number: int | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    completed_at: AwareDatetime | None


class ExecutionWithOutput(ExecutionOfJob):
    """One execution with what it gave."""

    output: Output | None


class _Job(BaseModel):
    id: UUID
    workspace_id: UUID
    jobspec_id: str
    version: str
    priority: int
    status: JobStatus
    error: str | None = Field(description="Why it failed; null otherwise.")
    reached: list[str] = Field(description="Regions that succeeded; filled at the end.")
    outbox_status: Literal["pending", "published", "dead", "cancelled"]
    queue_job_id: UUID | None = Field(description="Follow it live by this job of the queue.")
    created_by: UUID | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None


class ListedBenchmark(_Job):
    """A job in a list: its executions without outputs."""

    executions: list[ExecutionOfJob]


class JobState(_Job):
    """A job with its spec, and its executions with what they gave."""

    spec: dict[str, Any]
    executions: list[ExecutionWithOutput]


class JobPage(BaseModel):
    """Jobs, newest first."""

    jobs: list[ListedBenchmark]
    next: str | None = Field(description="Pass as `cursor` for more; null at the end.")


class JobRoutes:
    """The routes below `/api/v1/jobs` and `/api/v1/schemas`."""

    def __init__(self, app: Beacon) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        found: dict[int | str, dict[str, Any]] = {
            200: {"description": "Submitted before: the same job.", "model": Submitted}
        }
        add(
            "/jobs",
            self.submit,
            methods=["POST"],
            status_code=202,
            responses=found,
            dependencies=[Depends(refuse_doubled)],
        )
        add("/jobs", self.list_jobs, methods=["GET"])
        # an answer without a category has none, rather than a null
        add("/jobs/{id}", self.get_job, methods=["GET"], response_model_exclude_unset=True)
        add("/jobs/{id}/bundle", self.get_bundle, methods=["GET"], response_model_exclude_none=True)
        add("/jobs/{id}/cancel", self.cancel, methods=["POST"])
        add("/schemas", self.list_schemas, methods=["GET"])
        add("/schemas/{name}", self.get_schema, methods=["GET"])

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
            canonical(spec)
        except ValueError as error:
            problem = f"must have a canonical form, since receipts hash it: {error}"
            raise validation_failed([FieldProblem(field="body", problem=problem)]) from error
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
        created_after: AwareDatetime | None = None,
        created_before: AwareDatetime | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> JobPage:
        """Jobs of a workspace, newest first."""
        filters = [
            ("created_at", f"gt.{created_after.isoformat()}") if created_after else None,
            ("created_at", f"lt.{created_before.isoformat()}") if created_before else None,
            ("jobspec_id", f"eq.{quoted(jobspec_id)}") if jobspec_id is not None else None,
            ("status", f"eq.{status}") if status is not None else None,
        ]
        rows, more = await page(
            self._app.acting_as(caller.token),
            "beacon_job_states",
            ListedBenchmark,
            filters,
            workspace_id=workspace_id,
            cursor=cursor,
            limit=limit,
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
        """Everything to verify a job's receipts by, and that none is missing, but the keys."""
        functions = self._app.acting_as(caller.token)
        job = await find_job(functions, id, workspace_id)
        rows = await functions.select(
            "beacon_receipts",
            ("select", "receipt,execution_id"),
            ("job_id", f"eq.{job['id']}"),
            ("order", "number.asc"),
        )
        if not rows:
            raise not_found("receipt")
        closing = next((row["receipt"] for row in rows if row["execution_id"] is None), None)
        return Bundle(
            jobspec=job["spec"],
            receipts=[row["receipt"] for row in rows if row["execution_id"] is not None],
            closing=closing,
            running=True if closing is None else None,
        )

    async def cancel(
        self, id: JobOrSpecId, caller: SignedIn, workspace_id: WorkspaceFilter = None
    ) -> Submitted:
        """Cancel a job and its executions; repeatable, 409 when it has ended otherwise."""
        functions = self._app.acting_as(caller.token)
        job = await find_job(functions, id, workspace_id)
        return Submitted.model_validate(await functions.call("beacon_cancel", id=job["id"]))

    async def list_schemas(self) -> dict[str, str]:
        """The published JSON Schemas by name, each with its URL."""
        return {name: f"/api/v1/schemas/{name}" for name in SCHEMAS}

    async def get_schema(self, name: Annotated[str, Path(max_length=100)]) -> dict[str, Any]:
        """One JSON Schema (2020-12): jobspec, output, receipt, job-message, execution-message."""
        if name not in SCHEMAS:
            raise not_found("schema")
        return schema_of(name)


async def find_job(
    functions: CallerFunctions, id: str, workspace_id: UUID | None
) -> dict[str, Any]:
    """Find a job by either id; a jobspec_id is one workspace's.

    Raises:
        ApiError: 404, it is missing or another workspace's.
        QueueError: As `CallerFunctions.workspace`.
    """
    wanted = ("select", columns(JobState)), ("order", "id.desc"), ("limit", "1")
    if _is_uuid(id):
        narrowed = [("workspace_id", f"eq.{workspace_id}")] if workspace_id is not None else []
        rows = await functions.select("beacon_job_states", ("id", f"eq.{id}"), *narrowed, *wanted)
        if rows:
            return rows[0]
    home = ("workspace_id", f"eq.{await functions.workspace(workspace_id)}")
    rows = await functions.select(
        "beacon_job_states", ("jobspec_id", f"eq.{quoted(id)}"), home, *wanted
    )
    if not rows:
        raise not_found("job")
    return rows[0]


def columns(row: type[BaseModel]) -> str:
    """The columns that a model of a row has."""
    return ",".join(row.model_fields)


async def page(
    functions: CallerFunctions,
    table: str,
    row: type[R],
    filters: Sequence[tuple[str, str] | None],
    *,
    workspace_id: UUID | None,
    cursor: str | None,
    limit: int,
) -> tuple[list[R], str | None]:
    """Read a page of rows, newest first by id, and the cursor of the next one."""
    given = [each for each in filters if each is not None]
    params = [
        ("select", columns(row)),
        ("workspace_id", f"eq.{await functions.workspace(workspace_id)}"),
        *given,
        ("order", "id.desc"),
        ("limit", str(limit + 1)),
    ]
    if cursor is not None:
        (last,) = decode(cursor, UUID)
        params.append(("id", f"lt.{last}"))
    rows = await functions.select(table, *params)
    more = encode(rows[limit - 1]["id"]) if len(rows) > limit else None
    return [row.model_validate(each) for each in rows[:limit]], more


def quoted(text: str) -> str:
    """A value of a Data API filter, with any content."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


async def refuse_doubled(request: Request, _caller: SignedIn) -> None:
    """Refuse a body in which one object has a name twice, after a caller without a token."""
    try:
        strict_json.loads(await request.body())
    except ValueError as error:
        raise validation_failed([FieldProblem(field="body", problem=str(error))]) from error


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
