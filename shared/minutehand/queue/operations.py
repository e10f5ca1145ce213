"""Operations: one action on all jobs that match a filter, which continues without its caller.

What may be acted on and how far it goes at a time is decided by the SQL functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from minutehand.queue.client import UserQueue
from minutehand.queue.models import Cursor, JobId, Model, WorkspaceId

Action = Literal["cancel", "retry", "replay"]
Outcome = Literal["done", "skipped", "failed", "waiting"]


class OperationCount(Model):
    """How many jobs an operation would choose now; `more`: at least so many."""

    count: int
    more: bool


class Operation(Model):
    """An action on many jobs and how far it is: `matched` is final once `counted` is true."""

    id: str
    workspace_id: WorkspaceId
    name: str
    action: Action
    filter: Mapping[str, Any]
    limit: int
    status: Literal["running", "paused", "stopped", "completed"]
    #: Why it waits, or was stopped.
    reason: str | None = None
    counted: bool
    matched: int
    #: Whether others match, beyond `limit`.
    more: bool
    done: int
    skipped: int
    failed: int
    #: The operation that it takes back, and the one that takes it back.
    undo_of: str | None = None
    undone_by: str | None = None
    created_by: str | None = None
    created_at: datetime
    finished_at: datetime | None = None
    #: Of an answer to `create` or `undo`: False when it was there before.
    created: bool = Field(default=True, exclude=True)


class OperationPage(Model):
    """Operations, newest first; continue with `next_cursor`."""

    operations: tuple[Operation, ...]
    next_cursor: str | None = None


class OperationJob(Model):
    """What became of a job; of a skipped one `reason` is its state, of a failed one the error."""

    job_id: JobId
    #: None once the job is deleted.
    job_type: str | None = None
    outcome: Outcome
    reason: str | None = None
    #: The job that a replay made.
    new_job_id: JobId | None = None


class OperationJobs(Model):
    """Jobs in the order in which they are acted on; continue with `cursor=next`."""

    jobs: tuple[OperationJob, ...]
    next: int | None = None


class Operations:
    """Operations under one user's token.

    Raises:
        QueueError: Each method, with word `workspace_not_found` or `operation_not_found`.
    """

    def __init__(self, queue: UserQueue) -> None:
        self._call = queue._call

    async def count(
        self, workspace_id: WorkspaceId | str, action: Action, where: Mapping[str, Any]
    ) -> OperationCount:
        """How many jobs match `where` that `action` applies to; counts for a second at most.

        Args:
            where: As `list_jobs`: `state`, `job_type`, `queue`, `tag`, `ids`, …
        """
        request = {"action": action, "filter": dict(where)}
        arguments = {"p_workspace_id": workspace_id, "p_request": request}
        return OperationCount.model_validate(await self._call("count_operation", arguments))

    async def create(
        self,
        workspace_id: WorkspaceId | str,
        action: Action,
        where: Mapping[str, Any],
        *,
        name: str | None = None,
        limit: int = 100_000,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Act on the jobs that match `where` now; wake a worker, which finishes what is left.

        Cancel is for live jobs, retry for failed ones (or cancelled ones, if `where` says so),
        replay for all that have ended.

        Args:
            limit: At most so many, the newest, 1 to 100,000.
            idempotency_key: A repeat gets the same operation.

        Raises:
            QueueError: `invalid_argument`; `quota_exceeded` with ten that have not finished.
        """
        request = {"action": action, "filter": dict(where), "name": name, "limit": limit}
        request["idempotency_key"] = idempotency_key
        given = {name: value for name, value in request.items() if value is not None}
        arguments = {"p_workspace_id": workspace_id, "p_request": given}
        return await self._answered(
            "create_operation", arguments, repeatable=idempotency_key is not None
        )

    async def list(
        self, workspace_id: WorkspaceId | str, *, cursor: str | None = None, limit: int = 50
    ) -> OperationPage:
        """A page of them, newest first, at most 200.

        Raises:
            ValueError: `cursor` was not made by this list.
        """
        place = None if cursor is None else Cursor.decode(cursor).model_dump()
        arguments = {"p_workspace_id": workspace_id, "p_cursor": place, "p_limit": limit}
        found = await self._call("list_operations", arguments)
        return OperationPage(
            operations=tuple(Operation.model_validate(one) for one in found["operations"]),
            next_cursor=found["next"] and Cursor.model_validate(found["next"]).encode(),
        )

    async def get(self, operation_id: str) -> Operation:
        """One as it is now."""
        return await self._answered("get_operation", {"p_operation_id": operation_id})

    async def jobs(
        self,
        operation_id: str,
        *,
        outcome: Outcome | None = None,
        cursor: int | None = None,
        limit: int = 100,
    ) -> OperationJobs:
        """What became of each job, at most 1,000 a page."""
        arguments = {
            "p_operation_id": operation_id,
            "p_outcome": outcome,
            "p_cursor": cursor,
            "p_limit": limit,
        }
        return OperationJobs.model_validate(await self._call("operation_jobs", arguments))

    async def steer(
        self, operation_id: str, action: Literal["pause", "resume", "stop"]
    ) -> Operation:
        """Pause or resume it, or stop it for good; a batch that is under way ends first.

        Raises:
            InvalidState: It has finished; `present` says how.
        """
        arguments = {"p_operation_id": operation_id, "p_action": action}
        return await self._answered("steer_operation", arguments)

    async def undo(self, operation_id: str) -> Operation:
        """Take it back by another operation, which is the same at a repeat.

        Jobs it cancelled are retried; of those it retried or replayed, the ones that have not
        started are cancelled.

        Raises:
            InvalidState: It has changed no job.
        """
        return await self._answered("undo_operation", {"p_operation_id": operation_id})

    async def _answered(
        self, function: str, arguments: Mapping[str, Any], *, repeatable: bool = True
    ) -> Operation:
        return Operation.model_validate(
            await self._call(function, arguments, repeatable=repeatable)
        )
