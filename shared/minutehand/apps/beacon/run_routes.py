"""Specs and runs over HTTP: write what to measure, have it measured, see how far it is.

A page's `next` is the id of its last row: ids order by time.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from minutehand.apps.beacon.models import Digest, Spec, StoredSpec
from minutehand.apps.beacon.services import Beacon
from minutehand.apps.beacon.statistics import Verdict
from minutehand.apps.beacon.store import MemberStore
from minutehand.web.auth import SignedIn
from minutehand.web.errors import not_found
from minutehand.web.idempotency import IdempotencyHeader, parse_key
from minutehand.web.services import Provided

Limit = Annotated[int, Query(ge=1, le=200)]
#: The `next` of the page before.
After = Annotated[UUID | None, Query(description="The `next` of the page before.")]


class NewSpec(Spec):
    """A spec to write."""

    workspace_id: UUID
    name: Annotated[str, Field(min_length=1, max_length=100)]


class SpecPage(BaseModel):
    """Specs, newest first."""

    specs: list[StoredSpec]
    next: UUID | None = Field(description="Pass as `after` for more; null at the end.")


class RegionState(BaseModel):
    """One region of a run."""

    model_config = ConfigDict(extra="ignore")

    region: str
    status: Literal["pending", "running", "completed", "failed", "cancelled"]
    job_id: UUID | None
    error: str | None
    progress: dict[str, Any] | None
    receipt_number: int | None
    measured_from: str | None = Field(description="Where it was really measured from.")
    statistics: dict[str, Any] | None
    verdict: Verdict | None


class RunState(BaseModel):
    """A run and how far it is."""

    model_config = ConfigDict(extra="ignore")

    id: UUID
    workspace_id: UUID
    spec_id: UUID
    name: str
    version: int
    spec_digest: Digest
    job_id: UUID | None = Field(description="Cancel and follow the run by this job.")
    status: Literal["pending", "running", "completed", "partial", "failed", "cancelled", "lost"]
    progress: dict[str, Any] | None
    receipt_number: int | None
    regions: list[RegionState]
    created_at: AwareDatetime
    finished_at: AwareDatetime | None


class RunPage(BaseModel):
    """Runs, newest first."""

    runs: list[RunState]
    next: UUID | None = Field(description="Pass as `after` for more; null at the end.")


class Deliveries(BaseModel):
    """What of a run was told to the workspace's webhooks."""

    events: list[dict[str, Any]]


class RunRoutes:
    """The routes below `/api/beacon/specs` and `/api/beacon/runs`."""

    def __init__(self, app: Beacon) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        created: dict[int | str, dict[str, Any]] = {
            201: {"description": "Written; 200 when it was there already."}
        }
        router.add_api_route(
            "/specs", self.create_spec, methods=["POST"], status_code=201, responses=created
        )
        router.add_api_route("/specs", self.list_specs, methods=["GET"])
        router.add_api_route("/specs/{spec_id}", self.get_spec, methods=["GET"])
        router.add_api_route(
            "/specs/{spec_id}/runs",
            self.start_run,
            methods=["POST"],
            status_code=201,
            responses=created,
        )
        router.add_api_route("/runs", self.list_runs, methods=["GET"])
        router.add_api_route("/runs/{run_id}", self.get_run, methods=["GET"])
        router.add_api_route("/runs/{run_id}/deliveries", self.get_deliveries, methods=["GET"])

    async def create_spec(self, body: NewSpec, caller: SignedIn, response: Response) -> StoredSpec:
        """Write a spec; the same text as the name's last version is that version, with 200."""
        spec = body.model_dump(mode="json", exclude={"workspace_id", "name"})
        spec["target"]["headers"] = {
            name.lower(): value for name, value in body.target.headers.items()
        }
        answer = await self._app.acting_as(caller.token).create_spec(
            body.workspace_id, body.name, spec
        )
        if not answer["created"]:
            response.status_code = 200
        return StoredSpec.model_validate(answer["spec"])

    async def list_specs(
        self,
        workspace_id: UUID,
        caller: SignedIn,
        name: Annotated[str | None, Query(max_length=100)] = None,
        after: After = None,
        limit: Limit = 50,
    ) -> SpecPage:
        """Specs of a workspace, newest first."""
        filters = [] if name is None else [("name", f"eq.{name}")]
        rows = await _page(
            self._app.acting_as(caller.token), "beacon_specs", workspace_id, after, limit, *filters
        )
        return SpecPage.model_validate({"specs": rows, "next": _next(rows, limit)})

    async def get_spec(self, spec_id: UUID, caller: SignedIn) -> StoredSpec:
        """Read one spec."""
        rows = await self._app.acting_as(caller.token).select(
            "beacon_specs", ("id", f"eq.{spec_id}")
        )
        if not rows:
            raise not_found("spec")
        return StoredSpec.model_validate(rows[0])

    async def start_run(
        self,
        spec_id: UUID,
        caller: SignedIn,
        services: Provided,
        response: Response,
        idempotency_key: IdempotencyHeader = None,
    ) -> RunState:
        """Have a spec measured; the same Idempotency-Key finds the same run, with 200."""
        store = self._app.acting_as(caller.token)
        started = await store.start_run(spec_id, key=parse_key(idempotency_key))
        if started["wake"]:
            await services.waker.wake()
        if not started["created"]:
            response.status_code = 200
        return await find_run(store, started["run_id"])

    async def list_runs(
        self,
        workspace_id: UUID,
        caller: SignedIn,
        spec_id: UUID | None = None,
        after: After = None,
        limit: Limit = 50,
    ) -> RunPage:
        """Runs of a workspace, newest first."""
        filters = [] if spec_id is None else [("spec_id", f"eq.{spec_id}")]
        rows = await _page(
            self._app.acting_as(caller.token),
            "beacon_run_states",
            workspace_id,
            after,
            limit,
            *filters,
        )
        return RunPage.model_validate({"runs": rows, "next": _next(rows, limit)})

    async def get_run(self, run_id: UUID, caller: SignedIn) -> RunState:
        """A run, region by region."""
        return await find_run(self._app.acting_as(caller.token), run_id)

    async def get_deliveries(self, run_id: UUID, caller: SignedIn) -> Deliveries:
        """The run's events, and how their delivery to each webhook stands."""
        return Deliveries.model_validate(await self._app.acting_as(caller.token).deliveries(run_id))


async def find_run(store: MemberStore, run_id: UUID | str) -> RunState:
    """A run as its member sees it.

    Raises:
        ApiError: 404, it is missing or another workspace's.
    """
    rows = await store.select("beacon_run_states", ("id", f"eq.{run_id}"))
    if not rows:
        raise not_found("run")
    return RunState.model_validate(rows[0])


async def _page(
    store: MemberStore,
    table: str,
    workspace_id: UUID,
    after: UUID | None,
    limit: int,
    *filters: tuple[str, str],
) -> list[dict[str, Any]]:
    params = [
        ("workspace_id", f"eq.{workspace_id}"),
        *filters,
        ("order", "id.desc"),
        ("limit", str(limit)),
    ]
    if after is not None:
        params.append(("id", f"lt.{after}"))
    return await store.select(table, *params)


def _next(rows: list[dict[str, Any]], limit: int) -> Any:
    return rows[-1]["id"] if len(rows) == limit else None
