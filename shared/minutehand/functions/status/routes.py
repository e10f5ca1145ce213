"""The read routes. Each route calls SQL with the caller's token, which decides what is visible.

`minutehand.web.sse` builds the event streams.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, Json

from minutehand.functions.tokens import token_matches
from minutehand.queue.models import FeedPage, Job, JobEvent, JobPage, JobState, Status
from minutehand.web import sse
from minutehand.web.auth import (
    CallerQueue,
    GuestSession,
    JobFollower,
    JobReader,
    MaybeGuest,
    OperatorCredentials,
    StreamReader,
    WorkspaceQueue,
    bearer_token,
    verify,
)
from minutehand.web.caller import Caller
from minutehand.web.errors import invalid_argument
from minutehand.web.services import Provided, Services
from minutehand.web.sse import (
    MEDIA_TYPE,
    START_CURSOR,
    HistoryFeed,
    JobFeed,
    SessionFeed,
    parse_job_cursor,
    stream_response,
)

router = APIRouter(prefix="/api", tags=["status"])

Word = Annotated[str | None, Field(min_length=1, max_length=255)]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID")]
Limit = Annotated[int, Query(ge=1, le=200)]
FeedCursor = Annotated[str | None, Query(max_length=8192)]
After = Annotated[int | None, Query(ge=0, le=10**15)]

_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {}}, "description": "Events as they happen."}
}


class ListQuery(BaseModel):
    """Filters and page of a list of jobs. A listed job matches all filters that are set."""

    model_config = ConfigDict(extra="forbid")

    cursor: UUID | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    workspace_id: UUID | None = None
    status: Annotated[list[Status], Field(max_length=6)] = []
    job_type: Word = None
    queue: Word = None
    user_id: UUID | None = None
    mine: Annotated[bool, Field(description="Only jobs that the caller enqueued.")] = False
    session_id: Word = None
    parent_id: UUID | None = None
    concurrency_key: Word = None
    worker_id: Annotated[Word, Field(description="A worker that has run the job.")] = None
    created_after: AwareDatetime | None = None
    search: Word = None
    state: Annotated[list[JobState], Field(max_length=8)] = []
    tag: Word = None
    payload: Annotated[
        Json[dict[str, Any]] | None, Field(description="Fields of the payload, as a JSON object.")
    ] = None
    error: Annotated[Word, Field(description="Part of the error message.")] = None
    error_fingerprint: Word = None
    internal: Annotated[
        bool | None,
        Field(description="True: only jobs that the platform itself enqueues. False: all others."),
    ] = None

    def filters(self) -> dict[str, Any]:
        """Return the filters that are set, in the format of the SQL functions."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"cursor", "limit"})


class EventPage(BaseModel):
    """A page of a job's history, oldest event first.

    The request for the next page has the parameter `after=next_after`.
    """

    events: tuple[JobEvent, ...]
    next_after: int | None = None


@router.get("/jobs")
async def list_jobs(queue: CallerQueue, query: Annotated[ListQuery, Query()]) -> JobPage:
    """List jobs, newest first. A job that is enqueued between two pages does not shift the pages.

    The list ends when `next_cursor` is null. The database reads a list that is filtered by type,
    queue or search in slices. A page of a filtered list may have fewer jobs than `limit`, or none,
    although more jobs follow.
    """
    return await queue.list_jobs(**query.filters(), cursor=query.cursor, limit=query.limit)


@router.get("/jobs/counts")
async def count_jobs(
    call: WorkspaceQueue, job_type: Word = None, queue: Word = None
) -> dict[str, Any]:
    """Count a workspace's jobs by state. `at_least` names the states with more than 10,000 jobs."""
    where = {"job_type": job_type, "queue": queue}
    given = {name: value for name, value in where.items() if value is not None}
    return await call("count_jobs", filter=given)


@router.get("/jobs/failures")
async def list_failures(call: WorkspaceQueue) -> dict[str, Any]:
    """List failed jobs of a workspace, grouped by error, the largest group first."""
    return await call("dead_letters")


@router.get("/types")
async def list_types(
    call: WorkspaceQueue,
    internal: Annotated[bool, Query(description="Include the engine's types.")] = False,
) -> dict[str, Any]:
    """List job types with their workers, and today's outcomes of the workspace's jobs by type."""
    return await call("list_job_types", internal=internal)


@router.get("/types/{job_type}")
async def get_type(
    call: WorkspaceQueue, job_type: Annotated[str, Path(max_length=100)]
) -> dict[str, Any]:
    """Return a job type with schema, limits, schedules, version, workers and today's outcomes."""
    page = await call("list_job_types", job_type=job_type)
    return dict(page["types"][0])


@router.get("/jobs/{job_id:uuid}")
async def get_job(job_id: UUID, queue: CallerQueue) -> Job:
    """Return a job."""
    return await queue.get_job(str(job_id))


@router.get("/jobs/{job_id:uuid}/logs")
async def get_logs(
    job_id: UUID,
    queue: CallerQueue,
    after: After = None,
    level: Literal["debug", "info", "warning", "error"] | None = None,
    limit: Limit = 200,
) -> dict[str, Any]:
    """Return a page of a job's log lines, oldest first."""
    page = await queue.logs(str(job_id), after=after or 0, level=level, limit=limit)
    if not page["logs"]:
        await queue.get_job(str(job_id))  # `get_job` fails with 404 if no job exists
    return page


@router.get(
    "/jobs/{job_id:uuid}/events",
    response_model=EventPage,
    responses={**_STREAMED, 204: {"description": "The job has ended and every event was read."}},
)
async def get_events(
    request: Request,
    job_id: UUID,
    caller: JobFollower,
    services: Provided,
    after: After = None,
    limit: Limit = 200,
    session_id: GuestSession = None,
    last_event_id: LastEventId = None,
) -> Any:
    """Return a job's history as a JSON page, or as a stream for `Accept: text/event-stream`.

    The stream also contains the job's output, in `job.output` events with `{stream, attempt, from,
    next, text}`. If anonymous use is allowed, a guest needs no token, but only the id of the job's
    guest session. Guests get the number of a log line, but not its text.
    """
    if MEDIA_TYPE not in request.headers.get("accept", ""):
        queue = services.queue_of(caller)
        async with services.request_slot(request, caller):
            if session_id is None:
                events = await queue.events_after(str(job_id), after or 0, limit=limit)
                if not events:
                    await queue.get_job(str(job_id))  # `get_job` fails with 404 if no job exists
            else:
                page = await queue.guest_events_after(session_id, str(job_id), after or 0)
                events = page[:limit]
        more = len(events) == limit
        return EventPage(events=tuple(events), next_after=events[-1].seq if more else None)
    queue = services.stream_queue_of(caller)
    cursor = parse_job_cursor(last_event_id, after)
    feed = JobFeed(queue, str(job_id), after=cursor, session_id=session_id)
    return await stream_response(request, services, caller, feed, is_resumed=bool(last_event_id))


@router.get("/jobs/{job_id:uuid}/output/{name}")
async def get_output(
    job_id: UUID,
    name: Annotated[str, Path(max_length=100)],
    caller: JobReader,
    services: Provided,
    start: Annotated[int, Query(alias="from", ge=0, le=10**9)] = 0,
    session_id: GuestSession = None,
) -> dict[str, Any]:
    """Return a page of a job's output stream, beginning at a character or an item.

    If anonymous use is allowed, a guest needs no token, but only the id of the job's guest session.

    If `attempt` has changed since the last page, the job has restarted the stream. After a restart,
    a client drops the stream's output and reads from 0.
    """
    of: dict[str, Any] = {"job_id": job_id, "session_id": session_id}
    page: dict[str, Any] = {"stream": name, "from": start}
    return await services.queue_of(caller).call("job_output", **of, **page)


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
    """Return state changes of a workspace's jobs after a cursor, as a JSON page or a stream."""
    queue = services.stream_queue_of(caller)
    start = START_CURSOR if since == "start" else None
    feed = HistoryFeed(
        f"workspace:{workspace_id}",
        lambda after: queue.workspace_feed(str(workspace_id), after),
        after=(last_event_id or cursor or start),
    )
    return await _feed_response(request, services, caller, feed)


@router.get("/sessions/{session_id}/events", response_model=FeedPage, responses=_STREAMED)
async def get_session_events(
    request: Request,
    session_id: Annotated[str, Path(max_length=255)],
    caller: MaybeGuest,
    services: Provided,
    cursor: FeedCursor = None,
    last_event_id: LastEventId = None,
) -> Any:
    """Return events of a session's jobs without logs, as a JSON page or a stream.

    The stream also contains the output of the jobs, in `job.output` events with `{stream, attempt,
    from, next, text}`. If anonymous use is allowed, a guest session needs no token, because its id
    is secret.
    """
    queue = services.stream_queue_of(caller)
    feed = SessionFeed(queue, session_id, after=(last_event_id or cursor))
    return await _feed_response(request, services, caller, feed)


@router.get("/jobs/{job_id:uuid}/explain")
async def explain_job(job_id: UUID, queue: CallerQueue) -> dict[str, Any]:
    """Explain in a sentence and in data why a job does not run, and when it will run."""
    return await queue.call("explain_job", job_id=job_id)


@router.get("/jobs/{job_id:uuid}/attempts")
async def get_attempts(job_id: UUID, queue: CallerQueue) -> list[dict[str, Any]]:
    """List a job's latest 1,000 attempts, oldest first."""
    return list((await queue.call("job_attempts", job_id=job_id))["attempts"])


@router.get("/jobs/{job_id:uuid}/steps")
async def get_steps(
    job_id: UUID, queue: CallerQueue, after_name: str | None = None, after_nth: int = 0
) -> dict[str, Any]:
    """Return a page of about 1 MB of a job's finished steps.

    For a next page, `next` contains the parameters `after_name` and `after_nth`.
    """
    after = None if after_name is None else {"name": after_name, "nth": after_nth}
    return await queue.call("job_steps", job_id=job_id, after=after)


@router.get("/jobs/{job_id:uuid}/trace")
async def get_trace(job_id: UUID, queue: CallerQueue) -> dict[str, Any]:
    """Return attempts, steps, waits and child jobs of a job on one time axis, up to 300 jobs."""
    return await queue.call("job_trace", job_id=job_id)


async def _operator_or_user(
    request: Request, services: Provided, _: OperatorCredentials
) -> AsyncIterator[Caller | None]:
    token = bearer_token(request)
    if token and token_matches(token, services.settings.worker_secret_tokens):
        yield None
        return
    caller = await verify(request, token)
    async with services.request_slot(request, caller):
        yield caller


#: The user who calls a route about the whole queue, or None if the caller is an operator.
OperatorOrUser = Annotated[Caller | None, Depends(_operator_or_user)]


@router.get("/status")
async def get_status(
    services: Provided,
    caller: OperatorOrUser,
    workspace_id: UUID | None = None,
    minutes: Annotated[int, Query(ge=1, le=11_520, description="Window, in minutes.")] = 60,
) -> dict[str, Any]:
    """Return statistics of a workspace, or of the whole queue for an operator."""
    if caller is None:
        return await services.operator_queue.stats(minutes=minutes)
    if workspace_id is None and caller.user_id is not None:
        raise invalid_argument("workspace_id", "is required", location="query")
    return await services.queue_of(caller).call(
        "queue_stats", workspace_id=workspace_id, minutes=minutes
    )


@router.get("/status/explain")
async def explain_queue(
    services: Provided, caller: OperatorOrUser, workspace_id: UUID | None = None
) -> dict[str, Any]:
    """Return the problems of a workspace, or of the whole queue for an operator."""
    if caller is None:
        return await services.operator_queue.explain()
    return await services.queue_of(caller).call("explain_queue", workspace_id=workspace_id)


async def _feed_response(
    request: Request, services: Services, caller: Caller | None, feed: HistoryFeed
) -> FeedPage | Response:
    if MEDIA_TYPE not in request.headers.get("accept", ""):
        async with services.request_slot(request, caller):
            return await feed.page()
    # two Lambda functions may serve a workspace's stream, so use the shorter of their two time
    # limits
    return await stream_response(request, services, caller, feed, wait=sse.BUFFERED_SECONDS)
