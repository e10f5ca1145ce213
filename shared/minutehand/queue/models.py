"""Models of the requests and responses of the SQL functions."""

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
#: The state of a job that people see. `queue.state_of` computes it.
JobState = Literal[
    "queued", "scheduled", "retrying", "running", "suspended", "completed", "failed", "cancelled"
]
SettleOutcome = Literal[
    "completed", "retry", "failed", "snoozed", "released", "waiting", "cancelled"
]
#: Statuses of ended jobs. Only a person can run such a job again.
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


def compact_number(value: float) -> int | float:
    """Return a whole number as an int, because Postgres cannot parse 60.0 as an integer."""
    return int(value) if value.is_integer() else value


#: A number in a request, which `compact_number` serializes.
Number = Annotated[float, PlainSerializer(compact_number, when_used="json-unless-none")]


class Model(BaseModel):
    """Base class of the models in this module. The models are frozen and ignore unknown fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    def wire(self) -> dict[str, Any]:
        """Return the fields that are set, in the format that SQL expects."""
        return self.model_dump(mode="json", exclude_none=True)


class Report(BaseModel):
    """Base class of reports for people that SQL returns. Unknown fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Progress(Model):
    """Progress of a job. `percentage` is 0 to 100."""

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
    #: Time at which the job is cancelled if it has not started by then.
    start_by_at: datetime | None = None
    start_by_seconds: int | None = None
    #: Time of the first start, which retries and waits do not change.
    started_at: datetime | None = None
    #: Time at which the job ended, with any outcome. Only completed jobs have `completed_at`.
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
    #: The job that this job replays, and the step at which the replay began. The step is None if
    #: the replay began at the start.
    replay_of: str | None = None
    replay_from: str | None = None
    lost_attempts: int = 0
    #: Number of attempts that do not count, because their process died while it also ran other
    #: jobs.
    deaths: int = 0
    #: Cost of the job's attempts in other services, as reported by processors.
    cost_usd: float | None = None
    state: JobState | None = None
    #: Time of the next run. The time is in the past if the job is due, and None if it is unknown or
    #: if there is no next run.
    next_run_at: datetime | None = None
    #: The event or answer that a suspended job waits for: `{kind, name, until, …}`.
    waiting_for: dict[str, Any] | None = None
    running_since: datetime | None = None
    worker_id: str | None = None
    #: The last error in one line, with the exception's type before its message.
    error: str | None = None
    #: Queue time and duration in milliseconds: `{queue_ms, run_ms, runs}`.
    times: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """True if the job has ended."""
        return self.status in ENDED

    @model_validator(mode="wrap")
    @classmethod
    def _without_unreadable(cls, row: Any, parse: ModelWrapValidatorHandler[Self]) -> Self:
        """Parse a row without its invalid fields, which hand-written SQL may have stored."""
        try:
            return parse(row)
        except ValidationError as error:
            invalid = sorted({str(item["loc"][0]) for item in error.errors() if item["loc"]})
            rest = {name: value for name, value in dict(row).items() if name not in invalid}
            text = f"fields that cannot be read: {', '.join(invalid)}"
            return parse({"created_at": "1970-01-01T00:00:00Z"} | rest | {"error_message": text})


class Job(_JobFields):
    """A job as members of its workspace see it."""

    payload: Any = None
    result: Any = None
    error_data: Any = None
    #: End of each output stream of the job: `{name: {attempt, next}}`. `job_output` returns the
    #: output itself.
    streams: dict[str, dict[str, int]] | None = None


class ListedJob(_JobFields):
    """A job in a list. The job's `error_message` is cut to 500 characters (see `get_job`)."""

    #: The first simple values of the payload in one line: `to: a@b.test, count: 3`.
    glimpse: str | None = None


class JobPage(Model):
    """A page of jobs, newest first. `next_cursor` is None on the last page."""

    jobs: tuple[ListedJob, ...]
    next_cursor: str | None = None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Parse a page from JSON."""
        page = decode_object(raw)
        next_cursor = page["next"] and page["next"]["id"]
        return cls.model_validate({"jobs": page["jobs"], "next_cursor": next_cursor})


class JobEvent(Model):
    """An event in a job's history. `seq` counts from 1 per job, without gaps."""

    job_id: JobId
    seq: int
    type: str
    data: Any = None
    created_at: datetime


class GuestJob(Model):
    """Events of a job as a guest sees them."""

    events: tuple[JobEvent, ...]


class FeedPage(Model):
    """A page of events of many jobs. Continue with `cursor`, immediately if `more` is true."""

    events: tuple[JobEvent, ...]
    cursor: str
    #: The cursor after each event, at which an interrupted stream continues.
    places: tuple[str, ...] = Field(default=(), exclude=True)
    more: bool = False
    #: True if the cursor belongs to another database. Events may be missing, so read the state
    #: again.
    reset: bool = False


class QueueHealth(Report):
    """Health of the queue, for readiness and dashboards."""

    #: Due jobs by the reason why they have not started, with a verdict.
    backlog: dict[str, Any]
    #: Age of the oldest due job that is not paused and whose type has a worker.
    oldest_due_seconds: float | None = None
    last_tick_seconds: float | None = None
    #: Problems, as `explain_queue` returns them.
    findings: tuple[dict[str, Any], ...] = ()


class UniqueOptions(Model):
    """Allows at most one job per `key` until it is leased or finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    until: Literal["leased", "finished"] | None = None
    on_conflict: Literal["skip", "replace", "raise"] | None = None


class EnqueueOptions(Model):
    """Options of a new job. None selects the default of the job type."""

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
    #: Words by which the job can be found.
    tags: tuple[str, ...] | None = None


class JobRequest(EnqueueOptions):
    """A job to enqueue. Options, type and payload are in one object, as in HTTP and SQL."""

    job_type: str
    payload: Any = Field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return the options that are set."""
        return self.model_dump(mode="json", exclude_none=True, include=_OPTIONS)

    def wire(self) -> dict[str, Any]:
        """Return the job in the format of `enqueue_jobs`."""
        return {**self.options(), "job_type": self.job_type, "payload": self.payload}


_OPTIONS = set(EnqueueOptions.model_fields)


class NewJob(Model):
    """One job of a bulk enqueue, or one child of a spawn."""

    job_type: str
    payload: Any = Field(default_factory=dict)
    #: The default is built without validation, because a validator would slow down each cold start.
    options: EnqueueOptions = EnqueueOptions.model_construct()

    @model_validator(mode="before")
    @classmethod
    def _options_are_in_options(cls, fields: Any) -> Any:
        # reject a misplaced option, because a job without its delay would start immediately
        if isinstance(fields, dict) and (unknown := fields.keys() - cls.model_fields):
            raise ValueError(f"{', '.join(sorted(unknown))} must be in options=EnqueueOptions(…)")
        return fields

    def wire(self) -> dict[str, Any]:
        """Return the job in the format of `enqueue_jobs` and `spawn_jobs`."""
        return {**self.options.wire(), "job_type": self.job_type, "payload": self.payload}


class Enqueued(Model):
    """A job, and whether this call created the job or found it by its idempotency key."""

    job: Job
    created: bool
    #: True if the caller should wake a worker after the commit. Responses omit this field.
    wake: bool = Field(default=False, exclude=True)


class EnqueuedBatch(Model):
    """The jobs of one bulk enqueue, in the order of the request."""

    jobs: tuple[Enqueued, ...]
    wake: bool = Field(default=False, exclude=True)


@dataclass(kw_only=True)
class LeasedJob:
    """The fields of a job that its worker needs. The worker drops the payload once it is parsed.

    The class is a dataclass, as is `Lease`, because each job has one. A model takes twice as long
    to parse, and reading a field of a model takes four times as long.
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
    """A job that this worker has leased for `lease_seconds`, with the fencing token `fence`."""

    job: LeasedJob
    fence: int
    lease_seconds: float = 60.0
    #: Results of steps and ended waits of earlier attempts, by name. None if they are too large for
    #: a lease. Then `WorkerQueue.read_steps` reads them.
    steps: dict[str, Any] | None = field(default_factory=dict)


class RunEnd(Model):
    """Request to end the run if its lease finds no job and no job is due within `stay_ms`."""

    stay_ms: Number
    #: True if maintenance has just run, so that the run may end although maintenance is due.
    maintained: bool | None = None
    #: Summary to store with the worker. None keeps the summary of an earlier run.
    summary: dict[str, Any] | None = None


class RunState(Model):
    """State of the run that a lease began or ended."""

    #: Number of additional runs that may begin now. None if this run was rejected.
    free: int | None = None
    ended: bool = False
    #: True if another run was rejected while this run was active. Jobs may remain that the rejected
    #: run would have leased.
    refused: bool = False


class ReleasedJobs(Model):
    """The jobs of a worker whose process died. The jobs have been released."""

    #: Jobs that ended the process. The attempt of each of these jobs counts.
    guilty: tuple[JobId, ...] = ()
    #: Number of groups of jobs that may have ended the process. Each group then runs in a process
    #: of its own.
    suspects: int = 0


#: Maximum jobs that one request may lease, over all of its pools.
MAX_LEASED: Final = 1000


class LeasePool(Model):
    """Job types that share slots of the worker, and the number of jobs to lease for them."""

    job_types: tuple[str, ...]
    limit: int


class LeaseRequest(Model):
    """A request for jobs. A repeated (`tick_id`, `call`) returns the same leases."""

    worker_id: str
    tick_id: str
    call: int
    limit: int
    #: All types that the worker serves, including types without a free slot. The response's `due`
    #: counts jobs of these types.
    job_types: tuple[str, ...] | None = None
    #: Job types with separate slots, and their limits. They replace `limit`.
    pools: tuple[LeasePool, ...] | None = None
    queues: tuple[str, ...] | None = None
    #: Lease time that replaces the lease time of the job types.
    lease_seconds: int | None = None
    version: str | None = None
    #: Free slots for new jobs. If None, the database counts the slots that this lease leaves free.
    #: If -1, an enqueue does not wait for this run and starts a worker.
    free_slots: int | None = None
    #: All slots of the worker, so that `explain` can find that a job waits for a slot. None in
    #: later calls of a run.
    slots: tuple[LeasePool, ...] | None = None
    #: Jobs whose abandoned processors still run. None if the list has not changed.
    abandoned: tuple[AbandonedJob, ...] | None = None
    #: Request the exact number of due jobs. Otherwise only a tick's first call counts them.
    count_due: bool | None = None
    #: Maximum number of concurrent runs, if it is limited, and maximum duration of this run.
    most: int | None = None
    run_seconds: Number | None = None
    ends: RunEnd | None = None
    #: True leases only suspects. False means that another process of this host runs suspects.
    suspects: bool | None = None
    #: Request the Realtime topic that wakes workers.
    listens: bool | None = None


class LeaseResponse(Model):
    """The leased jobs, and the state of the queue."""

    leases: tuple[Lease, ...]
    #: True if `run_maintenance` would find something to do.
    maintenance: bool = False
    #: Number of due jobs that were not leased, counted up to 1,000.
    due: int = 0
    next_due_in_ms: float | None = None
    run: RunState | None = None
    #: True if this worker runs suspects, or may lease only suspects.
    alone: bool | None = None
    #: Number of groups of suspects that are ready. None without suspects.
    suspects: int | None = None
    wake_topic: str | None = None
    #: Current time of the database's clock.
    now: datetime | None = None
    #: Size of the whole response in bytes, set by the client.
    size: int = Field(default=0, exclude=True)

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Parse a response from JSON."""
        # do not use pydantic's JSON parser, which needs twice the memory for large payloads
        return cls.of(decode_object(raw), len(raw))

    @classmethod
    def of(cls, body: dict[str, Any], size: int) -> Self:
        """Parse a response without its invalid leases, which expire while the other jobs run."""
        body["size"] = size
        try:
            return cls.model_validate(body)
        except ValidationError:
            return cls.model_validate({**body, "leases": _valid(body["leases"])})


def _valid(leases: list[Any]) -> list[Lease]:
    valid: list[Lease] = []
    for raw in leases:
        try:
            valid += LeaseResponse.model_validate({"leases": [raw]}).leases
        except ValidationError as error:
            errors = error.errors(include_input=False, include_url=False)
            logger.error(
                "Job %s cannot be read by this version",
                raw["job"]["id"],
                extra={"event": "lease.unreadable", "problems": errors},
            )
    return valid


class MaintenanceResponse(Model):
    """Result of a maintenance call."""

    #: Amount of work that each task has done.
    done: dict[str, int]
    #: Tasks that failed and are retried later, see `queue_health`.
    failed: tuple[str, ...] = ()
    #: True if another call would find more work.
    more: bool = False
    #: True if another worker is running maintenance.
    busy: bool = False


class LogLine(Model):
    """A log row to store."""

    level: str
    message: str
    metadata: Any = None
    at: datetime | None = None


class StepResult(Model):
    """A finished step to store."""

    name: str
    result: Any = None
    #: Duration by the worker's monotonic clock. The database subtracts this duration from the time
    #: of arrival.
    duration_ms: Number | None = None


class RunningStep(Model):
    """The step that a job is running, and its duration so far."""

    name: str
    for_ms: Number


class Pulse(Model):
    """The last update of a running job, and the line of code that the job runs."""

    last: Literal["start", "output", "progress", "log", "step"]
    #: Time since the last update.
    for_ms: Number
    #: File and line where the processor's own code runs or waits.
    place: str | None = None
    #: Maximum memory that the job's process has used.
    memory_mb: int


class AbandonedJob(Model):
    """A job whose processor ignored its stop and still runs, and the location of its code."""

    job_id: JobId
    place: str


class OutputChunk(Model):
    """A part of an output stream to store, as text or as items."""

    stream: str
    #: Number of times that the stream was started. Each start begins without output.
    attempt: int
    #: Number of characters or items in the stream before this part.
    start: int
    step: str | None = None
    text: str | None = None
    items: list[Any] | None = None


@dataclass(kw_only=True)
class ReportItem:
    """Updates of one running job. An item without updates still renews the lease."""

    job_id: JobId
    fence: int
    progress: Progress | None = None
    logs: tuple[LogLine, ...] = ()
    #: Number of log lines of this attempt that were sent before `logs`, so that no line is stored
    #: twice.
    logs_from: int | None = None
    steps: tuple[StepResult, ...] = ()
    step: RunningStep | None = None
    tags: tuple[str, ...] = ()
    output: tuple[OutputChunk, ...] = ()
    pulse: Pulse | None = None
    #: Lease time that replaces the current lease time.
    lease_seconds: float | None = None

    def wire(self) -> dict[str, Any]:
        """Return the fields that are set, in the format of the SQL function."""
        return {
            name: compact_number(value) if isinstance(value, float) else value
            for name, value in vars(self).items()
            if value or (value is not None and type(value) is not tuple)
        }


class ReportResult(Model):
    """The database's response to a worker's report of one job.

    Attributes:
        outcome: `ok`, `cancel` if the job must stop, `lost` if the lease is gone, or `busy` if
            another transaction locks the row, so that the report must be sent again.
        output: `followed` if someone reads the job's streams, `unfollowed` if no one does,
            `refused` if some output was not stored, or None for an item without output.
    """

    job_id: JobId
    fence: int
    outcome: Literal["ok", "cancel", "lost", "busy"]
    output: Literal["followed", "unfollowed", "refused"] | None = None
    lease_expires_at: datetime | None = None


class ReportResponse(Model):
    """Results of a report, in the order of its items."""

    results: tuple[ReportResult, ...]


class ErrorInfo(Model):
    """Error of a failed attempt. Failures are grouped by `type`, and `message` is for people."""

    type: str
    message: str
    data: Any = None
    #: HTTP status of a vendor's response, and name of a system error (ENOSPC), which select a
    #: remedy.
    status: int | None = None
    errno: str | None = None
    #: SQLSTATE of a Postgres error, and the signal that ended a program.
    sqlstate: str | None = None
    signal: str | None = None
    #: Beginning of the vendor's response, without secrets.
    response: str | None = None
    #: Stack of an attempt that hung or was lost, and the jobs that shared its process.
    evidence: dict[str, Any] | None = None
    #: Stack frames without values of variables, see `minutehand.worker.errors`. The frames are
    #: stored with the attempt.
    traceback: dict[str, Any] | None = None
    #: Location of log and code: `{request_id, log_group, log_stream, region, commit, source}`.
    origin: dict[str, str] | None = None


@dataclass(kw_only=True)
class SettleItem(ReportItem):
    """Outcome of one attempt.

    The class is a dataclass without validation, because it is only sent.
    """

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
        """Return an item with defaults for the fields that are not given.

        The caller sets the ids of the item later.
        """
        item = object.__new__(cls)
        item.__dict__ = {"outcome": outcome, **given}
        return item

    @property
    def is_light(self) -> bool:
        """True if no field of the item can be large."""
        is_empty = self.result is None and self.error is None
        return is_empty and not (self.logs or self.steps or self.output)


@dataclass(kw_only=True)
class SettleResult:
    """Result of settling one job.

    Attributes:
        outcome: `stale` if another worker has leased the job, or `busy` if the job must be settled
            again.
    """

    job_id: JobId
    fence: int
    outcome: Literal["applied", "stale", "cancelled", "not_found", "busy"]
    status: Status | None = None


class SettleResponse(Model):
    """Results in the order of the settled items, and the leases requested in the same call."""

    results: tuple[SettleResult, ...]
    lease: LeaseResponse | None = None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Parse a response from JSON."""
        body = decode_object(raw)
        if body.get("lease") is not None:
            body["lease"] = LeaseResponse.of(body["lease"], len(raw))
        return cls.model_validate(body)


#: A job type in the format of `register_job_types`. Omitted fields take the database's defaults.
JobTypeSpec = dict[str, Any]
