"""Bodies of requests and responses of the write routes.

SQL checks the bounds of the bodies' values.
"""

from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from minutehand.queue.models import EnqueuedBatch, Job, JobRequest
from minutehand.web.request_bodies import Body, Payload


def _text_only(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("should be an ISO 8601 instant with a zone, e.g. 2026-11-20T12:00:00Z")
    return value


#: A UTC time as an ISO 8601 string. Without the validator, Pydantic would also accept a number.
Timestamp = Annotated[AwareDatetime, BeforeValidator(_text_only)]


class JobSpec(JobRequest):
    """A job of a bulk request."""

    # FastAPI needs the JSON Schema of the class when the app starts
    model_config = ConfigDict(allow_inf_nan=False, defer_build=False)

    payload: Payload = Field(default_factory=dict)
    priority: StrictInt | None = Field(
        default=None, description="Smaller runs first. Default: 100."
    )
    scheduled_for: Timestamp | None = None
    deadline_at: Timestamp | None = None
    tags: tuple[str, ...] | None = Field(default=None, description="Words for finding the job.")

    def with_key(self, key: str | None) -> Self:
        """Return the job with the idempotency key of the request that enqueues it."""
        return self.model_copy(update={"idempotency_key": key})


class CreateJob(JobSpec):
    """A job to enqueue."""

    workspace_id: UUID


TypeWarning = Annotated[
    str | None,
    Field(description="Set if no worker has the job type yet. It names the most similar type."),
]


class CreatedJob(Job):
    """The job that was enqueued."""

    warning: TypeWarning = None


class CreatedJobs(EnqueuedBatch):
    """The enqueued jobs.

    `warning` names up to five of the jobs' types that no worker has served.
    """

    warning: TypeWarning = None


class CreateJobs(Body):
    """Jobs of which all are enqueued, or none if one of them is rejected."""

    workspace_id: UUID
    jobs: tuple[JobSpec, ...]


class Replay(Body):
    """Changes to a job that runs again. Without changes, the job runs again from its start."""

    from_step: str | None = Field(
        default=None, description="A finished step to start from. Earlier steps are kept."
    )
    payload: Payload | None = None


class ManyJobs(Body):
    """Jobs of a workspace to cancel or retry, selected by the filters of a list of jobs."""

    workspace_id: UUID
    filter: dict[str, Any] = Field(default_factory=dict)
    limit: StrictInt = 1000
    cursor: UUID | None = Field(default=None, description="Cursor of the last response.")


class CancelJob(Body):
    """Whether to retry a job once it is cancelled."""

    retry: StrictBool = False


class CancelJobs(ManyJobs, CancelJob):
    """Jobs of a workspace to cancel, and whether to retry them once they are cancelled."""


class EditJob(Body):
    """The new payload of a job that runs again.

    The new payload replaces the whole previous payload. Without a new payload, the job keeps the
    previous one.
    """

    payload: Payload | None = None


class Answer(Body):
    """A person's answer to the question of a job, or only to the question with the given name."""

    answer: Any
    name: str | None = None


class EmitEvent(Body):
    """An event that jobs of a workspace may wait for."""

    workspace_id: UUID
    name: str
    payload: Payload = Field(default_factory=dict)
