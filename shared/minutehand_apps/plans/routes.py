"""The app's routes, which create, follow, read, cancel and delete plans.

Each route calls a SQL function with the caller's token. A guest who knows the plan's id needs no
token.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import HTMLResponse

from minutehand.queue import reading
from minutehand.web import (
    IdempotencyHeader,
    Provided,
    Services,
    Share,
    Shared,
    UserOrGuestFunctions,
    UserOrGuestUnslotted,
    invalid_argument,
    not_found,
    parse_key,
    sse,
)
from minutehand_apps.plans.graph import select_stages
from minutehand_apps.plans.models import (
    ChapterText,
    Created,
    NewPlan,
    Plan,
    Report,
    ReportedPlan,
    StreamStatus,
    TaskChange,
)
from minutehand_apps.plans.plan_feed import PlanFeed
from minutehand_apps.plans.report import html, json_report, markdown
from minutehand_apps.plans.shapes import Schedule

JSON, HTML, MARKDOWN = "application/json", "text/html", "text/markdown"
_TEXT = {"schema": {"type": "string"}}

routes = APIRouter(prefix="/api/plans", tags=["plans"])


@routes.post("", status_code=202)
async def create(
    body: NewPlan,
    functions: UserOrGuestFunctions,
    services: Provided,
    response: Response,
    idempotency_key: IdempotencyHeader = None,
) -> Created:
    """Create a plan. A repeated Idempotency-Key of a member returns the first plan."""
    key = parse_key(idempotency_key)
    plan = await functions.call(
        "plan_start",
        plan=body.model_dump(include={"prompt", "speed_vs_detail"}),
        workspace_id=body.workspace_id,
        idempotency_key=key,
        repeatable=key is not None,
    )
    if plan["wake"]:
        await services.waker.wake()
    at = f"/api/plans/{plan['plan_id']}"
    response.headers["Location"] = at
    return Created.model_validate(
        {**plan, "stream_url": f"{at}/stream", "report_url": f"{at}/report"}
    )


@routes.get("/{plan_id}")
async def get_plan(plan_id: UUID, functions: UserOrGuestFunctions) -> Plan:
    """Return a plan with its state and the stages that have ended."""
    return await functions.call("plan_read", parse=reading(Plan), plan_id=plan_id)


@routes.delete("/{plan_id}", status_code=204)
async def delete(plan_id: UUID, functions: UserOrGuestFunctions) -> None:
    """Cancel and delete a plan.

    The streams of the plan end, and its routes return 404 from then on.
    """
    await functions.call("plan_delete", plan_id=plan_id, repeatable=False)


@routes.post("/{plan_id}/cancel")
async def cancel(plan_id: UUID, functions: UserOrGuestFunctions) -> Plan:
    """Cancel a plan. The report of the plan keeps the finished stages. The call may be repeated."""
    await functions.call("plan_cancel", plan_id=plan_id)
    return await get_plan(plan_id, functions)


@routes.post("/{plan_id}/retry")
async def retry(plan_id: UUID, functions: UserOrGuestFunctions, services: Provided) -> Plan:
    """Continue a failed or cancelled plan after its finished stages.

    The status is 409 for any other plan.
    """
    await functions.call("plan_retry", plan_id=plan_id, repeatable=False)
    await services.waker.wake()
    return await get_plan(plan_id, functions)


@routes.post("/{plan_id}/chapters/{stage}/retry")
async def redo(
    plan_id: UUID, stage: str, functions: UserOrGuestFunctions, services: Provided
) -> Plan:
    """Write one chapter of an ended plan again, and keep the other chapters.

    The status is 409 before the end of the plan.
    """
    plan = await get_plan(plan_id, functions)
    if stage not in {stage_.name for stage_ in select_stages(plan.speed_vs_detail)}:
        raise not_found("chapter")
    job = await functions.call("plan_redo", plan_id=plan_id, stage=stage, repeatable=False)
    if job["wake"]:
        await services.waker.wake()
    return await get_plan(plan_id, functions)


@routes.put("/{plan_id}/chapters/{stage}")
async def edit(
    plan_id: UUID, stage: str, body: ChapterText, functions: UserOrGuestFunctions
) -> Plan:
    """Replace the text of a chapter, or its points, one per line.

    The status is 409 for a chapter with a table.
    """
    await functions.call("plan_edit", plan_id=plan_id, stage=stage, text=body.text)
    return await get_plan(plan_id, functions)


@routes.put("/{plan_id}/tasks")
async def edit_task(plan_id: UUID, body: TaskChange, functions: UserOrGuestFunctions) -> Plan:
    """Change the days of a task and its order, from which the report computes the schedule.

    The status is 400 if the tasks would depend on each other in a cycle, 404 for an unknown task,
    and 409 before the schedule is written.
    """
    plan = await get_plan(plan_id, functions)
    results = {stage.name: stage.result for stage in plan.stages if stage.result is not None}
    if results.keys() >= {"work_breakdown", "dependencies"}:
        try:
            schedule = Schedule.model_validate(results["dependencies"])
            schedule.check_change(results, body.task, body.after)
        except ValueError as error:
            raise invalid_argument("after", f"is not possible: {error}") from None
    await functions.call("plan_edit_task", plan_id=plan_id, change=body.model_dump())
    return await get_plan(plan_id, functions)


@routes.put("/{plan_id}/share")
async def share(plan_id: UUID, body: Share, functions: UserOrGuestFunctions) -> Shared:
    """Create or delete the public link to the report of a plan."""
    link = await functions.call("plan_share", plan_id=plan_id, is_shared=body.shared)
    return Shared.below("/api/plans/shared", link["share_id"])


@routes.get("/shared/{share_id}", response_class=HTMLResponse)
async def shared(request: Request, share_id: UUID, services: Provided) -> HTMLResponse:
    """Show the finished chapters of a report to anyone who has its public link."""
    async with services.request_slot(request, None):
        plan = (await services.queue_of(None).call("plan_shared", share_id=share_id))["plan"]
    if plan is None:
        raise not_found("plan")
    return html(ReportedPlan.model_validate(plan))


@routes.get("/{plan_id}/stream-status")
async def get_stream_status(plan_id: UUID, functions: UserOrGuestFunctions) -> StreamStatus:
    """Return whether the plan's stream can be opened, which is possible while the plan exists."""
    await functions.call("plan_events", plan_id=plan_id, after=0, limit=1)
    return StreamStatus()


@routes.get(
    "/{plan_id}/stream",
    response_model=None,
    responses={
        200: {"content": {sse.MEDIA_TYPE: _TEXT, JSON: {}}},
        204: {"description": "The plan has ended and every event was read. Do not reconnect."},
    },
)
async def get_stream(
    request: Request,
    plan_id: UUID,
    caller: UserOrGuestUnslotted,
    services: Provided,
    after: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Any:
    """Stream all events of a plan, including log lines. `Last-Event-ID` resumes a stream.

    Events have no names, and the form `{plan_id, seq, type, data, at}`. `Accept` may request JSON.
    """
    accept = request.headers.get("accept", "")
    feed = PlanFeed(
        plan_id, services.stream_queue_of(caller), after=sse.parse_seq_cursor(last_event_id, after)
    )
    if JSON in accept and sse.MEDIA_TYPE not in accept:
        async with services.request_slot(request, caller):
            batch = await feed.read()
        return {"events": [line.data for line in batch.lines], "ended": batch.end}
    return await sse.stream_response(
        request, services, caller, feed, wait=sse.BUFFERED_SECONDS, is_bare=True, is_resumed=True
    )


@routes.get(
    "/{plan_id}/report",
    response_model=Report,
    responses={200: {"content": {HTML: _TEXT, MARKDOWN: _TEXT}}},
)
async def get_report(request: Request, plan_id: UUID, functions: UserOrGuestFunctions) -> Any:
    """Return the current report of a plan in any state. `Accept` selects HTML, Markdown or JSON."""
    plan = await get_plan(plan_id, functions)
    accept = request.headers.get("accept", "")
    if MARKDOWN in accept:
        return Response(markdown(plan), media_type=f"{MARKDOWN}; charset=utf-8")
    if JSON in accept and HTML not in accept:
        return json_report(plan)
    return html(plan)


def router(_: Services) -> APIRouter:
    """Return the app's routes."""
    return routes
