"""The queue as its users see it: a method for each SQL function, called with the user's own JWT."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from uuid import UUID

from minutehand.config import Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.keys import caller_headers, is_guest_session
from minutehand.queue.models import (
    Cursor,
    Enqueued,
    EnqueuedBatch,
    EnqueueOptions,
    FeedPage,
    Job,
    JobEvent,
    JobId,
    JobPage,
    ListedJob,
    NewJob,
    TopicFollowed,
    WorkspaceId,
)
from minutehand.queue.realtime import MESSAGE_VERSION

#: Not columns: the functions that return jobs add these.
_DERIVED: Final = frozenset(
    {"state", "next_run_at", "waiting_for", "running_since", "worker_id", "error", "times"}
)
#: Named one by one, because clients may not read the lease columns and `*` would ask for them.
JOB_COLUMNS: Final = ",".join(name for name in Job.model_fields if name not in _DERIVED)
_NO_OPTIONS: Final = EnqueueOptions()


class QueueClient:
    """One process's way to the queue; `acting_as` gives it a user's eyes and hands."""

    def __init__(self, settings: Settings, *, api: DataApi | None = None) -> None:
        self._settings = settings
        self.api = api or DataApi(settings.supabase_url, schema=settings.schema_name)

    def acting_as(self, token: str | None) -> UserQueue:
        """The queue as the bearer of `token` sees it; None for an anonymous guest."""
        return UserQueue(self.api, caller_headers(self._settings, token))

    async def aclose(self) -> None:
        """Close the connections."""
        await self.api.aclose()


class JobCalls(ABC):
    """Every function but the two that add jobs, however they are called."""

    async def get_job(self, job_id: JobId | str) -> Job:
        """The job as it is now."""
        return Job.model_validate(await self._call("get_job", job_id=job_id))

    async def list_jobs(
        self,
        workspace_id: WorkspaceId | str | None = None,
        *,
        cursor: str | None = None,
        limit: int = 50,
        **where: Any,
    ) -> JobPage:
        """A page of jobs, newest first, without payloads and results: `get_job` has those."""
        after = Cursor.decode(cursor).model_dump() if cursor is not None else None
        chosen = _given({"workspace_id": workspace_id, **where})
        page = await self._call("list_jobs", filter=chosen, cursor=after, limit=limit)
        return JobPage(
            jobs=tuple(ListedJob.model_validate(job) for job in page["jobs"]),
            next_cursor=page["next"] and Cursor.model_validate(page["next"]).encode(),
        )

    async def counts(self, workspace_id: str, where: Mapping[str, Any]) -> dict[str, Any]:
        """How many jobs of a workspace are in each state."""
        counted = await self._call("count_jobs", workspace_id=workspace_id, filter=where)
        return dict(counted)

    async def search_logs(
        self,
        workspace_id: WorkspaceId | str,
        where: Mapping[str, Any],
        *,
        before: int | None = None,
        limit: int = 100,
    ) -> dict[str, Any]:
        """Log lines of a workspace's jobs, newest first; `before` is `next` of the page before."""
        found = await self._call(
            "search_logs",
            workspace_id=workspace_id,
            filter=_given(where),
            before=before,
            limit=limit,
        )
        return dict(found)

    async def job_types(
        self, workspace_id: WorkspaceId | str | None = None, *, internal: bool = False
    ) -> dict[str, Any]:
        """Job types by name, with how their jobs went in a workspace; None is the operator's."""
        arguments: dict[str, Any] = {"workspace_id": workspace_id, "internal": internal}
        return dict(await self._call("list_job_types", **arguments))

    async def job_type(
        self, job_type: str, workspace_id: WorkspaceId | str | None = None
    ) -> dict[str, Any]:
        """Everything about one job type."""
        arguments: dict[str, Any] = {"job_type": job_type, "workspace_id": workspace_id}
        return dict(await self._call("get_job_type", **arguments))

    async def logs(
        self, job_id: JobId | str, *, after: int = 0, level: str | None = None, limit: int = 200
    ) -> dict[str, Any]:
        """Log lines with an id above `after`, oldest first; empty for a job that is not yours."""
        params = [
            ("select", "id,job_id,attempt,log_level,message,metadata,created_at"),
            ("job_id", f"eq.{job_id}"),
            ("id", f"gt.{after}"),
            ("order", "id.asc"),
            ("limit", str(limit + 1)),
        ]
        if level is not None:
            params.append(("log_level", f"eq.{level}"))
        rows = await self.select("job_logs", params)
        logs = rows[:limit]
        return {"logs": logs, "next_after": logs[-1]["id"] if len(rows) > limit else None}

    async def events_after(
        self, job_id: JobId | str, seq: int = 0, *, limit: int = 500
    ) -> list[JobEvent]:
        """Events with a `seq` above `seq`, in order; empty for a job that is not yours."""
        params = [
            ("select", ",".join(JobEvent.model_fields)),
            ("job_id", f"eq.{job_id}"),
            ("seq", f"gt.{seq}"),
            ("order", "seq.asc"),
            ("limit", str(limit)),
        ]
        return [JobEvent.model_validate(row) for row in await self.select("job_events", params)]

    async def follow_topic(self, topic: str, follower_id: UUID) -> TopicFollowed:
        """Say that a client listens to a private topic, at its join and then now and then."""
        arguments: dict[str, Any] = {
            "topic": topic,
            "follower_id": str(follower_id),
            "version": MESSAGE_VERSION,
        }
        return TopicFollowed.model_validate(await self._call("follow_topic", **arguments))

    async def workspace_feed(
        self, workspace_id: WorkspaceId | str, cursor: str | None = None, *, limit: int = 500
    ) -> FeedPage:
        """State changes of a workspace's jobs, each exactly once; without a cursor, from now on."""
        arguments: dict[str, Any] = {"workspace_id": workspace_id, "cursor": cursor, "limit": limit}
        return FeedPage.model_validate(await self._call("event_feed", **arguments))

    async def session_feed(
        self, session_id: str, cursor: str | None = None, *, limit: int = 500
    ) -> FeedPage:
        """Events of a session's jobs but for logs; without a cursor, from the beginning."""
        function = "guest_session_feed" if is_guest_session(session_id) else "session_feed"
        return FeedPage.model_validate(
            await self._call(function, session_id=session_id, cursor=cursor, limit=limit)
        )

    async def explain(self, job_id: JobId | str) -> dict[str, Any]:
        """Why the job is not running, and when it will."""
        return dict(await self._call("explain_job", job_id=job_id))

    async def attempts(self, job_id: JobId | str) -> list[dict[str, Any]]:
        """The job's latest attempts, oldest first, as the database keeps them."""
        return list((await self._call("job_attempts", job_id=job_id))["attempts"])

    async def steps(
        self, job_id: JobId | str, *, after: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A page of the job's finished steps, after `next` of another, and what it waits for."""
        return dict(await self._call("job_steps", job_id=job_id, after=after))

    async def trace(self, job_id: JobId | str) -> dict[str, Any]:
        """The job's attempts, steps and waits with their spans, and those of its children."""
        return dict(await self._call("job_trace", job_id=job_id))

    async def cancel(self, job_id: JobId | str) -> Job:
        """Cancel a job in any live state; a running one stops within a heartbeat."""
        return Job.model_validate(await self._call("cancel_job", job_id=job_id))

    async def retry(self, job_id: JobId | str, *, payload: Any = None) -> Job:
        """Run a failed or cancelled job again, with `payload` in place of its own where given."""
        given = {} if payload is None else {"payload": payload}
        return Job.model_validate(await self._call("retry_job", job_id=job_id, **given))

    async def change_many(
        self,
        action: Literal["cancel", "retry"],
        workspace_id: WorkspaceId | str,
        where: Mapping[str, Any],
        *,
        limit: int = 1000,
    ) -> dict[str, Any]:
        """Cancel or retry jobs that match a filter; repeat while the answer's `more` is true."""
        arguments: dict[str, Any] = {
            "workspace_id": workspace_id,
            "filter": dict(where),
            "limit": limit,
        }
        return dict(await self._call(f"{action}_jobs", **arguments))

    async def replay(
        self,
        job_id: JobId | str,
        *,
        from_step: str | None = None,
        payload: Any = None,
        results: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Enqueued:
        """Run a job again as a new one, whose `replay_of` is its id."""
        request = {
            "from_step": from_step,
            "payload": payload,
            "results": results,
            "idempotency_key": idempotency_key,
        }
        made = await self._call(
            "replay_job",
            repeatable=idempotency_key is not None,
            job_id=job_id,
            request=_given(request),
        )
        return Enqueued.model_validate(made)

    async def replays(self, job_id: JobId | str) -> list[dict[str, Any]]:
        """The job, what it is a replay of, and all their replays, oldest first."""
        return list(await self._call("job_replays", job_id=job_id))

    async def answer(self, job_id: JobId | str, answer: Any) -> Job:
        """Answer the question a waiting job asks."""
        # wrapped, because a bare JSON string as a jsonb argument does not survive every Data API
        wrapped = {"answer": answer}
        return Job.model_validate(
            await self._call("answer_job", repeatable=False, job_id=job_id, answer=wrapped)
        )

    async def emit_event(
        self, workspace_id: WorkspaceId | str, name: str, payload: Any = None
    ) -> Any:
        """Resume every job of the workspace that waits for the event `name`."""
        given = {} if payload is None else payload
        return await self._call(
            "emit_event", repeatable=False, workspace_id=workspace_id, name=name, payload=given
        )

    async def is_member(self, workspace_id: WorkspaceId | str) -> bool:
        """Whether the caller belongs to the workspace, as its policy sees it."""
        return bool(
            await self.select("workspaces", [("select", "id"), ("id", f"eq.{workspace_id}")])
        )

    async def open_stream(self) -> None:
        """Count a stream that the caller is about to open; refused with `rate_limited`."""
        await self._call("open_stream", repeatable=False)

    async def stats(
        self, workspace_id: WorkspaceId | str | None = None, *, minutes: int = 60
    ) -> dict[str, Any]:
        """Counts and percentiles of one workspace; of all of them for an operator."""
        arguments: dict[str, Any] = {"workspace_id": workspace_id, "minutes": minutes}
        return dict(await self._call("queue_stats", **arguments))

    @abstractmethod
    async def select(self, table: str, params: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Rows of a table or view that the caller may see, in PostgREST's own filter words."""

    @abstractmethod
    async def _call(self, function: str, /, *, repeatable: bool = True, **arguments: Any) -> Any:
        """Call a SQL function by its parameters' names without their `p_`."""


class UserQueue(JobCalls):
    """Calls under one user's JWT; cheap to make, one per request."""

    def __init__(
        self, api: DataApi, headers: Mapping[str, str], *, attempts: int | None = None
    ) -> None:
        self._api = api
        self._headers = headers
        self._attempts = attempts

    async def enqueue(
        self,
        workspace_id: WorkspaceId | str,
        job_type: str,
        payload: Any = None,
        *,
        options: EnqueueOptions = _NO_OPTIONS,
    ) -> Enqueued:
        """Add one job; with an idempotency key, or find the one that key made."""
        made = await self._call(
            "enqueue_job",
            repeatable=options.idempotency_key is not None,
            workspace_id=workspace_id,
            job_type=job_type,
            payload={} if payload is None else payload,
            options=options.wire(),
        )
        return Enqueued.model_validate(made)

    async def enqueue_many(
        self, workspace_id: WorkspaceId | str, jobs: Sequence[NewJob]
    ) -> EnqueuedBatch:
        """Add up to 1,000 jobs in one transaction, all or nothing."""
        made = await self._call(
            "enqueue_jobs",
            repeatable=all(job.options.idempotency_key is not None for job in jobs),
            workspace_id=workspace_id,
            jobs=[job.wire() for job in jobs],
        )
        return EnqueuedBatch.model_validate(made)

    async def select(self, table: str, params: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """As `JobCalls.select`."""
        return await self._api.select(table, params, headers=self._headers)

    async def _call(self, function: str, /, *, repeatable: bool = True, **arguments: Any) -> Any:
        return await self._api.rpc(
            function,
            {f"p_{name}": value for name, value in arguments.items()},
            headers=self._headers,
            repeatable=repeatable,
            attempts=self._attempts,
        )


def _given(where: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in where.items() if value is not None}
