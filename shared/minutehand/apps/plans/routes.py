"""The app's routes, found by the `jobs` function: create a plan, follow it, read it, delete it.

Each is a call of a SQL function under the caller's own token, or as a guest's, who knows the id.
"""

from __future__ import annotations

import io
import zipfile
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi import Request as HttpRequest

from minutehand.apps.plans.feed import PlanFeed, PlanStream
from minutehand.apps.plans.models import (
    Artifact,
    Created,
    EventPage,
    FileList,
    NewPlan,
    PlanLine,
    PlanPage,
    PlanState,
    Regeneration,
    Report,
    StageState,
    StoredPlan,
    StreamStatus,
    topic_of,
)
from minutehand.apps.plans.planning.graph import after as stages_after
from minutehand.apps.plans.planning.graph import stages_of
from minutehand.apps.plans.report import compose, html, markdown
from minutehand.apps.plans.services import Plans
from minutehand.apps.plans.store import CallerStore
from minutehand.queue.keys import is_guest_session
from minutehand.web.auth import GuestCredentials, GuestSessionId, bearer_token, verify
from minutehand.web.caller import Caller, token_of
from minutehand.web.errors import (
    FieldProblem,
    not_found,
    token_missing,
    validation_failed,
)
from minutehand.web.feeds import seq_cursor
from minutehand.web.idempotency import IdempotencyHeader, one_key, parse_key
from minutehand.web.services import Provided, Services
from minutehand.web.sse import MEDIA_TYPE
from minutehand.web.streams import Opening, asked_at, buffered_pace

HTML, MARKDOWN, JSON = "text/html", "text/markdown", "application/json"
#: A file of a plan runs nothing and loads nothing, wherever it is opened.
_HARMLESS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


async def caller_or_guest(
    request: HttpRequest,
    _: GuestCredentials,
    access_token: Annotated[
        str | None, Query(description="For EventSource, which sends no headers.")
    ] = None,
) -> Caller | None:
    """Dependency: the signed-in user; None for a guest, where ALLOW_ANONYMOUS lets them in."""
    services: Services = request.app.state.services
    token = bearer_token(request)
    if token is None and request.url.path.endswith("/stream"):
        token = access_token
    if token is not None:
        return await verify(request, token)
    if not services.settings.allow_anonymous:
        raise token_missing()
    return None


UserOrGuest = Annotated[Caller | None, Depends(caller_or_guest)]


_TEXT: dict[str, Any] = {"schema": {"type": "string"}}


class PlanRoutes:
    """The routes below `/api/plans`."""

    def __init__(self, app: Plans) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        add("", self.create, methods=["POST"], status_code=202)
        add("", self.list_plans, methods=["GET"])
        add("/{plan_id}", self.get_plan, methods=["GET"])
        add("/{plan_id}", self.delete, methods=["DELETE"], status_code=204)
        add("/{plan_id}/stream-status", self.get_stream_status, methods=["GET"])
        add(
            "/{plan_id}/stream",
            self.get_stream,
            methods=["GET"],
            response_model=EventPage,
            responses={
                200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
                204: {"description": "The plan has ended and everything was read: stop."},
            },
        )
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

    def _store(self, caller: Caller | None) -> CallerStore:
        return self._app.acting_as(token_of(caller))

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
        plan = {"prompt": body.prompt, "speed_vs_detail": body.speed_vs_detail}
        made = await self._store(caller).start(
            body.workspace_id, plan, session_id=session_id, key=key
        )
        return await _created(made, services, response)

    async def list_plans(
        self,
        caller: UserOrGuest,
        workspace_id: UUID | None = None,
        session_id: GuestSessionId = None,
        after: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> PlanPage:
        """Plans of a workspace, of all the caller's, or of a guest's session; newest first."""
        if caller is None and session_id is None:
            return PlanPage(plans=[], next=None)
        rows = await self._store(caller).page(
            workspace_id, session_id=session_id, after=after, limit=limit
        )
        lines = [PlanLine.model_validate({**row, "plan_id": row["id"]}) for row in rows]
        return PlanPage(plans=lines, next=lines[-1].plan_id if len(lines) == limit else None)

    async def get_plan(self, plan_id: UUID, caller: UserOrGuest) -> PlanState:
        """A plan: status, stages with their times, files, and the error of a failed one."""
        return state_of(await self._store(caller).read(plan_id))

    async def delete(self, plan_id: UUID, caller: UserOrGuest) -> None:
        """Delete a plan with its files; it is cancelled, and its streams end.

        From then on it is a 404, also for a second deletion.
        """
        await self._store(caller).delete(plan_id)

    async def get_stream_status(self, plan_id: UUID, caller: UserOrGuest) -> StreamStatus:
        """Whether the stream can be opened: from its creation, as long as the plan exists."""
        await self._store(caller).events(plan_id, 0, limit=1)
        return StreamStatus()

    async def get_stream(
        self,
        request: HttpRequest,
        plan_id: UUID,
        caller: UserOrGuest,
        services: Provided,
        after: Annotated[int | None, Query(ge=0)] = None,
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    ) -> Any:
        """Every event of the plan from the first, logs included, until the plan ends.

        Events are unnamed and carry `{plan_id, seq, type, data, at}`; `Last-Event-ID` resumes. JSON
        by `Accept: application/json`.
        """
        began_at = asked_at(request, services.clock)
        position = seq_cursor(last_event_id, after)
        accept = request.headers.get("accept", "")
        if JSON in accept and MEDIA_TYPE not in accept:
            return await self._store(caller).events(plan_id, position)
        store = self._app.streaming_to(token_of(caller))
        async with Opening(request, services, caller, guest=f"plan:{plan_id}") as opening:
            plan = await opening.read(store.read(plan_id))
            if plan.finished_at is not None and position >= plan.last_seq:
                return Response(status_code=204)  # which stops EventSource from reconnecting
            circle = str(caller.user_id) if caller is not None else "guests"
            feed = PlanFeed(store, plan, after=position, reads=services.hub.reads, circle=circle)
            first = await opening.read(feed.read())
            pace = buffered_pace(services)
            return opening.stream(feed, first, began_at=began_at, pace=pace, kind=PlanStream)

    async def get_report(self, request: HttpRequest, plan_id: UUID, caller: UserOrGuest) -> Any:
        """The present report, also of a failed or cancelled plan: HTML.

        Markdown by `Accept: text/markdown`, JSON by `Accept: application/json`.
        """
        report = compose(await self._store(caller).read(plan_id, results=True))
        accept = request.headers.get("accept", "")
        if MARKDOWN in accept:
            return _file(markdown(report), MARKDOWN)
        if JSON in accept and HTML not in accept:
            return report
        return _file(html(report), HTML)

    async def list_files(self, plan_id: UUID, caller: UserOrGuest) -> FileList:
        """The plan's files, those of the report included at any time."""
        plan = await self._store(caller).read(plan_id, results=True)
        found = {each.name: each for each in state_of(plan).artifacts}
        for name, content in _reports(plan).items():
            if name not in found:
                found[name] = Artifact(
                    name=name,
                    stage="report",
                    media_type=_KINDS[name.rpartition(".")[2]],
                    bytes=len(content.encode()),
                    created_at=plan.created_at,
                    url=f"/api/plans/{plan_id}/files/{name}",
                )
        files = [found[name] for name in sorted(found)]
        return FileList(files=files, zip_url=f"/api/plans/{plan_id}/zip")

    async def get_file(self, plan_id: UUID, name: str, caller: UserOrGuest) -> Response:
        """One file."""
        store = self._store(caller)
        for found in await store.files(plan_id, name):
            return _file(found["content"], found["media_type"])
        reports = _reports(await store.read(plan_id, results=True))
        if name not in reports:
            raise not_found("file")
        return _file(reports[name], _KINDS[name.rpartition(".")[2]])

    async def get_zip(self, plan_id: UUID, caller: UserOrGuest) -> Response:
        """All files in one zip; the same files give the same bytes."""
        store = self._store(caller)
        files = _reports(await store.read(plan_id, results=True))
        files |= {each["name"]: each["content"] for each in await store.files(plan_id)}
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(files):
                archive.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
        return Response(
            packed.getvalue(),
            media_type="application/zip",
            headers={"Content-Disposition": f'attachment; filename="plan-{plan_id}.zip"'},
        )

    async def cancel(self, plan_id: UUID, caller: UserOrGuest) -> PlanState:
        """Stop a plan; finished stages stay and make up its report. Harmless when repeated."""
        store = self._store(caller)
        await store.cancel(plan_id)
        return state_of(await store.read(plan_id))

    async def restart(
        self, plan_id: UUID, caller: UserOrGuest, services: Provided, response: Response
    ) -> Created:
        """Run a failed or cancelled plan again; finished stages are kept."""
        return await _created(await self._store(caller).restart(plan_id), services, response)

    async def regenerate(
        self,
        plan_id: UUID,
        body: Regeneration,
        caller: UserOrGuest,
        services: Provided,
        response: Response,
    ) -> Created:
        """Make a new plan from the same prompt, starting at a stage; other stages are kept."""
        store = self._store(caller)
        plan = await store.read(plan_id)
        stages = stages_of(plan.speed_vs_detail)
        names = [stage.name for stage in stages]
        if body.stage not in names:
            raise validation_failed(
                [FieldProblem(field="stage", problem=f"must be one of {', '.join(names)}")]
            )
        repeated = stages_after(body.stage, stages)
        keep = [name for name in names if name not in repeated]
        return await _created(await store.fork(plan_id, body.stage, keep), services, response)


_KINDS = {"html": HTML, "md": MARKDOWN, "json": JSON}


def _reports(plan: StoredPlan) -> dict[str, str]:
    """The report's files, made now."""
    report = compose(plan)
    return {
        "report.html": html(report),
        "report.md": markdown(report),
        "report.json": report.model_dump_json(indent=2) + "\n",
    }


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
    found = {stage.name: stage for stage in plan.stages}
    over = plan.finished_at is not None
    stages = []
    for stage in stages_of(plan.speed_vs_detail):
        stored = found.get(stage.name)
        made = StageState(
            name=stage.name,
            title=stage.title,
            needs=sorted(stage.needs),
            status="not_run" if over else "pending",
        )
        if stored is not None:
            status = "not_run" if over and stored.status == "running" else stored.status
            seconds = None
            if stored.started_at and stored.ended_at:
                seconds = max(0.0, (stored.ended_at - stored.started_at).total_seconds())
            made = made.model_copy(
                update={
                    "status": status,
                    "attempts": stored.attempts,
                    "started_at": stored.started_at,
                    "ended_at": stored.ended_at,
                    "seconds": seconds,
                    "code": stored.code,
                    "reason": stored.reason,
                    "model": stored.model,
                }
            )
        stages.append(made)
    return PlanState(
        plan_id=plan.id,
        prompt=plan.prompt,
        speed_vs_detail=plan.speed_vs_detail,
        status=plan.status,
        stage=plan.stage,
        percentage=plan.percentage,
        error=plan.error,
        run=plan.run,
        forked_from=plan.forked_from,
        forked_at_stage=plan.forked_at_stage,
        job_id=plan.job_id,
        stream_url=f"{base}/stream",
        realtime_topic=topic_of(plan.session_id),
        report_url=f"{base}/report",
        last_seq=plan.last_seq,
        created_at=plan.created_at,
        started_at=plan.started_at,
        finished_at=plan.finished_at,
        stages=stages,
        artifacts=[
            each.model_copy(update={"url": f"{base}/files/{each.name}"}) for each in plan.artifacts
        ],
    )


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = services.provide(Plans, lambda: Plans(services.settings))
    routes = APIRouter(prefix="/api/plans", tags=["plans"])
    PlanRoutes(app).add_to(routes)
    return routes
