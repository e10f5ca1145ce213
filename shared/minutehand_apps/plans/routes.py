"""The app's routes, found by the `jobs` function: create a plan, follow it, read it, delete it.

Each is a call of a SQL function under the caller's own token, or as a guest's, who knows the id.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi import Request as HttpRequest
from pydantic import ConfigDict

from minutehand.queue.keys import is_guest_session
from minutehand.web.auth import GuestSessionId, UserOrGuest
from minutehand.web.caller import Caller, token_of
from minutehand.web.entities import JSON, EntityEvent, EntityPage, EntityStream
from minutehand.web.errors import FieldProblem, not_found, validation_failed
from minutehand.web.files import zip_answer
from minutehand.web.idempotency import IdempotencyHeader, one_key, parse_key
from minutehand.web.services import Provided, Services
from minutehand_apps.plans.models import (
    Artifact,
    Created,
    FileList,
    NewPlan,
    PlanLine,
    PlanPage,
    PlanState,
    Regeneration,
    Report,
    StoredPlan,
    StreamStatus,
    topic_of,
)
from minutehand_apps.plans.planning.graph import after as stages_after
from minutehand_apps.plans.planning.graph import stages_of
from minutehand_apps.plans.report import (
    MEDIA,
    compose,
    described,
    files_of,
    html,
    markdown,
    report_files,
)
from minutehand_apps.plans.services import Plans

HTML, MARKDOWN = "text/html", "text/markdown"
#: A file of a plan runs nothing and loads nothing, wherever it is opened.
_HARMLESS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}
_TEXT: Final = {"schema": {"type": "string"}}


class PlanEvent(EntityEvent):
    """Something that happened to a plan."""

    model_config = ConfigDict(extra="ignore")

    plan_id: UUID


class EventPage(EntityPage[PlanEvent]):
    """Events after a `seq`; `ended` is how the plan ended, null while it has not."""


class PlanRoutes:
    """The routes below `/api/plans`."""

    def __init__(self, app: Plans) -> None:
        self._app = app
        self._stream = EntityStream("plan", app, page=EventPage)

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        add("", self.create, methods=["POST"], status_code=202)
        add("", self.list_plans, methods=["GET"])
        add("/{plan_id}", self.get_plan, methods=["GET"])
        add("/{plan_id}", self.delete, methods=["DELETE"], status_code=204)
        add("/{plan_id}/stream-status", self.get_stream_status, methods=["GET"])
        self._stream.add_to(router)
        add(
            "/{plan_id}/report",
            self.get_report,
            methods=["GET"],
            response_model=Report,
            responses={200: {"content": dict.fromkeys((HTML, MARKDOWN), _TEXT)}},
        )
        add("/{plan_id}/files", self.list_files, methods=["GET"])
        add("/{plan_id}/files/{name}", self.get_file, methods=["GET"], response_class=Response)
        add("/{plan_id}/zip", self.get_zip, methods=["GET"], response_class=Response)
        add("/{plan_id}/cancel", self.cancel, methods=["POST"])
        add("/{plan_id}/restart", self.restart, methods=["POST"], status_code=202)
        add("/{plan_id}/regenerate", self.regenerate, methods=["POST"], status_code=202)

    async def _call(self, caller: Caller | None, function: str, **arguments: Any) -> dict[str, Any]:
        return await self._app.acting_as(token_of(caller)).call(f"plan_{function}", **arguments)

    async def _read(
        self, caller: Caller | None, plan_id: UUID, *, results: bool = False
    ) -> StoredPlan:
        found = await self._call(caller, "read", plan_id=plan_id, results=results)
        return StoredPlan.model_validate(found)

    async def create(
        self,
        body: NewPlan,
        caller: UserOrGuest,
        services: Provided,
        response: Response,
        session_id: GuestSessionId = None,
        idempotency_key: IdempotencyHeader = None,
    ) -> Created:
        """Plan a prompt; the same idempotency key returns the same plan.

        Without an account, where that is allowed, the plan's id is the key to it.
        """
        key = one_key(idempotency_key, parse_key(body.idempotency_key))
        plan = body.model_dump(include={"prompt", "speed_vs_detail", "ask_seconds"})
        place = {"workspace_id": body.workspace_id, "session_id": session_id}
        again = {"idempotency_key": key, "repeatable": key is not None}
        made = await self._call(caller, "start", plan=plan, **place, **again)
        return await _created(made, services, response)

    async def list_plans(
        self,
        caller: UserOrGuest,
        workspace_id: UUID | None = None,
        session_id: GuestSessionId = None,
        after: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> PlanPage:
        """Plans of a workspace, or of a guest's session; newest first."""
        if caller is None and session_id is None:
            return PlanPage(plans=[], next=None)
        place = {"workspace_id": workspace_id, "session_id": session_id}
        found = await self._call(caller, "list", **place, after=after, limit=limit)
        lines = [PlanLine.model_validate({**row, "plan_id": row["id"]}) for row in found["plans"]]
        return PlanPage(plans=lines, next=lines[-1].plan_id if len(lines) == limit else None)

    async def get_plan(self, plan_id: UUID, caller: UserOrGuest) -> PlanState:
        """A plan: status, stages with their times, files, and the error of a failed one."""
        return state_of(await self._read(caller, plan_id))

    async def delete(self, plan_id: UUID, caller: UserOrGuest) -> None:
        """Delete a plan with its files; it is cancelled, and its streams end.

        From then on it is a 404, also for a second deletion.
        """
        await self._call(caller, "delete", plan_id=plan_id, repeatable=False)

    async def get_stream_status(self, plan_id: UUID, caller: UserOrGuest) -> StreamStatus:
        """Whether the stream can be opened: from its creation, as long as the plan exists."""
        await self._stream.page(caller, plan_id, 0, 1)
        return StreamStatus()

    async def get_report(self, request: HttpRequest, plan_id: UUID, caller: UserOrGuest) -> Any:
        """The present report, also of a failed or cancelled plan: HTML.

        Markdown by `Accept: text/markdown`, JSON by `Accept: application/json`.
        """
        report = compose(await self._read(caller, plan_id, results=True))
        accept = request.headers.get("accept", "")
        if MARKDOWN in accept:
            return _file(markdown(report), MARKDOWN)
        if JSON in accept and HTML not in accept:
            return report
        return _file(html(report), HTML)

    async def list_files(self, plan_id: UUID, caller: UserOrGuest) -> FileList:
        """The plan's files, those of the report included at any time."""
        plan = await self._read(caller, plan_id, results=True)
        found = {each.name: each for each in state_of(plan).artifacts}
        for name, content in report_files(plan).items():
            if name not in found:
                file = {
                    **described(name, content),
                    "stage": "report",
                    "created_at": plan.created_at,
                    "url": f"/api/plans/{plan_id}/files/{name}",
                }
                found[name] = Artifact.model_validate(file)
        files = [found[name] for name in sorted(found)]
        return FileList(files=files, zip_url=f"/api/plans/{plan_id}/zip")

    async def _contents(self, caller: Caller | None, plan_id: UUID) -> dict[str, str]:
        plan = await self._read(caller, plan_id, results=True)
        found = report_files(plan)
        for stage in plan.stages:
            if stage.result is not None and stage.name != "report":
                found |= files_of(stage.name, stage.result)
        return found

    async def get_file(self, plan_id: UUID, name: str, caller: UserOrGuest) -> Response:
        """One file."""
        files = await self._contents(caller, plan_id)
        if name not in files:
            raise not_found("file")
        return _file(files[name], MEDIA[name.rpartition(".")[2]])

    async def get_zip(self, plan_id: UUID, caller: UserOrGuest) -> Response:
        """All files in one zip; the same files give the same bytes."""
        return zip_answer(f"plan-{plan_id}.zip", await self._contents(caller, plan_id))

    async def cancel(self, plan_id: UUID, caller: UserOrGuest) -> PlanState:
        """Stop a plan; finished stages stay and make up its report. Harmless when repeated."""
        await self._call(caller, "cancel", plan_id=plan_id)
        return state_of(await self._read(caller, plan_id))

    async def restart(
        self, plan_id: UUID, caller: UserOrGuest, services: Provided, response: Response
    ) -> Created:
        """Run a failed or cancelled plan again; finished stages are kept."""
        made = await self._call(caller, "restart", plan_id=plan_id, repeatable=False)
        return await _created(made, services, response)

    async def regenerate(
        self,
        plan_id: UUID,
        body: Regeneration,
        caller: UserOrGuest,
        services: Provided,
        response: Response,
    ) -> Created:
        """Make a new plan from the same prompt, starting at a stage; other stages are kept."""
        plan = await self._read(caller, plan_id)
        stages = stages_of(plan.speed_vs_detail)
        names = [stage.name for stage in stages]
        problem = None
        if body.stage not in names:
            problem = f"must be one of {', '.join(names)}"
        elif body.corrections and body.stage != names[0]:
            problem = f"must be {names[0]} with corrections"
        if problem:
            raise validation_failed([FieldProblem(field="stage", problem=problem)])
        repeated = stages_after(body.stage, stages)
        what = {
            "keep": [name for name in names if name not in repeated],
            "corrections": [each.model_dump() for each in body.corrections],
        }
        made = await self._call(
            caller, "fork", plan_id=plan_id, stage=body.stage, **what, repeatable=False
        )
        return await _created(made, services, response)


def _file(content: str, media_type: str) -> Response:
    return Response(content, media_type=f"{media_type}; charset=utf-8", headers=_HARMLESS)


async def _created(made: dict[str, Any], services: Services, response: Response) -> Created:
    if made["wake"]:
        await services.waker.wake()
    plan_id, session_id = made["plan_id"], made["session_id"]
    response.headers["Location"] = f"/api/plans/{plan_id}"
    return Created(
        plan_id=plan_id,
        status=made["status"],
        created_at=made["created_at"],
        stream_url=f"/api/plans/{plan_id}/stream",
        realtime_topic=topic_of(session_id),
        session_id=session_id if is_guest_session(session_id) else None,
        job_id=made["job_id"],
    )


def state_of(plan: StoredPlan) -> PlanState:
    """A plan as its routes answer it: the declared stages, each with its state."""
    base = f"/api/plans/{plan.id}"
    stored = {stage.name: stage.model_dump(exclude={"result"}) for stage in plan.stages}
    stages = []
    for stage in stages_of(plan.speed_vs_detail):
        row = stored.get(stage.name, {"status": "pending"})
        if plan.finished_at is not None and row["status"] in {"pending", "running"}:
            row = {**row, "status": "not_run"}
        began, ended = row.get("started_at"), row.get("ended_at")
        seconds = max(0.0, (ended - began).total_seconds()) if began and ended else None
        row |= {"name": stage.name, "title": stage.title, "needs": sorted(stage.needs)}
        stages.append({**row, "seconds": seconds})
    artifacts = [
        {**each.model_dump(), "url": f"{base}/files/{each.name}"} for each in plan.artifacts
    ]
    return PlanState.model_validate(
        {
            **plan.model_dump(exclude={"stages", "artifacts"}),
            "plan_id": plan.id,
            "stream_url": f"{base}/stream",
            "realtime_topic": topic_of(plan.session_id),
            "report_url": f"{base}/report",
            "stages": stages,
            "artifacts": artifacts,
        }
    )


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = services.provide(Plans, lambda: Plans(services.settings))
    routes = APIRouter(prefix="/api/plans", tags=["plans"])
    PlanRoutes(app).add_to(routes)
    return routes
