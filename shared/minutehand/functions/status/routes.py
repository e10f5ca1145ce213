"""The read routes: each reads under the caller's token, so that the database decides what is there.

Streams are served here and made in minutehand.web.sse.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel

from minutehand.functions.status.document import Document
from minutehand.queue.models import (
    Explanation,
    FeedPage,
    ForeignCursor,
    Job,
    JobEvent,
    JobPage,
    JobSteps,
    LogPage,
    QueueStats,
    Status,
)
from minutehand.web.auth import (
    Caller,
    InvalidToken,
    MaybeGuest,
    OperatorCredentials,
    SignedIn,
    StreamReader,
    bearer_token,
    token_matches,
)
from minutehand.web.errors import invalid_argument, unauthorized
from minutehand.web.feeds import BEGINNING, HistoryFeed, JobFeed, seq_cursor
from minutehand.web.services import Provided, Services
from minutehand.web.sse import MEDIA_TYPE, Batch, EventStream, Feed
from minutehand.web.streams import count_opening, open_stream

router = APIRouter(prefix="/api", tags=["status"])

Word = Annotated[str | None, Query(min_length=1, max_length=255)]
#: The first digits of an id, with or without its hyphens.
IdPrefix = Annotated[
    str | None, Query(min_length=6, max_length=36, pattern=r"^[0-9a-fA-F]{6}[0-9a-fA-F-]*$")
]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID")]
Limit = Annotated[int, Query(ge=1, le=200)]
FeedCursor = Annotated[str | None, Query(max_length=4096)]
After = Annotated[int | None, Query(ge=0, le=10**15)]

#: Streams of one process; a client that comes back later may meet another one.
MAX_STREAMS = 5_000

_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {}}, "description": "Events as they happen."}
}


class EventPage(BaseModel):
    """A page of a job's history, oldest first; go on with `after=next_after`."""

    events: tuple[JobEvent, ...]
    next_after: int | None = None


@router.get("/jobs")
async def list_jobs(
    caller: SignedIn,
    services: Provided,
    workspace_id: UUID | None = None,
    status: Annotated[list[Status] | None, Query(max_length=6)] = None,
    job_type: Word = None,
    queue: Word = None,
    session_id: Word = None,
    parent_id: UUID | None = None,
    batch_id: UUID | None = None,
    created_after: AwareDatetime | None = None,
    created_before: AwareDatetime | None = None,
    search: Word = None,
    id_prefix: IdPrefix = None,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Limit = 50,
) -> JobPage:
    """A page of jobs, newest first; jobs enqueued meanwhile shift nothing.

    The list ends where `next_cursor` is null: by a type, a queue or a search it is looked for in
    slices, and a page may hold fewer jobs than asked for, even none.
    """
    try:
        return await services.queue_of(caller).list_jobs(
            str(workspace_id) if workspace_id else None,
            status=status or (),
            job_type=job_type,
            queue=queue,
            session_id=session_id,
            parent_id=str(parent_id) if parent_id else None,
            batch_id=str(batch_id) if batch_id else None,
            created_after=created_after,
            created_before=created_before,
            search=search,
            id_prefix=id_prefix,
            cursor=cursor,
            limit=limit,
        )
    except ForeignCursor as error:
        raise invalid_argument(
            "cursor", "is not one this list gave out", location="query"
        ) from error


@router.get("/jobs/{job_id:uuid}")
async def get_job(job_id: UUID, caller: SignedIn, services: Provided) -> Job:
    """A job as it is now."""
    return await services.queue_of(caller).get_job(str(job_id))


@router.get("/jobs/{job_id:uuid}/logs")
async def get_logs(
    job_id: UUID,
    caller: SignedIn,
    services: Provided,
    after: After = None,
    level: Literal["debug", "info", "warning", "error"] | None = None,
    limit: Limit = 200,
) -> LogPage:
    """A page of a job's log lines, oldest first."""
    queue = services.queue_of(caller)
    page = await queue.logs(str(job_id), after=after or 0, level=level, limit=limit)
    if not page.logs:
        await queue.get_job(str(job_id))  # no lines, or no job?
    return page


@router.get(
    "/jobs/{job_id:uuid}/events",
    response_model=EventPage,
    responses={**_STREAMED, 204: {"description": "The job has ended and all was read."}},
)
async def get_events(
    request: Request,
    job_id: UUID,
    caller: StreamReader,
    services: Provided,
    after: After = None,
    limit: Limit = 200,
    last_event_id: LastEventId = None,
) -> Any:
    """A job's history: a page of it as JSON, or a stream by `Accept: text/event-stream`."""
    began_at = services.clock.monotonic()
    queue = services.stream_queue_of(caller)
    if MEDIA_TYPE not in request.headers.get("accept", ""):
        queue = services.queue_of(caller)
        events = await queue.events_after(str(job_id), after or 0, limit=limit)
        if not events:
            await queue.get_job(str(job_id))  # nothing new, or no job?
        more = len(events) == limit
        return EventPage(events=tuple(events), next_after=events[-1].seq if more else None)
    await count_opening(services, caller)
    feed = JobFeed(queue, str(job_id), after=seq_cursor(last_event_id, after))
    first = await feed.start()
    if first.end is not None and not first.lines and last_event_id:
        return Response(status_code=204)  # tells EventSource not to come back
    return _streamed(services, caller, feed, first, began_at)


@router.get("/workspaces/{workspace_id:uuid}/events", response_model=FeedPage, responses=_STREAMED)
async def get_workspace_events(
    request: Request,
    workspace_id: UUID,
    caller: StreamReader,
    services: Provided,
    cursor: FeedCursor = None,
    since: Annotated[Literal["now", "start"], Query(alias="from")] = "now",
    last_event_id: LastEventId = None,
) -> Any:
    """State changes of a workspace's jobs after a cursor: a page as JSON, or a stream."""
    queue = services.stream_queue_of(caller)
    start = BEGINNING if since == "start" else None
    feed = HistoryFeed(
        f"workspace:{workspace_id}",
        lambda after: queue.workspace_feed(str(workspace_id), after),
        after=(last_event_id or cursor or start),
        reads=services.hub.reads,
    )
    return await _feed_answer(request, services, caller, feed)


@router.get("/sessions/{session_id}/events", response_model=FeedPage, responses=_STREAMED)
async def get_session_events(
    request: Request,
    session_id: Annotated[str, Path(max_length=255)],
    caller: MaybeGuest,
    services: Provided,
    cursor: FeedCursor = None,
    last_event_id: LastEventId = None,
) -> Any:
    """Events of a session's jobs, logs left out, after a cursor: a page as JSON, or a stream.

    A guest session needs no token where anonymous use is allowed: its id is the key.
    """
    queue = services.stream_queue_of(caller)
    feed = HistoryFeed(
        f"session:{session_id}",
        lambda after: queue.session_feed(session_id, after),
        after=(last_event_id or cursor),
        reads=services.hub.reads,
        # of a session that spans tenants each sees their own part
        circle=str(caller.subject) if caller is not None else "guests",
    )
    return await _feed_answer(request, services, caller, feed)


@router.get("/jobs/{job_id:uuid}/explain")
async def explain_job(job_id: UUID, caller: SignedIn, services: Provided) -> Explanation:
    """Why a job is not running and when it will, in a sentence and in data."""
    return await services.queue_of(caller).explain(str(job_id))


@router.get("/jobs/{job_id:uuid}/attempts")
async def get_attempts(job_id: UUID, caller: SignedIn, services: Provided) -> list[dict[str, Any]]:
    """A job's attempts, oldest first."""
    return await services.queue_of(caller).attempts(str(job_id))


@router.get("/jobs/{job_id:uuid}/steps")
async def get_steps(job_id: UUID, caller: SignedIn, services: Provided) -> JobSteps:
    """A job's finished steps, oldest first, and what it waits for."""
    return await services.queue_of(caller).steps(str(job_id))


@router.get("/openapi.json", include_in_schema=False)
async def get_openapi(request: Request) -> Response:
    """The OpenAPI document of every route, whichever function serves it."""
    document = request.app.state.services.provide(Document, Document)
    body, etag = await document.read(request.app.state.services.settings)
    headers = {"ETag": etag, "Cache-Control": "public, max-age=300"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@router.get("/status")
async def get_status(
    request: Request,
    services: Provided,
    _: OperatorCredentials,
    workspace_id: UUID | None = None,
    minutes: Annotated[int, Query(ge=1, le=11_520, description="How far back.")] = 60,
) -> QueueStats:
    """Counts, throughput and percentiles: of everything for the operator, else of a workspace."""
    token = bearer_token(request)
    if token is None:
        raise unauthorized("send a token as a bearer token", presented=False)
    scope = str(workspace_id) if workspace_id else None
    if token_matches(token, services.settings.worker_secret_tokens):
        return await services.operator_queue.stats(minutes=minutes)
    try:
        caller = await services.verifier.verify_service(token)
    except InvalidToken:
        try:
            caller = await services.verifier.verify_user(token)
        except InvalidToken as error:
            raise unauthorized(str(error), presented=True) from error
        if scope is None:
            raise invalid_argument("workspace_id", "is required", location="query") from None
    return await services.queue_of(caller).stats(scope, minutes=minutes)


async def _feed_answer(
    request: Request, services: Services, caller: Caller | None, feed: HistoryFeed
) -> FeedPage | EventStream:
    began_at = services.clock.monotonic()
    if MEDIA_TYPE in request.headers.get("accept", ""):
        await count_opening(services, caller)
        return _streamed(services, caller, feed, await feed.read(), began_at)
    return await feed.page()


def _streamed(
    services: Services, caller: Caller | None, feed: Feed, first: Batch, began_at: float
) -> EventStream:
    return open_stream(
        services, caller, feed, first, began_at=began_at, pace=services.pace, most=MAX_STREAMS
    )
