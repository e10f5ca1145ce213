"""Client of the queue for users. Each method calls a SQL function with the user's token (JWT)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from minutehand.config import Settings
from minutehand.queue.credentials import caller_headers
from minutehand.queue.data_api import DEFAULT_CONNECTIONS, DataApi
from minutehand.queue.functions import CallerFunctions
from minutehand.queue.models import (
    Enqueued,
    EnqueuedBatch,
    FeedPage,
    GuestJob,
    Job,
    JobEvent,
    JobId,
    JobPage,
    JobRequest,
    NewJob,
    WorkspaceId,
)
from minutehand.queue.responses import reading


class QueueClient(DataApi):
    """Client of the queue for a whole process.

    `acting_as` returns a client that calls functions with the rights of one user.
    """

    def __init__(self, settings: Settings, *, connections: int = DEFAULT_CONNECTIONS) -> None:
        self._settings = settings
        super().__init__(
            settings.supabase_url, schema=settings.schema_name, connections=connections
        )

    def acting_as(
        self, token: str | None, *, signed: Callable[[], Awaitable[Mapping[str, str]]] | None = None
    ) -> UserQueue:
        """Return a client with the rights of `token`.

        For a guest, who has no token, `signed` returns additional headers.
        """
        headers = caller_headers(self._settings, token)
        return UserQueue(self, headers, signed=signed if token is None else None)


class UserQueue(CallerFunctions):
    """Calls the SQL functions for members and guests with the token of one user.

    Use `call` for functions that return plain JSON, such as `explain_job` and `job_trace`.
    """

    async def enqueue(
        self, job_type: str, payload: Any = None, *, workspace_id: WorkspaceId | str, **options: Any
    ) -> Enqueued:
        """Add a job, or return the existing job with the same idempotency key."""
        arguments = {} if payload is None else payload
        request = JobRequest(job_type=job_type, payload=arguments, **options)
        return await self.add(request, workspace_id=workspace_id)

    async def add(self, request: JobRequest, *, workspace_id: WorkspaceId | str) -> Enqueued:
        """Add a job from a parsed request, or return the existing job with its idempotency key."""
        return await self.call(
            "enqueue_job",
            parse=reading(Enqueued),
            repeatable=request.idempotency_key is not None,
            workspace_id=workspace_id,
            job_type=request.job_type,
            payload=request.payload,
            options=request.options(),
        )

    async def enqueue_many(
        self, jobs: Sequence[NewJob | JobRequest], *, workspace_id: WorkspaceId | str
    ) -> EnqueuedBatch:
        """Add up to 1,000 jobs in one transaction. If one job is rejected, add no job."""
        wired = [job.wire() for job in jobs]
        return await self.call(
            "enqueue_jobs",
            parse=reading(EnqueuedBatch),
            repeatable=all("idempotency_key" in job for job in wired),
            workspace_id=workspace_id,
            jobs=wired,
        )

    async def get_job(self, job_id: JobId | str) -> Job:
        """Return the job in its current state."""
        return await self.call("get_job", parse=reading(Job), job_id=job_id)

    async def list_jobs(
        self,
        workspace_id: WorkspaceId | str | None = None,
        *,
        cursor: UUID | str | None = None,
        limit: int = 50,
        **where: Any,
    ) -> JobPage:
        """Return a page of jobs, newest first.

        The jobs have no payloads and results, see `get_job`.
        """
        after = None if cursor is None else {"id": cursor}
        filters = _without_none({"workspace_id": workspace_id, **where})
        return await self.call(
            "list_jobs", parse=JobPage.read, filter=filters, cursor=after, limit=limit
        )

    async def logs(
        self, job_id: JobId | str, *, after: int = 0, level: str | None = None, limit: int = 200
    ) -> dict[str, Any]:
        """Return a job's log lines with an id above `after`, oldest first.

        The page is empty if the user cannot see the job.
        """
        rows = await self.select(
            "job_logs",
            ("select", "id,job_id,attempt,log_level,message,metadata,created_at"),
            ("job_id", f"eq.{job_id}"),
            ("id", f"gt.{after}"),
            ("order", "id.asc"),
            ("limit", str(limit + 1)),
            *([] if level is None else [("log_level", f"eq.{level}")]),
        )
        logs = rows[:limit]
        return {"logs": logs, "next_after": logs[-1]["id"] if len(rows) > limit else None}

    async def events_after(
        self, job_id: JobId | str, seq: int = 0, *, limit: int = 500
    ) -> list[JobEvent]:
        """Return a job's events numbered above `seq`, in order.

        The list is empty if the user cannot see the job.
        """
        return await self.select(
            "job_events",
            ("select", ",".join(JobEvent.model_fields)),
            ("job_id", f"eq.{job_id}"),
            ("seq", f"gt.{seq}"),
            ("order", "seq.asc"),
            ("limit", str(limit)),
            parse=reading(list[JobEvent]),
        )

    async def guest_events_after(
        self, session_id: str, job_id: JobId | str, seq: int = 0
    ) -> list[JobEvent]:
        """Return up to 500 events of a guest session's job. A log event has only its `seq`."""
        page = reading(GuestJob)
        job = await self.call(
            "guest_job", parse=page, session_id=session_id, job_id=job_id, after=seq
        )
        return list(job.events)

    async def workspace_feed(
        self, workspace_id: WorkspaceId | str, cursor: str | None = None, *, limit: int = 500
    ) -> FeedPage:
        """Return a page of state changes of a workspace's jobs.

        Without a cursor, the feed begins now.
        """
        page = reading(FeedPage)
        return await self.call(
            "event_feed", parse=page, workspace_id=workspace_id, cursor=cursor, limit=limit
        )

    async def session_feed(
        self, session_id: str, cursor: str | None = None, *, limit: int = 500
    ) -> FeedPage:
        """Return events of a session's jobs, except logs.

        Without a cursor, the page begins at the first event.
        """
        page = reading(FeedPage)
        return await self.call(
            "session_feed", parse=page, session_id=session_id, cursor=cursor, limit=limit
        )

    async def cancel(self, job_id: JobId | str, *, retry: bool = False) -> Job:
        """Cancel a job that has not ended.

        A worker that responds asks a running job to stop within five seconds.

        Args:
            retry: Retry the job once it has ended, unless it completes first.
        """
        return await self.call(
            "cancel_job", parse=reading(Job), repeatable=not retry, job_id=job_id, retry=retry
        )

    async def retry(self, job_id: JobId | str, *, payload: Any = None) -> Job:
        """Run a failed or cancelled job again. `payload`, if set, replaces the job's payload."""
        arguments = _without_none({"payload": payload})
        job: Job = await self.call("retry_job", parse=reading(Job), job_id=job_id, **arguments)
        return job

    async def replay(
        self, job_id: JobId | str, *, idempotency_key: str | None = None, **changes: Any
    ) -> Enqueued:
        """Run a job again as a new job, optionally with another `payload` or from a later step."""
        return await self.call(
            "replay_job",
            parse=reading(Enqueued),
            repeatable=idempotency_key is not None,
            job_id=job_id,
            request=_without_none({"idempotency_key": idempotency_key, **changes}),
        )

    async def answer(self, job_id: JobId | str, answer: Any, *, name: str | None = None) -> Job:
        """Answer the question for which a job waits, if it has the given name."""
        # wrap the answer in an object, because some Data APIs do not pass a plain JSON string as
        # jsonb
        wrapped = {"answer": answer, "name": name}
        return await self.call(
            "answer_job", parse=reading(Job), repeatable=False, job_id=job_id, answer=wrapped
        )

    async def emit_event(
        self, workspace_id: WorkspaceId | str, name: str, payload: Any = None
    ) -> dict[str, Any]:
        """Emit an event, which resumes all jobs of the workspace that wait for its name."""
        return await self.call(
            "emit_event",
            repeatable=False,
            workspace_id=workspace_id,
            name=name,
            payload={} if payload is None else payload,
        )

    async def pause(
        self,
        workspace_id: UUID | str,
        paused: bool,
        *,
        job_type: str | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        """Pause or resume a workspace, or one of its job types.

        While the workspace or job type is paused, none of its jobs start.
        """
        workspace = str(workspace_id)
        kind, name = ("workspace", workspace) if job_type is None else ("workspace_type", job_type)
        request = {"kind": kind, "name": name, "workspace_id": workspace, "paused": paused}
        result = await self.call("pause_jobs", request={**request, "reason": reason})
        # return the resulting state, not the requested state, because another pause may still apply
        state = {"paused": result["paused"], "left": result.get("left", [])}
        return {"workspace_id": workspace, "job_type": job_type, **state}


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
