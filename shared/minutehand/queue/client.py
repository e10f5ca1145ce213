"""The queue as its users see it: enqueue, read, cancel, answer, each with the user's own JWT.

The database decides what a caller sees; the worker's side is worker_client.py.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, Protocol
from uuid import UUID

from minutehand.config import Settings
from minutehand.queue.broadcasts import MESSAGE_VERSION
from minutehand.queue.data_api import DataApi
from minutehand.queue.keys import caller_headers, is_guest_session
from minutehand.queue.models import (
    Artefact,
    Artefacts,
    Cursor,
    Enqueued,
    EnqueuedBatch,
    EnqueueOptions,
    Explanation,
    FeedPage,
    FoundLines,
    GuestSession,
    Job,
    JobCounts,
    JobEvent,
    JobId,
    JobLog,
    JobPage,
    JobSteps,
    JobTrace,
    JobTypeDetail,
    JobTypes,
    ListedJob,
    LogPage,
    ManyChanged,
    NewJob,
    QueueStats,
    SortedJobs,
    Status,
    TopicFollowed,
    WorkspaceId,
)

#: Named one by one, because clients may not read the lease columns and `*` would ask for them.
#: Not columns: the functions that return jobs add these.
DERIVED: Final = frozenset(
    {"state", "next_run_at", "waiting_for", "running_since", "worker_id", "error", "times"}
)
JOB_COLUMNS: Final = ",".join(name for name in Job.model_fields if name not in DERIVED)
_NO_OPTIONS: Final = EnqueueOptions()
_NOTHING: Final[Mapping[str, Any]] = {}


def _given(where: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in where.items() if value is not None}


class Calls(Protocol):
    """A way to the SQL functions and tables of one project; `DataApi` is one."""

    async def rpc(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        repeatable: bool,
    ) -> Any:
        """Call a SQL function and return its one JSON value."""

    async def select(
        self, table: str, params: Sequence[tuple[str, str]], *, headers: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Read rows of a table or view under the caller's row level security."""


class QueueClient:
    """One process's way to the queue; `acting_as` gives it a user's eyes and hands.

    Example:
        client = QueueClient(settings)
        enqueued = await client.acting_as(user_jwt).enqueue(workspace_id, "enrich_account", {...})
    """

    def __init__(self, settings: Settings, *, api: DataApi | None = None) -> None:
        self._settings = settings
        self.api = api or DataApi(settings.supabase_url, schema=settings.schema_name)

    def acting_as(self, token: str | None) -> UserQueue:
        """The queue as the bearer of `token` sees it; None for an anonymous guest."""
        return UserQueue(self.api, caller_headers(self._settings, token))

    async def aclose(self) -> None:
        """Close the connections."""
        await self.api.aclose()


class UserQueue:
    """Calls under one user's JWT; cheap to make, one per request."""

    def __init__(self, api: Calls, headers: Mapping[str, str]) -> None:
        self._api = api
        self._headers = headers

    async def enqueue(
        self,
        workspace_id: WorkspaceId | str,
        job_type: str,
        payload: Any = None,
        *,
        options: EnqueueOptions = _NO_OPTIONS,
    ) -> Enqueued:
        """Add one job; with an idempotency key, or find the one that key made.

        Wake a worker when the answer's `wake` is true.

        Raises:
            QueueError: With word `workspace_not_found`, `unknown_job_type`, `payload_invalid`,
                `payload_too_large`, `invalid_argument`, `idempotency_conflict`,
                `quota_exceeded`.
            DuplicateJob: A unique job is there and `on_conflict` is `raise`.
            QueueUnavailable: The database did not answer. Without an idempotency key the job
                may or may not exist.
        """
        body = await self._call(
            "enqueue_job",
            {
                "p_workspace_id": workspace_id,
                "p_job_type": job_type,
                "p_payload": {} if payload is None else payload,
                "p_options": options.wire(),
            },
            repeatable=options.idempotency_key is not None,
        )
        return Enqueued.model_validate(body)

    async def enqueue_many(
        self, workspace_id: WorkspaceId | str, jobs: Sequence[NewJob]
    ) -> EnqueuedBatch:
        """Add 1 to 1,000 jobs in one transaction, all or nothing.

        Raises:
            QueueError: As `enqueue`; `details` names the index of the job at fault.
        """
        body = await self._call(
            "enqueue_jobs",
            {"p_workspace_id": workspace_id, "p_jobs": [job.wire() for job in jobs]},
            repeatable=all(job.options.idempotency_key is not None for job in jobs),
        )
        return EnqueuedBatch.model_validate(body)

    async def get_job(self, job_id: JobId | str) -> Job:
        """The job as it is now.

        Raises:
            JobNotFound: No such job, or not yours.
        """
        return Job.model_validate(await self._call("get_job", {"p_job_id": job_id}))

    async def list_jobs(
        self,
        workspace_id: WorkspaceId | str | None = None,
        *,
        status: Sequence[Status] = (),
        job_type: str | None = None,
        queue: str | None = None,
        session_id: str | None = None,
        parent_id: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        search: str | None = None,
        id_prefix: str | None = None,
        more: Mapping[str, Any] = _NOTHING,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """A page of jobs, newest first, without payloads and results: `get_job` has those.

        A page may hold fewer jobs than `limit`, even none, and still have a `next_cursor`: what
        no index holds together, such as a type or a search, is searched in slices.

        Args:
            search: Part of a type, an error or an idempotency key in any case, or the first or
                last six or more digits of an id.
            id_prefix: The first 6 to 32 digits of an id; the page is then in order of ids.
            more: Other filters of `list_jobs` by their names: state, tag, payload, worker_id, …
            cursor: `next_cursor` of the page before; jobs enqueued meanwhile shift nothing.
            limit: 1 to 200.

        Raises:
            ForeignCursor: `cursor` was not made by this list.
            QueueError: With word `invalid_argument`, for `id_prefix`.
        """
        chosen = {
            "workspace_id": workspace_id,
            "status": list(dict.fromkeys(status)) or None,
            "job_type": job_type,
            "queue": queue,
            "session_id": session_id,
            "parent_id": parent_id,
            "created_after": created_after.isoformat() if created_after else None,
            "created_before": created_before.isoformat() if created_before else None,
            "search": search,
            "id_prefix": id_prefix,
        }
        arguments = {
            "p_filter": _given({**chosen, **more}),
            "p_cursor": Cursor.decode(cursor).model_dump() if cursor is not None else None,
            "p_limit": limit,
        }
        page = await self._call("list_jobs", arguments)
        after = Cursor.model_validate(page["next"]).encode() if page["next"] else None
        return JobPage(
            jobs=tuple(ListedJob.model_validate(job) for job in page["jobs"]), next_cursor=after
        )

    async def sort_jobs(
        self,
        where: Mapping[str, Any],
        *,
        by: str,
        descending: bool = True,
        limit: int = 50,
        offset: int = 0,
    ) -> SortedJobs:
        """Jobs in the order of `by`: next_run_at, run_ms, queue_ms, total_ms, finished_at, ….

        Args:
            where: Filters of `list_jobs` by their names; values as JSON takes them.
            limit: 1 to 200.

        Raises:
            QueueError: With word `invalid_argument`.
        """
        arguments = {
            "p_filter": _given(where),
            "p_by": by,
            "p_descending": descending,
            "p_limit": limit,
            "p_offset": offset,
        }
        return SortedJobs.model_validate(await self._call("sort_jobs", arguments))

    async def search_logs(
        self,
        workspace_id: WorkspaceId | str,
        where: Mapping[str, Any],
        *,
        before: int | None = None,
        limit: int = 100,
    ) -> FoundLines:
        """Log lines of a workspace's jobs, newest first, in bounded slices.

        Args:
            where: search, level (that one or worse), job_type, job_id, since, until.
            before: `next` of the page before.
        """
        arguments = {
            "p_workspace_id": workspace_id,
            "p_filter": _given(where),
            "p_before": before,
            "p_limit": limit,
        }
        return FoundLines.model_validate(await self._call("search_logs", arguments))

    async def job_types(
        self, workspace_id: WorkspaceId | str | None = None, *, internal: bool = False
    ) -> JobTypes:
        """Job types by name, with how their jobs went in a workspace; None is the operator's.

        Args:
            internal: Also those that only the platform enqueues.
        """
        arguments = {"p_workspace_id": workspace_id, "p_internal": internal}
        return JobTypes.model_validate(await self._call("list_job_types", arguments))

    async def job_type(
        self, job_type: str, workspace_id: WorkspaceId | str | None = None
    ) -> JobTypeDetail:
        """Everything about one job type.

        Raises:
            QueueError: With word `unknown_job_type`; `details` is the nearest name.
        """
        arguments = {"p_job_type": job_type, "p_workspace_id": workspace_id}
        return JobTypeDetail.model_validate(await self._call("get_job_type", arguments))

    async def logs(
        self, job_id: JobId | str, *, after: int = 0, level: str | None = None, limit: int = 200
    ) -> LogPage:
        """Log lines with an id above `after`, oldest first; empty for a job that is not yours."""
        params = [
            ("select", ",".join(JobLog.model_fields)),
            ("job_id", f"eq.{job_id}"),
            ("id", f"gt.{after}"),
            ("order", "id.asc"),
            ("limit", str(limit + 1)),
        ]
        if level is not None:
            params.append(("log_level", f"eq.{level}"))
        rows = await self._api.select("job_logs", params, headers=self._headers)
        logs = tuple(JobLog.model_validate(row) for row in rows[:limit])
        return LogPage(logs=logs, next_after=logs[-1].id if len(rows) > limit else None)

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
        rows = await self._api.select("job_events", params, headers=self._headers)
        return [JobEvent.model_validate(row) for row in rows]

    async def follow_topic(self, topic: str, follower_id: UUID) -> TopicFollowed:
        """Say that a client listens to a private topic, at its join and then now and then.

        Raises:
            QueueError: With word `topic_not_found` for one that is not yours to follow.
        """
        arguments = {
            "p_topic": topic,
            "p_follower_id": str(follower_id),
            "p_version": MESSAGE_VERSION,
        }
        return TopicFollowed.model_validate(await self._call("follow_topic", arguments))

    async def workspace_feed(
        self, workspace_id: WorkspaceId | str, cursor: str | None = None, *, limit: int = 500
    ) -> FeedPage:
        """State changes of a workspace's jobs, each exactly once; without a cursor, from now on.

        Raises:
            QueueError: With word `workspace_not_found`, or `invalid_argument` for the cursor.
        """
        arguments = {"p_workspace_id": workspace_id, "p_cursor": cursor, "p_limit": limit}
        return FeedPage.model_validate(await self._call("event_feed", arguments))

    async def session_feed(
        self, session_id: str, cursor: str | None = None, *, limit: int = 500
    ) -> FeedPage:
        """Events of a session's jobs but for logs; without a cursor, from the beginning.

        A guest session is there before its first job, and open to those it was opened to.

        Raises:
            QueueError: With word `session_not_found`, or `invalid_argument` for the cursor.
        """
        arguments = {"p_session_id": session_id, "p_cursor": cursor, "p_limit": limit}
        function = "guest_session_feed" if is_guest_session(session_id) else "session_feed"
        return FeedPage.model_validate(await self._call(function, arguments))

    async def open_guest_session(
        self,
        workspace_id: WorkspaceId | str,
        *,
        ttl_seconds: int | None = None,
        user_id: UUID | str | None = None,
    ) -> GuestSession:
        """Open a session to anyone who holds its id, or to one user outside; for managers.

        Jobs enqueued into the workspace with this `session_id` are what it shows.

        Args:
            ttl_seconds: Until it expires, 1 to 2,592,000; a day if omitted.
            user_id: The one user it is for.

        Raises:
            QueueError: With word `forbidden` for plain members, or without `user_id` where the
                setting `allow_anonymous` is off; `workspace_not_found`, `invalid_argument`.
        """
        chosen = {"ttl_seconds": ttl_seconds, "user_id": user_id}
        options = {name: value for name, value in chosen.items() if value is not None}
        body = await self._call(
            "open_guest_session",
            {"p_workspace_id": workspace_id, "p_options": options},
            repeatable=False,
        )
        return GuestSession.model_validate(body)

    async def close_guest_session(self, session_id: str) -> None:
        """End a guest session now: no guest can read or follow it any more; for managers.

        Raises:
            QueueError: With word `session_not_found`.
        """
        await self._call("close_guest_session", {"p_session_id": session_id}, repeatable=False)

    async def counts(self, workspace_id: str, where: Mapping[str, Any]) -> JobCounts:
        """How many jobs of a workspace are in each state; counts at most 10,000 of each.

        Args:
            where: `job_type`, `queue`, `parent_id`, each optional.
        """
        body = await self._call("count_jobs", {"p_workspace_id": workspace_id, "p_filter": where})
        return JobCounts.model_validate(body)

    async def explain(self, job_id: JobId | str) -> Explanation:
        """Why the job is not running, and when it will.

        Raises:
            JobNotFound: No such job, or not yours.
        """
        body = await self._call("explain_job", {"p_job_id": job_id})
        return Explanation.model_validate(body)

    async def attempts(self, job_id: JobId | str) -> list[dict[str, Any]]:
        """The job's latest 1,000 attempts, oldest first, as the database keeps them."""
        found = await self._call("job_attempts", {"p_job_id": job_id})
        return list(found["attempts"])

    async def steps(
        self, job_id: JobId | str, *, after: Mapping[str, Any] | None = None
    ) -> JobSteps:
        """The job's finished steps, a page of about 1 MB, and what it waits for.

        Args:
            after: The `next` of the page before.

        Raises:
            JobNotFound: No such job, or not yours.
        """
        return JobSteps.model_validate(
            await self._call("job_steps", {"p_job_id": job_id, "p_after": after})
        )

    async def trace(self, job_id: JobId | str) -> JobTrace:
        """The job's attempts, steps and waits with their spans, and those of its children.

        Raises:
            JobNotFound: No such job, or not yours.
        """
        return JobTrace.model_validate(await self._call("job_trace", {"p_job_id": job_id}))

    async def artefacts(self, job_id: JobId | str, *, key: str | None = None) -> list[Artefact]:
        """The files that the job made, by name.

        Args:
            key: Opens the job's files to who is not a member; their addresses hold it.

        Raises:
            JobNotFound: No such job, or not yours.
            QueueError: `artefact_not_found`, no file has this key.
        """
        arguments = {"p_job_id": job_id, "p_key": key}
        return list(
            Artefacts.model_validate(await self._call("job_artefacts", arguments)).artefacts
        )

    async def read_artefact(
        self, job_id: JobId | str, name: str, *, key: str | None = None
    ) -> tuple[Artefact, bytes]:
        """One file that the job made, with its content.

        Raises:
            QueueError: `artefact_not_found`, none is there or open to the caller.
        """
        arguments = {"p_job_id": job_id, "p_key": key, "p_name": name}
        [found] = (await self._call("job_artefacts", arguments))["artefacts"]
        return Artefact.model_validate(found), base64.b64decode(found["content"])

    async def cancel(self, job_id: JobId | str) -> Job:
        """Cancel a job in any live state; a running one stops within a heartbeat.

        Raises:
            JobNotFound: No such job, or not yours.
            InvalidState: It has ended; `present` says how.
        """
        return Job.model_validate(await self._call("cancel_job", {"p_job_id": job_id}))

    async def retry(self, job_id: JobId | str, *, payload: Any = None) -> Job:
        """Run a failed or cancelled job again, with `payload` in place of its own where given.

        Raises:
            JobNotFound: No such job, or not yours.
            InvalidState: It has not failed; `present` says what it does.
        """
        arguments = {"p_job_id": job_id} | ({} if payload is None else {"p_payload": payload})
        return Job.model_validate(await self._call("retry_job", arguments))

    async def change_many(
        self,
        action: Literal["cancel", "retry"],
        workspace_id: WorkspaceId | str,
        where: Mapping[str, Any],
        *,
        limit: int = 1000,
    ) -> ManyChanged:
        """Cancel or retry jobs that match; repeat while the answer's `more` is true.

        Args:
            where: As `list_jobs`: `state`, `job_type`, `queue`, `tag`, `ids`, …

        Raises:
            QueueError: With word `workspace_not_found`, `forbidden` or `invalid_argument`.
        """
        arguments = {"p_workspace_id": workspace_id, "p_filter": dict(where), "p_limit": limit}
        return ManyChanged.model_validate(await self._call(f"{action}_jobs", arguments))

    async def replay(
        self,
        job_id: JobId | str,
        *,
        from_step: str | None = None,
        payload: Any = None,
        results: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Enqueued:
        """Run a job again as a new one, whose `replay_of` is its id.

        Wake a worker when the answer's `wake` is true.

        Args:
            job_id: A job in any state.
            from_step: A finished step; those that finished before it are kept. None keeps none.
            payload: In place of the job's own.
            results: Results in place of those of kept steps, by their names.
            idempotency_key: A repeat gets the same replay.

        Raises:
            JobNotFound: No such job, or not yours.
            QueueError: As `enqueue`; `invalid_argument` where a step is not finished or not kept.
        """
        request = {
            "from_step": from_step,
            "payload": payload,
            "results": results,
            "idempotency_key": idempotency_key,
        }
        given = {name: value for name, value in request.items() if value is not None}
        body = await self._call(
            "replay_job",
            {"p_job_id": job_id, "p_request": given},
            repeatable=idempotency_key is not None,
        )
        return Enqueued.model_validate(body)

    async def replays(self, job_id: JobId | str) -> list[dict[str, Any]]:
        """The job, what it is a replay of, and all their replays, oldest first, at most 100."""
        return list(await self._call("job_replays", {"p_job_id": job_id}))

    async def edit(self, job_id: JobId | str, *, payload: Any) -> Job:
        """Change the payload of a scheduled or retrying job before it runs.

        Raises:
            JobNotFound: No such job, or not yours.
            QueueError: `payload_invalid` or `payload_too_large`, as `enqueue`.
            InvalidState: It is in another state; `present` says which.
        """
        changes = {"payload": payload}
        body = await self._call("edit_job", {"p_job_id": job_id, "p_changes": changes})
        return Job.model_validate(body)

    async def answer(self, job_id: JobId | str, answer: Any) -> Job:
        """Answer the question a waiting job asks.

        Raises:
            JobNotFound: No such job, or not yours.
            InvalidState: It asks nothing; `present` says what it does.
        """
        # wrapped, because a bare JSON string as a jsonb argument does not survive every Data API
        body = await self._call(
            "answer_job",
            {"p_job_id": job_id, "p_answer": {"answer": answer}},
            repeatable=False,
        )
        return Job.model_validate(body)

    async def emit_event(
        self, workspace_id: WorkspaceId | str, name: str, payload: Any = None
    ) -> Any:
        """Tell every job of the workspace that waits for the event `name`."""
        return await self._call(
            "emit_event",
            {
                "p_workspace_id": workspace_id,
                "p_name": name,
                "p_payload": {} if payload is None else payload,
            },
            repeatable=False,
        )

    async def is_member(self, workspace_id: WorkspaceId | str) -> bool:
        """Whether the caller belongs to the workspace, as its policy sees it."""
        return bool(
            await self.select("workspaces", [("select", "id"), ("id", f"eq.{workspace_id}")])
        )

    async def select(self, table: str, params: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Rows of a table or view that the caller may see, in PostgREST's own filter words."""
        return await self._api.select(table, params, headers=self._headers)

    async def open_stream(self) -> None:
        """Count a stream that the caller is about to open.

        Raises:
            QueueError: With word `rate_limited`: the caller opens them too fast.
        """
        await self._call("open_stream", {}, repeatable=False)

    async def stats(
        self, workspace_id: WorkspaceId | str | None = None, *, minutes: int = 60
    ) -> QueueStats:
        """Counts and percentiles of one workspace; of all of them for an operator.

        Args:
            minutes: How far back, 1 to 11,520.
        """
        arguments = {"p_workspace_id": workspace_id, "p_minutes": minutes}
        return QueueStats.model_validate(await self._call("queue_stats", arguments))

    async def _call(
        self, function: str, arguments: Mapping[str, Any], *, repeatable: bool = True
    ) -> Any:
        return await self._api.rpc(
            function, arguments, headers=self._headers, repeatable=repeatable
        )
