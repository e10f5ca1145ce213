"""Bodies of the write routes: fields and their types; the bounds are in SQL."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from minutehand.queue.models import (
    BackoffOptions,
    EnqueueOptions,
    Job,
    NewJob,
    UniqueOptions,
)
from minutehand.web.bodies import Body, Payload

Whole = Annotated[int, Field(strict=True)]
Seconds = Annotated[float, Field(strict=True)]


def _text_only(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("should be an ISO 8601 instant with a zone, e.g. 2026-11-20T12:00:00Z")
    return value


#: A UTC instant as text; pydantic would also take a bare number for one.
Instant = Annotated[AwareDatetime, BeforeValidator(_text_only)]


class Backoff(BackoffOptions):
    """The wait before a retry: `first_seconds`, then times `factor` each, up to `cap_seconds`."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Unique(UniqueOptions):
    """At most one job per `key` until it is leased or finished."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class JobOptions(Body):
    """What may be said about a new job besides its type and payload."""

    queue: str | None = None
    priority: Whole | None = Field(default=None, description="Smaller runs first; 100 by default.")
    scheduled_for: Instant | None = None
    delay_seconds: Seconds | None = None
    max_attempts: Whole | None = None
    idempotency_key: str | None = None
    idempotency_ttl_seconds: Seconds | None = None
    concurrency_key: str | None = None
    session_id: str | None = None
    parent_id: UUID | None = None
    deadline_at: Instant | None = None
    timeout_seconds: Seconds | None = None
    backoff: Backoff | None = None
    unique: Unique | None = None
    debounce_seconds: Seconds | None = None
    schema_version: Whole | None = None
    tags: tuple[str, ...] | None = Field(default=None, description="Words to find the job by.")

    def options(self, *, key: str | None) -> EnqueueOptions:
        """The options as the queue takes them."""
        given = self.model_dump(
            mode="json", exclude_none=True, include=set(JobOptions.model_fields)
        )
        return EnqueueOptions.model_validate({**given, "idempotency_key": key})


class JobSpec(JobOptions):
    """A job of a bulk request."""

    job_type: str
    payload: Payload = Field(default_factory=dict)

    def new_job(self, *, key: str | None) -> NewJob:
        """The job as the queue takes it."""
        return NewJob(
            job_type=self.job_type,
            payload=self.payload,
            options=self.options(key=key),
        )


class CreateJob(JobSpec):
    """A job to enqueue."""

    workspace_id: UUID


class CreateJobs(Body):
    """Jobs to enqueue together, all or none."""

    workspace_id: UUID
    jobs: tuple[JobSpec, ...]


class EnqueuedJob(Job):
    """The job of a request, and what its caller should know of it."""

    warning: str | None = Field(
        default=None, description="Set when no running worker serves its type; else null."
    )


class CreatedJob(BaseModel):
    """A job, and whether this request made it or found it by its key."""

    job: Job
    created: bool


class CreatedJobs(BaseModel):
    """The jobs of a bulk request, in the order given."""

    jobs: tuple[CreatedJob, ...]
    warning: str | None = None


class Replay(Body):
    """What of a job is changed when it runs again; nothing runs the same from its start."""

    from_step: str | None = Field(
        default=None, description="A finished step: those that finished before it are kept."
    )
    payload: Payload | None = None
    results: dict[str, Any] | None = Field(
        default=None, description="Results in place of those of kept steps, by name."
    )


class ManyJobs(Body):
    """Which jobs of a workspace to cancel or retry; the filter is that of the list."""

    workspace_id: UUID
    filter: dict[str, Any] = Field(default_factory=dict)
    limit: Whole = 1000


class EditJob(Body):
    """What of a job is changed before it runs; its payload, whole."""

    payload: Payload


class Answer(Body):
    """What a person answers to the question a job waits with."""

    answer: Any


class EmitEvent(Body):
    """An event that jobs of a workspace may be waiting for."""

    workspace_id: UUID
    name: str
    payload: Payload = Field(default_factory=dict)
