"""The write routes: each is one call of the queue under the caller's token, then a wake-up.

What a caller may do is decided by the database; this module shapes requests and answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from minutehand.functions.jobs.models import (
    Answer,
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
from minutehand.web.auth import SignedIn, bearer_token, verify
from minutehand.web.idempotency import IdempotencyHeader, key_of_part, one_key, parse_key
from minutehand.web.services import Provided, services_of


class _HeldRoute(APIRoute):
    """Refuses a bulk before its body is read: that is work in the process that answers everyone."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_held(request: Request) -> Response:
            caller = await verify(request, bearer_token(request))
            if caller.user_id is None:  # the project's own service may send many at once
                return await answer(request)
            with services_of(request).bulks.held(str(caller.user_id)):
                return await answer(request)

        return answer_held


router = APIRouter(prefix="/api", tags=["jobs"])
bulks = APIRouter(prefix="/api", tags=["jobs"], route_class=_HeldRoute)

#: A thousand jobs of four kilobytes each; Lambda itself takes no more than 6 MB.
BODY_LIMITS = {"/api/jobs/bulk": 4 * 1024 * 1024}
#: Mistyped types of a bulk that its warning names: each is a read.
MOST_WARNED = 5
_REPEATED: dict[int | str, dict[str, Any]] = {
    200: {"model": Job, "description": "The key was used before: its job."}
}


@router.post("/jobs", status_code=201, responses=_REPEATED)
async def create_job(
    body: CreateJob,
    caller: SignedIn,
    services: Provided,
    response: Response,
    idempotency_key: IdempotencyHeader = None,
) -> CreatedJob:
    """Enqueue a job; of a type that no worker has published it waits, and `warning` says so."""
    key = one_key(idempotency_key, body.idempotency_key)
    queue = services.queue_of(caller)
    enqueued = await queue.add(body.with_key(key), workspace_id=str(body.workspace_id))
    job = await _answer_enqueued(enqueued, services, response)
    # the job was read a moment ago, and is not read again for a word beside it
    return CreatedJob.model_construct(**dict(job), warning=await _warning(queue, [job]))


async def _warning(queue: UserQueue, jobs: Iterable[Job]) -> str | None:
    """A sentence for each of the first types of jobs that no worker has; None if all have one."""
    # what a published type's jobs are checked against has a version
    waiting = {job.job_type: job.workspace_id for job in jobs if not job.schema_version}
    said = [await _unpublished(queue, *one) for one in [*waiting.items()][:MOST_WARNED]]
    return " ".join(filter(None, said)) or None


async def _unpublished(queue: UserQueue, job_type: str, workspace_id: str) -> str | None:
    """That no worker has a type, and the nearest that one has; None if one has."""
    try:
        found = await queue.call("list_job_types", workspace_id=workspace_id, job_type=job_type)
    except QueueError as error:
        if error.word != "unknown_job_type":
            raise
        return None  # its job has ended meanwhile
    [kind] = found["types"]
    if kind["published"]:
        return None
    nearest = f" The nearest that a worker has is {kind['nearest']}." if kind["nearest"] else ""
    return (
        f"No worker has published the job type {job_type}: the job waits until one does.{nearest}"
    )


async def _answer_enqueued(enqueued: Enqueued, services: Provided, response: Response) -> Job:
    """Wake a worker where one is wanted; 200 in place of 201 for a job that was there."""
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
    caller: SignedIn,
    services: Provided,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Enqueue up to 1,000 jobs in one transaction, all or none; one call of yours at a time."""
    queue = services.queue_of(caller)
    header_key = parse_key(idempotency_key)
    keys = [key_of_part(header_key, at, job.idempotency_key) for at, job in enumerate(body.jobs)]
    batch = await queue.enqueue_many(
        [job.with_key(key) for job, key in zip(body.jobs, keys, strict=True)],
        workspace_id=str(body.workspace_id),
    )
    if batch.wake:
        await services.waker.wake()
    warning = await _warning(queue, (line.job for line in batch.jobs))
    made = CreatedJobs(jobs=batch.jobs, warning=warning)
    # a thousand rows: written beside the loop, in which all others are answered
    content = await asyncio.to_thread(made.model_dump_json)
    return Response(content, status_code=201, media_type="application/json")


@router.post("/jobs/cancel")
async def cancel_jobs(body: ManyJobs, caller: SignedIn, services: Provided) -> dict[str, Any]:
    """Cancel the live jobs that match, a batch a call; for managers."""
    return await services.queue_of(caller).call("cancel_jobs", **dict(body))


@router.post("/jobs/retry")
async def retry_jobs(body: ManyJobs, caller: SignedIn, services: Provided) -> dict[str, Any]:
    """Run the failed jobs that match again, a batch a call; for managers."""
    changed: dict[str, Any] = await services.queue_of(caller).call("retry_jobs", **dict(body))
    await services.waker.wake(reason="retry")
    return changed


@router.post("/jobs/{job_id:uuid}/cancel")
async def cancel_job(job_id: UUID, caller: SignedIn, services: Provided) -> Job:
    """Cancel a job in any live state; a running one stops within five seconds."""
    return await services.queue_of(caller).cancel(str(job_id))


@router.post("/jobs/{job_id:uuid}/retry")
async def retry_job(
    job_id: UUID, caller: SignedIn, services: Provided, body: EditJob | None = None
) -> Job:
    """Run a failed or cancelled job again, with another payload where one is given."""
    job = await services.queue_of(caller).retry(str(job_id), payload=body and body.payload)
    await services.waker.wake(reason="retry")
    return job


@router.post("/jobs/{job_id:uuid}/replay", status_code=201, responses=_REPEATED)
async def replay_job(
    job_id: UUID,
    body: Replay,
    caller: SignedIn,
    services: Provided,
    response: Response,
    idempotency_key: IdempotencyHeader = None,
) -> Job:
    """Run a job again as a new one, from a finished step or from its start."""
    enqueued = await services.queue_of(caller).replay(
        str(job_id), **body.model_dump(), idempotency_key=parse_key(idempotency_key)
    )
    return await _answer_enqueued(enqueued, services, response)


@router.post("/jobs/{job_id:uuid}/answer")
async def answer_job(job_id: UUID, body: Answer, caller: SignedIn, services: Provided) -> Job:
    """Answer the question a job waits with."""
    job = await services.queue_of(caller).answer(str(job_id), body.answer)
    await services.waker.wake(reason="answer")
    return job


@router.post("/events", status_code=202)
async def emit_event(body: EmitEvent, caller: SignedIn, services: Provided) -> dict[str, Any]:
    """Emit an event to the jobs of a workspace that wait for its name."""
    result = await services.queue_of(caller).emit_event(
        str(body.workspace_id), body.name, body.payload
    )
    await services.waker.wake(reason="event")
    return result
