"""The object that a processor gets for a job. `minutehand.queue.models.Job` is the database row."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from minutehand.queue.models import JobId, WorkspaceId

if TYPE_CHECKING:
    from minutehand.worker.context import JobContext

P_co = TypeVar("P_co", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Job(Generic[P_co]):
    """One attempt of a job. The field `attempt` is the attempt's number, counted from 1."""

    id: JobId
    job_type: str
    payload: P_co
    workspace_id: WorkspaceId
    created_at: datetime
    queue: str = "default"
    priority: int = 100
    user_id: str | None = None
    session_id: str | None = None
    parent_id: str | None = None
    attempt: int = 1
    max_attempts: int = 5
    #: Number of the lease. SQL functions of an app compare the number, to reject calls of a worker
    #: that has lost the lease.
    fence: int = 0
    #: W3C trace context of the request that enqueued the job.
    traceparent: str | None = None
    deadline_at: datetime | None = None

    @property
    def is_last_attempt(self) -> bool:
        """True if a failure of this attempt makes the job a dead letter."""
        return self.attempt >= self.max_attempts


@dataclass(frozen=True, kw_only=True)
class BatchedJob(Job[P_co]):
    """One job of a batch. Each job of the batch has its own `ctx`."""

    ctx: JobContext = field(repr=False, compare=False)


J = TypeVar("J", bound=Job[Any])


def job_of(kind: type[J], given: dict[str, Any]) -> J:
    """Return a job with the given fields. All fields are set in one step, because jobs are many."""
    job = object.__new__(kind)
    object.__setattr__(job, "__dict__", given)
    return job
