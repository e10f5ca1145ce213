"""The job as its processor sees it; its row is `minutehand.queue.models.Job`."""

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
    """One attempt at a job; `attempt` counts from 1."""

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
    #: The lease's fencing token: an app's own SQL functions take it to refuse a zombie.
    fence: int = 0
    #: W3C trace context of the request that enqueued it.
    traceparent: str | None = None
    deadline_at: datetime | None = None

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure now makes the job a dead letter."""
        return self.attempt >= self.max_attempts


@dataclass(frozen=True, kw_only=True)
class BatchedJob(Job[P_co]):
    """One of the jobs that a processor with `batch` is given, with its own `ctx`."""

    ctx: JobContext = field(repr=False, compare=False)


J = TypeVar("J", bound=Job[Any])


def job_of(kind: type[J], given: dict[str, Any]) -> J:
    """A job with all of its fields, set at once: a frozen class sets each by a call of its own."""
    job = object.__new__(kind)
    object.__setattr__(job, "__dict__", given)
    return job
