"""The write routes. Each route calls a SQL function with the caller's token, then wakes a worker.

The database decides which calls the caller may make. This module parses requests and builds
responses.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from minutehand.functions.jobs.models import (
    Answer,
    CancelJob,
    CancelJobs,
    CreatedJob,
    CreatedJobs,
    CreateJob,
    CreateJobs,
    EditJob,
    EmitEvent,
    ManyJobs,
    Replay,
)
from minutehand.queue.client import UserQueue
from minutehand.queue.errors import QueueError
from minutehand.queue.models import Enqueued, Job
from minutehand.web.auth import CallerQueue, bearer_token, verify
from minutehand.web.idempotency import IdempotencyHeader, key_of_part, one_key, parse_key
from minutehand.web.services import Provided, services_of


class _BulkRoute(APIRoute):
    """Rejects a caller's second concurrent bulk request before its large body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle_with_slot(request: Request) -> Response:
            caller = await verify(request, bearer_token(request))
            if caller.user_id is None:  # the project's own server may send concurrent bulk requests
                return await handler(request)
            with services_of(request).bulks.slot(str(caller.user_id)):
                return await handler(request)

        return handle_with_slot


router = APIRouter(prefix="/api", tags=["jobs"])
bulks = APIRouter(prefix="/api", tags=["jobs"], route_class=_BulkRoute)

#: Maximum bytes of a bulk request, which has room for a thousand jobs of four kilobytes each.
#: Lambda accepts 6 MB.
BODY_LIMITS = {"/api/jobs/bulk": 4 * 1024 * 1024}
#: Maximum unknown job types that the warning of a bulk request names, because each needs a read.
MAX_WARNINGS = 5
_REPEATED: dict[int | str, dict[str, Any]] = {
    200: {"model": Job, "description": "The job that already has this idempotency key."}
}


@router.post("/jobs", status_code=201, responses=_REPEATED)
async def create_job(
    body: CreateJob,
    queue: CallerQueue,
    services: Provided,
    response: Response,
    idempotency_key: IdempotencyHeader = None,
) -> CreatedJob:
    """Enqueue a job.

    If no worker has served the job's type, `warning` is set, and the job waits for a worker.
    """
    key = one_key(idempotency_key, body.idempotency_key)
    enqueued = await queue.add(body.with_key(key), workspace_id=str(body.workspace_id))
    job = await _complete_response(enqueued, services, response)
    # use `model_construct`, because the queue client has just validated the job
    return CreatedJob.model_construct(**dict(job), warning=await _warning(queue, [job]))


async def _warning(queue: UserQueue, jobs: Iterable[Job]) -> str | None:
    """Return warnings for the first job types that no worker has published, or None."""
    # only a job whose type was not published has no schema version
    waiting = {job.job_type: job.workspace_id for job in jobs if not job.schema_version}
    warnings = [await _unpublished(queue, *item) for item in [*waiting.items()][:MAX_WARNINGS]]
    return " ".join(filter(None, warnings)) or None


async def _unpublished(queue: UserQueue, job_type: str, workspace_id: str) -> str | None:
    """Return a warning that names the most similar job type.

    Return None if a worker has published the job type.
    """
    try:
        page = await queue.call("list_job_types", workspace_id=workspace_id, job_type=job_type)
    except QueueError as error:
        if error.word != "unknown_job_type":
            raise
        # no warning, because the job has ended and the workspace has no other job of the type
        return None
    [kind] = page["types"]
    if kind["published"]:
        return None
    nearest = f" The most similar type is {kind['nearest']}." if kind["nearest"] else ""
    return f"No worker serves the job type {job_type} yet: the job waits until one does.{nearest}"


async def _complete_response(enqueued: Enqueued, services: Provided, response: Response) -> Job:
    """Wake a worker if needed, and set the response's headers.

    The status is 200 if the job existed.
    """
    if enqueued.wake:
        await services.waker.wake()
    response.headers["Location"] = f"/api/jobs/{enqueued.job.id}"
    if not enqueued.created:
        response.status_code = 200
        response.headers["Idempotent-Replayed"] = "true"
    return enqueued.job


@bulks.post("/jobs/bulk", status_code=201, response_model=CreatedJobs)
async def create_jobs(
    body: CreateJobs,
    queue: CallerQueue,
    services: Provided,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Enqueue up to 1,000 jobs, all or none. A user may send one bulk request at a time."""
    header_key = parse_key(idempotency_key)
    jobs = [
        job.with_key(key_of_part(header_key, at, job.idempotency_key))
        for at, job in enumerate(body.jobs)
    ]
    batch = await queue.enqueue_many(jobs, workspace_id=str(body.workspace_id))
    if batch.wake:
        await services.waker.wake()
    warning = await _warning(queue, (line.job for line in batch.jobs))
    created = CreatedJobs(jobs=batch.jobs, warning=warning)
    # use a thread, because the serialization of a thousand jobs would block the event loop
    content = await asyncio.to_thread(created.model_dump_json)
    return Response(content, status_code=201, media_type="application/json")


@router.post("/jobs/cancel")
async def cancel_jobs(body: CancelJobs, queue: CallerQueue, services: Provided) -> dict[str, Any]:
    """Cancel a batch of a workspace's live jobs that match the filter.

    Only managers of the workspace may call the route.
    """
    changed: dict[str, Any] = await queue.call(
        "cancel_jobs", repeatable=not body.retry, **dict(body)
    )
    if body.retry:
        await services.waker.wake()
    return changed


@router.post("/jobs/retry")
async def retry_jobs(body: ManyJobs, queue: CallerQueue, services: Provided) -> dict[str, Any]:
    """Retry a batch of a workspace's failed or delayed jobs that match the filter.

    Only managers of the workspace may call the route.
    """
    changed: dict[str, Any] = await queue.call("retry_jobs", **dict(body))
    await services.waker.wake()
    return changed


@router.post("/jobs/{job_id:uuid}/cancel")
async def cancel_job(
    job_id: UUID, queue: CallerQueue, services: Provided, body: CancelJob | None = None
) -> Job:
    """Cancel a job that has not ended.

    A worker that responds asks a running job to stop within five seconds. Otherwise the job ends
    after its lease has expired.

    With `retry`, the job is retried once it has ended, unless it completes first.
    """
    retry = body is not None and body.retry
    job = await queue.cancel(str(job_id), retry=retry)
    if retry:
        await services.waker.wake()
    return job


@router.post("/jobs/{job_id:uuid}/retry")
async def retry_job(
    job_id: UUID, queue: CallerQueue, services: Provided, body: EditJob | None = None
) -> Job:
    """Run a failed or cancelled job again, optionally with another payload."""
    job = await queue.retry(str(job_id), payload=body and body.payload)
    await services.waker.wake()
    return job


@router.post("/jobs/{job_id:uuid}/replay", status_code=201, responses=_REPEATED)
async def replay_job(
    job_id: UUID,
    body: Replay,
    queue: CallerQueue,
    services: Provided,
    response: Response,
    idempotency_key: IdempotencyHeader = None,
) -> Job:
    """Run a job again as a new job, from a finished step or from its start."""
    enqueued = await queue.replay(
        str(job_id), **body.model_dump(), idempotency_key=parse_key(idempotency_key)
    )
    return await _complete_response(enqueued, services, response)


@router.post("/jobs/{job_id:uuid}/answer")
async def answer_job(job_id: UUID, body: Answer, queue: CallerQueue, services: Provided) -> Job:
    """Answer the question that a job waits for."""
    job = await queue.answer(str(job_id), body.answer, name=body.name)
    await services.waker.wake()
    return job


@router.post("/events", status_code=202)
async def emit_event(body: EmitEvent, queue: CallerQueue, services: Provided) -> dict[str, Any]:
    """Emit an event, for which jobs of a workspace may wait by its name."""
    result = await queue.emit_event(str(body.workspace_id), body.name, body.payload)
    await services.waker.wake()
    return result
