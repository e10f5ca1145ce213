"""The app's routes, found by the `jobs` function: start a plan, follow it, answer, stop, go on.

Each is a call of a SQL function under the caller's own token, or with a visit's id as the key.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field

from minutehand.apps.plans.models import PlanPage, PlanState, Request
from minutehand.apps.plans.report import Report, compose, markdown
from minutehand.apps.plans.services import Plans
from minutehand.queue.models import FeedPage
from minutehand.web.auth import Somebody, VisitId, token_of
from minutehand.web.feeds import HistoryFeed
from minutehand.web.idempotency import IdempotencyHeader, parse_key
from minutehand.web.services import Provided, Services
from minutehand.web.sse import MEDIA_TYPE
from minutehand.web.streams import answer_with_events

MARKDOWN = "text/markdown"


class NewPlan(Request):
    """A plan to start; in a visit the workspace is the visit's and may be left out."""

    goal: Annotated[str, Field(min_length=1, max_length=4000, pattern=r"\S")]
    workspace_id: UUID | None = None


class Answer(BaseModel):
    """An answer to a plan's question."""

    model_config = ConfigDict(extra="forbid")

    answer: Annotated[str, Field(min_length=1, max_length=2000)]
    name: Annotated[str, Field(max_length=200)] | None = Field(
        default=None, description="The question's name: 409 when it asks another one by now."
    )


class PlanRoutes:
    """The routes below `/api/plans`."""

    def __init__(self, app: Plans) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        created: dict[int | str, dict[str, Any]] = {
            201: {"description": "Started; 200 when the key had started it before."}
        }
        router.add_api_route("", self.start, methods=["POST"], status_code=201, responses=created)
        router.add_api_route("", self.list_plans, methods=["GET"])
        router.add_api_route("/{plan_id}", self.get_plan, methods=["GET"])
        router.add_api_route(
            "/{plan_id}/report",
            self.get_report,
            methods=["GET"],
            response_model=Report,
            responses={200: {"content": {MARKDOWN: {"schema": {"type": "string"}}}}},
        )
        router.add_api_route(
            "/{plan_id}/stream",
            self.get_stream,
            methods=["GET"],
            response_model=FeedPage,
            responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}},
        )
        router.add_api_route("/{plan_id}/answer", self.answer, methods=["POST"])
        router.add_api_route("/{plan_id}/cancel", self.cancel, methods=["POST"])
        router.add_api_route("/{plan_id}/resume", self.resume, methods=["POST"])

    async def start(
        self,
        body: NewPlan,
        caller: Somebody,
        services: Provided,
        response: Response,
        session_id: VisitId = None,
        idempotency_key: IdempotencyHeader = None,
    ) -> PlanState:
        """Plan a goal; the same Idempotency-Key finds the same plan, with 200."""
        store = self._app.acting_as(token_of(caller), session_id)
        request = body.model_dump(mode="json", exclude={"workspace_id"})
        started = await store.start(body.workspace_id, request, key=parse_key(idempotency_key))
        if started["wake"]:
            await services.waker.wake()
        if not started["created"]:
            response.status_code = 200
        return await store.read(started["plan_id"])

    async def list_plans(
        self,
        caller: Somebody,
        workspace_id: UUID | None = None,
        session_id: VisitId = None,
        after: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> PlanPage:
        """Plans of a workspace, or of a visit, newest first."""
        store = self._app.acting_as(token_of(caller), session_id)
        rows = await store.list(workspace_id, after=after, limit=limit)
        following = rows[-1]["id"] if len(rows) == limit else None
        return PlanPage.model_validate({"plans": rows, "next": following})

    async def get_plan(
        self, plan_id: UUID, caller: Somebody, session_id: VisitId = None
    ) -> PlanState:
        """A plan, stage by stage, with the question it asks."""
        return await self._app.acting_as(token_of(caller), session_id).read(plan_id)

    async def get_report(
        self, request: HttpRequest, plan_id: UUID, caller: Somebody, session_id: VisitId = None
    ) -> Any:
        """The report as it stands: JSON, or Markdown by `Accept: text/markdown`."""
        report = compose(await self._app.acting_as(token_of(caller), session_id).read(plan_id))
        if MARKDOWN not in request.headers.get("accept", ""):
            return report
        name = f"plan-{plan_id}.md"
        return Response(
            markdown(report),
            media_type=f"{MARKDOWN}; charset=utf-8",
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def get_stream(
        self,
        request: HttpRequest,
        plan_id: UUID,
        caller: Somebody,
        services: Provided,
        session_id: VisitId = None,
        cursor: Annotated[str | None, Query(max_length=4096)] = None,
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    ) -> Any:
        """All that happens to the plan and its phases, the text being written as progress.

        A visit's stream tells of all its plans. Log lines are the plan's job's.
        """
        began_at = services.clock.monotonic()
        plan = await self._app.acting_as(token_of(caller), session_id).read(plan_id)
        queue = services.queue_of(caller)
        feed = HistoryFeed(
            f"session:{plan.session_id}",
            lambda after: queue.session_feed(plan.session_id, after),
            after=last_event_id or cursor,
            reads=services.hub.reads,
            circle=str(caller.subject) if caller is not None else "visitors",
        )
        return await answer_with_events(request, services, caller, feed, began_at=began_at)

    async def answer(
        self,
        plan_id: UUID,
        body: Answer,
        caller: Somebody,
        services: Provided,
        session_id: VisitId = None,
    ) -> PlanState:
        """Answer the plan's question."""
        store = self._app.acting_as(token_of(caller), session_id)
        answered = await store.answer(plan_id, body.model_dump(exclude_none=True))
        if answered["wake"]:
            await services.waker.wake()
        return await store.read(plan_id)

    async def cancel(self, plan_id: UUID, caller: Somebody, session_id: VisitId = None) -> Report:
        """Stop planning; answers the partial report. Harmless when repeated."""
        store = self._app.acting_as(token_of(caller), session_id)
        await store.cancel(plan_id)
        return compose(await store.read(plan_id))

    async def resume(
        self, plan_id: UUID, caller: Somebody, services: Provided, session_id: VisitId = None
    ) -> PlanState:
        """Have what a partial plan lacks written, with a fresh budget."""
        store = self._app.acting_as(token_of(caller), session_id)
        resumed = await store.resume(plan_id)
        if resumed["wake"]:
            await services.waker.wake()
        return await store.read(plan_id)


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = services.provide(Plans, lambda: Plans(services.settings))
    routes = APIRouter(prefix="/api/plans", tags=["plans"])
    PlanRoutes(app).add_to(routes)
    return routes
