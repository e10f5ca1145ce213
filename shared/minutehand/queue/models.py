"""What travels between Python and the SQL functions, as frozen models."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NewType, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from minutehand.queue.responses import decode_object

logger = logging.getLogger(__name__)

JobId = NewType("JobId", str)
WorkspaceId = NewType("WorkspaceId", str)

Status = Literal["pending", "processing", "waiting", "completed", "failed", "cancelled"]
#: The state shown to people, see `queue.state_of`.
JobState = Literal[
    "queued", "scheduled", "retrying", "running", "suspended", "completed", "failed", "cancelled"
]
SettleOutcome = Literal[
    "completed", "retry", "failed", "snoozed", "released", "waiting", "cancelled"
]
#: Statuses that a job leaves only by a person's action.
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


def plain(value: float) -> int | float:
    """A whole number as such: Postgres makes no integer of the text 60.0."""
    return int(value) if value.is_integer() else value


#: A number of a request, written by `plain`.
Number = Annotated[float, PlainSerializer(plain, when_used="json-unless-none")]


class Model(BaseModel):
    """Base of every model here: frozen, tolerant of fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    def wire(self) -> dict[str, Any]:
        """What SQL takes: only what was given."""
        return self.model_dump(mode="json", exclude_none=True)


class Report(BaseModel):
    """Base of what SQL says and people read: every field that it has passes through."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Progress(Model):
    """How far a job is; `percentage` runs from 0 to 100."""

    percentage: Number | None = None
    stage: str | None = None
    message: str | None = None


class _JobFields(Model):
    id: JobId
    workspace_id: WorkspaceId
    user_id: str | None = None
    session_id: str | None = None
    queue: str = "default"
    job_type: str
    schema_version: int | None = None
    priority: int = 100
    attempts: int = 0
    max_attempts: int = 5
    progress: Progress | None = None
    created_at: datetime
    deadline_at: datetime | None = None
    timeout_seconds: float | None = None
    parent_id: str | None = None
    traceparent: str | None = None
    status: Status
    error_message: str | None = None
    next_retry_at: datetime | None = None
    scheduled_for: datetime | None = None
    #: When it is cancelled if it has not started.
    start_by_at: datetime | None = None
    start_by_seconds: int | None = None
    #: The first start, kept over retries and waits.
    started_at: datetime | None = None
    #: The end, however it ended; `completed_at` is there for completed jobs alone.
    finished_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime | None = None
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    unique_key: str | None = None
    tags: tuple[str, ...] = ()
    fence: int = 0
    last_seq: int = 0
    generation: int = 0
    cancel_requested_at: datetime | None = None
    #: The job it is a replay of, and the step from which; None for its start.
    replay_of: str | None = None
    replay_from: str | None = None
    lost_attempts: int = 0
    #: Attempts that do not count, because their process died while it also ran other jobs.
    deaths: int = 0
    #: What its attempts cost in foreign services, as far as processors counted it.
    cost_usd: float | None = None
    state: JobState | None = None
    #: When it runs next: in the past for one that is due, None where that is unknown or never.
    next_run_at: datetime | None = None
    #: What a suspended job waits for: `{kind, name, until, …}`.
    waiting_for: dict[str, Any] | None = None
    running_since: datetime | None = None
    worker_id: str | None = None
    #: The last error in one line, the exception's type before its message.
    error: str | None = None
    #: Where its time went, in milliseconds: `{queue_ms, run_ms, runs}`.
    times: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.status in ENDED

    @model_validator(mode="wrap")
    @classmethod
    def _without_unreadable(cls, row: Any, parse: ModelWrapValidatorHandler[Self]) -> Self:
        """Read the rest of a row in which SQL by hand has put what no reader can parse."""
        try:
            return parse(row)
        except ValidationError as error:
            unread = sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]})
            rest = {name: value for name, value in dict(row).items() if name not in unread}
            said = f"fields that cannot be read: {', '.join(unread)}"
            return parse({"created_at": "1970-01-01T00:00:00Z"} | rest | {"error_message": said})


class Job(_JobFields):
    """A job as its workspace's members see it."""

    payload: Any = None
    result: Any = None
    error_data: Any = None
    #: How far its streams are: `{name: {attempt, next}}`; `job_output` has what they said.
    streams: dict[str, dict[str, int]] | None = None


class ListedJob(_JobFields):
    """A job in a list, whose `error_message` is cut to 500 characters; `get_job` has the whole."""

    #: The first simple values of its payload in a line: `to: a@b.test, count: 3`.
    glimpse: str | None = None


class JobPage(Model):
    """A page of jobs, newest first; `next_cursor` is None on the last one."""

    jobs: tuple[ListedJob, ...]
    next_cursor: str | None = None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """The page of which this is the JSON."""
        said = decode_object(raw)
        following = said["next"] and said["next"]["id"]
        return cls.model_validate({"jobs": said["jobs"], "next_cursor": following})


class JobEvent(Model):
    """A line of a job's history; `seq` runs gapless from 1 per job."""

    job_id: JobId
    seq: int
    type: str
    data: Any = None
    created_at: datetime


class GuestJob(Model):
    """What a guest's look at a job has of its events."""

    events: tuple[JobEvent, ...]


class FeedPage(Model):
    """Events of many jobs; continue with `cursor`, at once when there is `more`."""

    events: tuple[JobEvent, ...]
    cursor: str
    #: A cursor after each event, where a stream that is cut continues.
    places: tuple[str, ...] = Field(default=(), exclude=True)
    more: bool = False
    #: The cursor was of another database, so events may have been missed: read state again.
    reset: bool = False


class QueueHealth(Report):
    """The queue's vital signs, for readiness and dashboards."""

    #: Due jobs by what keeps them from starting, with a verdict.
    backlog: dict[str, Any]
    #: Age of the oldest due job that is neither paused nor without a worker that serves it.
    oldest_due_seconds: float | None = None
    last_tick_seconds: float | None = None
    #: What is wrong, as `explain_queue` says it.
    findings: tuple[dict[str, Any], ...] = ()


class UniqueOptions(Model):
    """At most one job per `key` until it is leased or finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    until: Literal["leased", "finished"] | None = None
    on_conflict: Literal["skip", "replace", "raise"] | None = None


class EnqueueOptions(Model):
    """Everything about a new job but its type and payload; None leaves it to the type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: str | None = None
    priority: int | None = None
    scheduled_for: datetime | None = None
    delay_seconds: Number | None = None
    max_attempts: int | None = None
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    session_id: str | None = None
    parent_id: str | None = None
    deadline_at: datetime | None = None
    timeout_seconds: Number | None = None
    start_by_seconds: int | None = None
    unique: UniqueOptions | None = None
    debounce_seconds: Number | None = None
    traceparent: str | None = None
    schema_version: int | None = None
    #: Words to find the job by.
    tags: tuple[str, ...] | None = None


class JobRequest(EnqueueOptions):
    """A job to enqueue, its options beside its type and payload as HTTP and SQL take it."""

    job_type: str
    payload: Any = Field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """The options that were given."""
        return self.model_dump(mode="json", exclude_none=True, include=_OPTIONS)

    def wire(self) -> dict[str, Any]:
        """The job as `enqueue_jobs` takes it."""
        return {**self.options(), "job_type": self.job_type, "payload": self.payload}


_OPTIONS = set(EnqueueOptions.model_fields)


class NewJob(Model):
    """One job of a bulk enqueue, or one child of a spawn."""

    job_type: str
    payload: Any = Field(default_factory=dict)
    #: Made by no validator: to build it would be a part of each cold start.
    options: EnqueueOptions = EnqueueOptions.model_construct()

    @model_validator(mode="before")
    @classmethod
    def _options_are_in_options(cls, given: Any) -> Any:
        # ignored, a delay beside the payload would let the job start at once
        if isinstance(given, dict) and (more := given.keys() - cls.model_fields):
            raise ValueError(f"{', '.join(sorted(more))} must be in options=EnqueueOptions(…)")
        return given

    def wire(self) -> dict[str, Any]:
        """The job as `enqueue_jobs` and `spawn_jobs` take it."""
        return {**self.options.wire(), "job_type": self.job_type, "payload": self.payload}


class Enqueued(Model):
    """A job, and whether this call made it or found it by its key."""

    job: Job
    created: bool
    #: True asks the caller to wake a worker now that the job is committed; left out of answers.
    wake: bool = Field(default=False, exclude=True)


class EnqueuedBatch(Model):
    """The jobs of one bulk enqueue, in the order given."""

    jobs: tuple[Enqueued, ...]
    wake: bool = Field(default=False, exclude=True)


@dataclass(kw_only=True)
class LeasedJob:
    """The part of a job that its worker needs; it forgets the payload once that is read.

    No model, as its lease is none: there is one for each job, a model is read half as fast, and
    each look at a field of one takes four times as long.
    """

    id: JobId
    workspace_id: WorkspaceId
    job_type: str
    created_at: datetime
    user_id: str | None = None
    session_id: str | None = None
    queue: str = "default"
    schema_version: int | None = None
    priority: int = 100
    attempts: int = 1
    max_attempts: int = 5
    progress: Progress | None = None
    deadline_at: datetime | None = None
    timeout_seconds: float | None = None
    parent_id: str | None = None
    traceparent: str | None = None
    payload: Any = None


@dataclass(kw_only=True)
class Lease:
    """A job in this worker's hands for `lease_seconds`, under the fencing token `fence`."""

    job: LeasedJob
    fence: int
    lease_seconds: float = 60.0
    #: Results of steps and ended waits of earlier attempts, by name; None when they are too long
    #: for the answer to a lease and have to be read by `WorkerQueue.read_steps`.
    steps: dict[str, Any] | None = field(default_factory=dict)


class RunEnd(Model):
    """How a run ends if its lease finds nothing, and nothing falls due within `stay_ms`."""

    stay_ms: Number
    #: Although maintenance is due: its worker calls it, or has just found nothing to do.
    maintained: bool | None = None
    #: To be kept with its worker; None to leave that of an earlier run.
    summary: dict[str, Any] | None = None


class RunState(Model):
    """What a lease says of the run that it began or ended."""

    #: How many more may begin beside it; None when it was refused itself.
    free: int | None = None
    ended: bool = False
    #: Another was refused while this one was under way: what that came for may be left.
    refused: bool = False


#: Most jobs that one request may lease, over all of its pools.
MOST_LEASED: Final = 1000


class LeasePool(Model):
    """Slots that these job types share, and how many jobs to lease for them."""

    job_types: tuple[str, ...]
    limit: int


class LeaseRequest(Model):
    """Ask for work; repeating a (`tick_id`, `call`) returns the same leases."""

    worker_id: str
    tick_id: str
    call: int
    limit: int
    #: All that its worker serves, also what has no slot now: `due` counts these.
    job_types: tuple[str, ...] | None = None
    #: In place of `limit` for all of them, where kinds of processors have slots of their own.
    pools: tuple[LeasePool, ...] | None = None
    queues: tuple[str, ...] | None = None
    #: In place of the leases of their types.
    lease_seconds: int | None = None
    version: str | None = None
    #: Slots that enqueues may count on, None lets the database count what it leaves unfilled; -1
    #: when they no more may.
    free_slots: int | None = None
    #: Ask for the exact number of due jobs, which otherwise only a tick's first call counts.
    count_due: bool | None = None
    #: Where their number is bounded: how many runs may be under way, and how long this one.
    most: int | None = None
    run_seconds: Number | None = None
    ends: RunEnd | None = None
    #: True: lease suspects and nothing else. False: another process of this host serves suspects.
    suspects: bool | None = None


class LeaseResponse(Model):
    """What was leased, and the state of the queue beyond it."""

    leases: tuple[Lease, ...]
    #: Whether `run_maintenance` would find something to do.
    maintenance: bool = False
    #: Due jobs that were not leased, counted up to 1,000.
    due: int = 0
    next_due_in_ms: float | None = None
    run: RunState | None = None
    #: Whether this worker runs suspects, or may lease nothing but suspects.
    alone: bool | None = None
    #: Number of companies of suspects that are ready; None if there are no suspects.
    suspects: int | None = None
    #: Time by the database's clock; None of a database of 0.4.4.
    now: datetime | None = None
    #: Of the whole answer, in bytes; the client says it.
    size: int = Field(default=0, exclude=True)

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """The answer of which this is the JSON."""
        # not by the validator of JSON: as quick, it takes twice the memory for large payloads
        return cls.of(decode_object(raw), len(raw))

    @classmethod
    def of(cls, said: dict[str, Any], size: int) -> Self:
        """The answer without what no model fits: its lease expires, those beside it are run."""
        said["size"] = size
        try:
            return cls.model_validate(said)
        except ValidationError:
            return cls.model_validate({**said, "leases": _readable(said["leases"])})


def _readable(leases: list[Any]) -> list[Lease]:
    found: list[Lease] = []
    for raw in leases:
        try:
            found += LeaseResponse.model_validate({"leases": [raw]}).leases
        except ValidationError as error:
            problems = error.errors(include_input=False, include_url=False)
            logger.error(
                "Job %s cannot be read by this version",
                raw["job"]["id"],
                extra={"event": "lease.unreadable", "problems": problems},
            )
    return found


class MaintenanceResponse(Model):
    """What a call of maintenance did."""

    #: How much of each task was done.
    done: dict[str, int]
    #: Tasks that failed and are put off, as `queue_health` says.
    failed: tuple[str, ...] = ()
    #: Whether another call would find more to do.
    more: bool = False
    #: Whether another worker was at it.
    busy: bool = False


class LogLine(Model):
    """A log line on its way to the database."""

    level: str
    message: str
    metadata: Any = None
    at: datetime | None = None


class StepResult(Model):
    """A finished step on its way to the database."""

    name: str
    result: Any = None
    #: By the worker's steady clock: the database knows when it arrived, and subtracts.
    duration_ms: Number | None = None


class RunningStep(Model):
    """The step a job is in, and for how long it has been."""

    name: str
    for_ms: Number


class Piece(Model):
    """A part of a stream, text or items, on its way to the database."""

    stream: str
    #: How often the stream was begun; each time it begins again from nothing.
    attempt: int
    #: Characters or items of the stream before it.
    start: int
    step: str | None = None
    text: str | None = None
    items: list[Any] | None = None


@dataclass(kw_only=True)
class ReportItem:
    """Updates of one running job; an item without updates still renews its lease."""

    job_id: JobId
    fence: int
    progress: Progress | None = None
    logs: tuple[LogLine, ...] = ()
    #: How many lines of this attempt were sent before `logs`: what was stored is not stored again.
    logs_from: int | None = None
    steps: tuple[StepResult, ...] = ()
    step: RunningStep | None = None
    tags: tuple[str, ...] = ()
    output: tuple[Piece, ...] = ()
    #: From now on, in place of the lease that it has.
    lease_seconds: float | None = None

    def wire(self) -> dict[str, Any]:
        """The item as the SQL function takes it: only what it carries, encoded by the client."""
        return {
            name: plain(value) if isinstance(value, float) else value
            for name, value in vars(self).items()
            if value or (value is not None and type(value) is not tuple)
        }


class ReportResult(Model):
    """What the queue says about a reported job: continue, stop, or it is no longer yours.

    `busy`: a user's transaction holds its row; what was reported is to be sent again.
    """

    job_id: JobId
    fence: int
    outcome: Literal["ok", "cancel", "lost", "busy"]
    #: Of an item with output: whether someone follows the job; refused where some was not stored.
    output: Literal["followed", "unfollowed", "refused"] | None = None
    lease_expires_at: datetime | None = None


class ReportResponse(Model):
    """The results in the order sent."""

    results: tuple[ReportResult, ...]


class ErrorInfo(Model):
    """Why an attempt failed; `type` groups, `message` is for people."""

    type: str
    message: str
    data: Any = None
    #: What a vendor answered with, and the system's error by name (ENOSPC): for remedies.
    status: int | None = None
    errno: str | None = None
    #: Postgres's code of it, and the signal that ended a program.
    sqlstate: str | None = None
    signal: str | None = None
    #: The beginning of what the vendor answered, filtered.
    response: str | None = None
    #: Of an attempt that hung or was lost: where it was, and what shared its process.
    evidence: dict[str, Any] | None = None
    #: Frames without values, see `minutehand.worker.errors`; kept with the attempt.
    traceback: dict[str, Any] | None = None
    #: Where its log and code are: `{request_id, log_group, log_stream, region, commit, source}`.
    origin: dict[str, str] | None = None


@dataclass(kw_only=True)
class SettleItem(ReportItem):
    """How one attempt ended; made here and only sent, so no model checks it."""

    outcome: SettleOutcome
    result: Any = None
    error: ErrorInfo | None = None
    retry_after_seconds: float | None = None
    until: datetime | None = None
    delay_seconds: float | None = None
    wait: dict[str, Any] | None = None
    duration_ms: float | None = None
    cost_usd: float | None = None

    @classmethod
    def of(cls, outcome: SettleOutcome, **given: Any) -> Self:
        """An item whose other fields are the class's, with ids to come: there is one a job."""
        item = object.__new__(cls)
        item.__dict__ = {"outcome": outcome, **given}
        return item

    @property
    def is_light(self) -> bool:
        """Whether it carries nothing that could be large."""
        is_empty = self.result is None and self.error is None
        return is_empty and not (self.logs or self.steps or self.output)


@dataclass(kw_only=True)
class SettleResult:
    """What became of a settle; `stale`: another worker has the job now; `busy`: settle it again."""

    job_id: JobId
    fence: int
    outcome: Literal["applied", "stale", "cancelled", "not_found", "busy"]
    status: Status | None = None


class SettleResponse(Model):
    """The results in the order sent, and the leases that were asked for in the same call."""

    results: tuple[SettleResult, ...]
    lease: LeaseResponse | None = None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """As `LeaseResponse.read`."""
        said = decode_object(raw)
        if said.get("lease") is not None:
            said["lease"] = LeaseResponse.of(said["lease"], len(raw))
        return cls.model_validate(said)


#: A job type as `register_job_types` takes it; what it omits is the database's default.
JobTypeSpec = dict[str, Any]
