"""Models of the requests and responses of the SQL functions."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, NewType, Self

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
#: State of a job that people see, which `queue.state_of` computes from the job's row.
JobState = Literal[
    "queued", "scheduled", "retrying", "running", "suspended", "completed", "failed", "cancelled"
]
SettleOutcome = Literal[
    "completed", "retry", "failed", "snoozed", "released", "waiting", "cancelled"
]
#: Statuses of ended jobs. A job with one of the statuses runs again only if a person retries it.
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


def compact_number(value: float) -> int | float:
    """Convert a whole number to an int, because Postgres cannot parse 60.0 as an integer."""
    return int(value) if value.is_integer() else value


#: A number in a request. A whole number is serialized without a decimal point.
Number = Annotated[float, PlainSerializer(compact_number, when_used="json-unless-none")]


class Model(BaseModel):
    """Base class of the models in this module, which are frozen and ignore unknown fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    def wire(self) -> dict[str, Any]:
        """Return the fields that are set, in the format of the SQL functions."""
        return self.model_dump(mode="json", exclude_none=True)


class Report(BaseModel):
    """Base class of SQL's reports for people, which keep unknown fields."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Progress(Model):
    """Progress of a job. `percentage` is from 0 to 100."""

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
    #: The job is cancelled if it has not started by this time.
    start_by_at: datetime | None = None
    start_by_seconds: int | None = None
    #: Time of the job's first start, which retries and waits do not change.
    started_at: datetime | None = None
    #: Time at which the job ended, whatever its outcome. Only completed jobs have `completed_at`.
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
    #: The job that this job replays, and the step at which the replay starts. The step is None if
    #: the replay starts at the job's beginning.
    replay_of: str | None = None
    replay_from: str | None = None
    lost_attempts: int = 0
    #: Number of attempts that do not count, because the process ended while it also ran other jobs.
    deaths: int = 0
    #: Cost of the job's attempts in other services, in US dollars, as reported by processors.
    cost_usd: float | None = None
    state: JobState | None = None
    #: Time of the job's next run. The time is past if the job is due, and None if no next run is
    #: planned or its time is unknown.
    next_run_at: datetime | None = None
    #: Event or answer for which a suspended job waits, as `{kind, name, until, …}`.
    waiting_for: dict[str, Any] | None = None
    running_since: datetime | None = None
    worker_id: str | None = None
    #: The job's last error in one line, with the exception's type before its message.
    error: str | None = None
    #: Queue time and duration of the job in milliseconds, as `{queue_ms, run_ms, runs}`.
    times: dict[str, Any] | None = None
    #: Up to three simple values of the payload in one line, such as `to: a@b.test, count: 3`.
    glimpse: str | None = None

    @property
    def ended(self) -> bool:
        """True if the job is completed, failed or cancelled."""
        return self.status in ENDED

    @model_validator(mode="wrap")
    @classmethod
    def _without_unreadable(cls, row: Any, parse: ModelWrapValidatorHandler[Self]) -> Self:
        """Parse a job's row without its invalid fields, which an app's own SQL may have stored."""
        try:
            return parse(row)
        except ValidationError as error:
            invalid = sorted({str(item["loc"][0]) for item in error.errors() if item["loc"]})
            rest = {name: value for name, value in dict(row).items() if name not in invalid}
            text = f"fields that cannot be read: {', '.join(invalid)}"
            return parse({"created_at": "1970-01-01T00:00:00Z"} | rest | {"error_message": text})


class Job(_JobFields):
    """A job in the form that members of its workspace see."""

    payload: Any = None
    result: Any = None
    error_data: Any = None
    #: Position of the end of each output stream of the job, as `{name: {attempt, next}}`.
    #: `job_output` returns the streams' contents.
    streams: dict[str, dict[str, int]] | None = None
    #: Name of the schedule of which this job is the latest run.
    schedule: str | None = None


class ListedJob(_JobFields):
    """A job in a list.

    `error_message` is cut to 500 characters, and `get_job` returns the whole text.
    """


class JobPage(Model):
    """A page of jobs, newest first. `next_cursor` is None on the last page."""

    jobs: tuple[ListedJob, ...]
    next_cursor: str | None = None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Parse a page of jobs from JSON."""
        page = decode_object(raw)
        next_cursor = page["next"] and page["next"]["id"]
        return cls.model_validate({"jobs": page["jobs"], "next_cursor": next_cursor})


class JobEvent(Model):
    """An event in a job's history. `seq` numbers the events of a job from 1, without gaps."""

    job_id: JobId
    seq: int
    type: str
    data: Any = None
    created_at: datetime


class GuestJob(Model):
    """Events of a job in the form that guests see."""

    events: tuple[JobEvent, ...]


class FeedPage(Model):
    """A page of events of many jobs. If `more` is true, events after `cursor` can be read now."""

    events: tuple[JobEvent, ...]
    cursor: str
    #: For each event, the cursor from which an interrupted stream continues after the event.
    places: tuple[str, ...] = Field(default=(), exclude=True)
    more: bool = False
    #: True if the given cursor is from another database. After a `reset`, events may be missing, so
    #: that a client reads the jobs' state again.
    reset: bool = False


class QueueHealth(Report):
    """Health of the queue, for readiness checks and dashboards."""

    #: Number of due jobs by the reason why they have not started, with a verdict.
    backlog: dict[str, Any]
    #: Age of the oldest due job, without paused jobs and jobs of types without a worker.
    oldest_due_seconds: float | None = None
    last_tick_seconds: float | None = None
    #: Problems of the queue in the format of `explain_queue`.
    findings: tuple[dict[str, Any], ...] = ()


class UniqueOptions(Model):
    """Allows only one job with this `key` until the job is leased, or until it has ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    until: Literal["leased", "finished"] | None = None
    on_conflict: Literal["skip", "replace", "raise"] | None = None


class EnqueueOptions(Model):
    """Options of a new job. An option that is None takes the default of the job type."""

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
    #: Tags by which people can find the job.
    tags: tuple[str, ...] | None = None


class JobRequest(EnqueueOptions):
    """A job to enqueue.

    The options, type and payload of the job are in one object, as in HTTP and SQL.
    """

    job_type: str
    payload: Any = Field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return the options of the job that are set."""
        return self.model_dump(mode="json", exclude_none=True, include=_OPTIONS)

    def wire(self) -> dict[str, Any]:
        """Return the job in the format of `enqueue_jobs`."""
        return {**self.options(), "job_type": self.job_type, "payload": self.payload}


_OPTIONS = set(EnqueueOptions.model_fields)


class NewJob(Model):
    """One job of a bulk enqueue, or one child job of a spawn."""

    job_type: str
    payload: Any = Field(default_factory=dict)
    #: The default options are built without validation, because a validator slows down each cold
    #: start.
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
    """A job that a call has created, or that the call has found by the job's idempotency key."""

    job: Job
    created: bool
    #: True if the caller should wake a worker after its commit. HTTP responses omit `wake`.
    wake: bool = Field(default=False, exclude=True)


class EnqueuedBatch(Model):
    """The jobs of one bulk enqueue, in the order of the request."""

    jobs: tuple[Enqueued, ...]
    wake: bool = Field(default=False, exclude=True)


@dataclass(kw_only=True)
class LeasedJob:
    """The fields of a job that its worker needs. The worker drops the raw payload after parsing.

    `LeasedJob` and `Lease` are dataclasses, because a worker creates both for each job. A pydantic
    model takes twice as long to parse, and its fields take four times as long to read.
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
    """A job that this worker has leased for `lease_seconds`. `fence` is the lease's number."""

    job: LeasedJob
    fence: int
    lease_seconds: float = 60.0
    #: Results of steps and ended waits of earlier attempts by name. `steps` is None if the results
    #: are too large for a lease response, so that `WorkerQueue.read_steps` must read the results.
    steps: dict[str, Any] | None = field(default_factory=dict)


class RunEnd(Model):
    """Request to end the run if no job is ready and no job falls due within `stay_ms`."""

    stay_ms: Number
    #: True if maintenance has just run. If `maintained` is true, the run may end although
    #: maintenance is due.
    maintained: bool | None = None
    #: Summary of the run, which is stored with the worker. A `summary` of None keeps an earlier
    #: run's summary.
    summary: dict[str, Any] | None = None


class RunState(Model):
    """State of a run that a lease request began or ended."""

    #: Number of further runs that may begin now. `free` is None if this run was rejected.
    free: int | None = None
    ended: bool = False
    #: True if another run was rejected while this run was active. The jobs that the other run would
    #: have leased may still wait.
    refused: bool = False


class ReleasedJobs(Model):
    """The jobs of a worker whose process died, after their leases were released."""

    #: Jobs that ended the process. The failed attempt of a guilty job counts towards the job's
    #: `max_attempts`.
    guilty: tuple[JobId, ...] = ()
    #: Number of groups of jobs that may have ended the process. Each group of suspects runs next in
    #: its own process.
    suspects: int = 0


#: Maximum jobs that one request may lease, over all of its pools.
MAX_LEASED = 1000


class LeasePool(Model):
    """Job types that share slots of a worker, and the number of jobs to lease for these slots."""

    job_types: tuple[str, ...]
    limit: int


class LeaseRequest(Model):
    """A request for jobs.

    A repeated request has the same `tick_id` and `call`, and gets the same leases.
    """

    worker_id: str
    tick_id: str
    call: int
    limit: int
    #: All types that the worker serves, including types without a free slot. `due` in the response
    #: counts jobs of all types that the worker serves.
    job_types: tuple[str, ...] | None = None
    #: Job types by the slots that they share, each with its own limit. `pools` replaces `limit`.
    pools: tuple[LeasePool, ...] | None = None
    queues: tuple[str, ...] | None = None
    #: Lease time of the leased jobs, instead of the lease time of their job types.
    lease_seconds: int | None = None
    version: str | None = None
    #: Free slots for new jobs. If `free_slots` is None, the database counts the slots that this
    #: lease leaves free. If `free_slots` is -1, an enqueue wakes a worker instead of relying on
    #: this run.
    free_slots: int | None = None
    #: All slots of the worker, so that `explain` can report that a job waits for a slot. `slots` is
    #: None in later requests of a run.
    slots: tuple[LeasePool, ...] | None = None
    #: Jobs whose abandoned processors still run. `abandoned` is None if the list has not changed
    #: since the last request.
    abandoned: tuple[AbandonedJob, ...] | None = None
    #: True to request the exact number of due jobs, as the first request of each run does.
    count_due: bool | None = None
    #: Maximum number of concurrent runs, if the number is limited, and maximum duration of this
    #: run.
    most: int | None = None
    run_seconds: Number | None = None
    ends: RunEnd | None = None
    #: True to lease only suspects. False if another process of this host runs the suspects.
    suspects: bool | None = None
    #: True to request the Realtime topic that wakes workers.
    listens: bool | None = None


class LeaseResponse(Model):
    """The leased jobs of a lease request, and the state of the queue."""

    leases: tuple[Lease, ...]
    #: True if `run_maintenance` has work to do.
    maintenance: bool = False
    #: Number of due jobs that were not leased, counted up to 1,000.
    due: int = 0
    next_due_in_ms: float | None = None
    run: RunState | None = None
    #: True if this worker runs suspects now, or may lease only suspects.
    alone: bool | None = None
    #: Number of groups of suspects that are ready to run. `suspects` is None if there are no
    #: suspects.
    suspects: int | None = None
    wake_topic: str | None = None
    #: Current time of the database's clock.
    now: datetime | None = None
    #: Size of the whole response in bytes, which the client sets.
    size: int = Field(default=0, exclude=True)

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Parse a lease response from JSON."""
        # do not use pydantic's JSON parser, because it needs twice the memory for large payloads
        return cls.of(decode_object(raw), len(raw))

    @classmethod
    def of(cls, body: dict[str, Any], size: int) -> Self:
        """Parse a response without its invalid leases.

        Invalid leases expire while the valid leases' jobs run.
        """
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
    """Result of a call of `run_maintenance`."""

    #: Number of rows or jobs that each task has processed.
    done: dict[str, int]
    #: Tasks that failed and are retried later, see `queue_health`.
    failed: tuple[str, ...] = ()
    #: True if another call of `run_maintenance` would find more work to do.
    more: bool = False
    #: True if another worker is running maintenance at the moment.
    busy: bool = False


class LogLine(Model):
    """A line to add to a job's log."""

    level: str
    message: str
    metadata: Any = None
    at: datetime | None = None


class StepResult(Model):
    """A finished step, whose result is to be stored."""

    name: str
    result: Any = None
    #: Duration of the step by the worker's monotonic clock. The database computes the step's start
    #: from the duration.
    duration_ms: Number | None = None


class RunningStep(Model):
    """The step that a job is running, and the step's duration so far."""

    name: str
    for_ms: Number


class Pulse(Model):
    """The time since a running job's last update, and the line of code that the job executes."""

    #: Kind of the last update, or `end` if the processor has ended and its outcome is not stored.
    last: Literal["start", "output", "progress", "log", "step", "end"]
    #: Milliseconds since the job's last update.
    for_ms: Number
    #: Milliseconds until the timeout or the deadline, or None while the job waits for a call.
    left_ms: Number | None = None
    #: File and line of the processor's own code that runs or waits.
    place: str | None = None
    #: Text of that line.
    code: str | None = None
    #: Calls that led there as `file:line function`, the innermost last.
    stack: list[str] = []
    #: Process id of the Postgres session in which the job runs a query, and of its other sessions.
    pid: int | None = None
    own_pids: list[int] = []
    #: Number of other jobs in the job's call of a batch. None if the job is alone, and 0 if the job
    #: waits for the next call.
    batched: int | None = None
    #: Milliseconds of the last minute for which the job's own code blocked the event loop, or None
    #: for less than 10 seconds.
    blocked_ms: int | None = None
    #: What the job waits for: `the program ffmpeg (pid 7)`, `data from 192.0.2.7:443`, or a lock of
    #: asyncio. The kind of its remedy is `output`, `data`, `lock` or `event`.
    program: str | None = None
    waits: str | None = None
    #: True if the processor runs in a thread, which a cancel cannot stop. Otherwise None.
    in_thread: bool | None = None
    #: Maximum memory that the job's process has used so far, in megabytes.
    memory_mb: int


class AbandonedJob(Model):
    """A job whose processor still runs although it was stopped, and the location of its code."""

    job_id: JobId
    place: str
    #: True if the processor runs in a thread, which can stop only when its current call returns.
    in_thread: bool = False


class OutputChunk(Model):
    """A part of an output stream to store, with either text or items."""

    stream: str
    #: Number of starts of the stream so far. Each start of a stream discards the earlier output of
    #: the stream.
    attempt: int
    #: Number of characters or items in the stream before this chunk.
    start: int
    step: str | None = None
    text: str | None = None
    items: list[Any] | None = None


@dataclass(kw_only=True)
class ReportItem:
    """Updates of one running job. An item without updates still renews the job's lease."""

    job_id: JobId
    fence: int
    progress: Progress | None = None
    logs: tuple[LogLine, ...] = ()
    #: Number of log lines of this attempt in earlier reports, so that no line is stored twice.
    logs_from: int | None = None
    steps: tuple[StepResult, ...] = ()
    step: RunningStep | None = None
    tags: tuple[str, ...] = ()
    output: tuple[OutputChunk, ...] = ()
    pulse: Pulse | None = None
    #: New lease time of the job, instead of its current lease time.
    lease_seconds: float | None = None

    def wire(self) -> dict[str, Any]:
        """Return the fields that are set, in the format of `report_jobs`."""
        return {
            name: compact_number(value) if isinstance(value, float) else value
            for name, value in vars(self).items()
            if value or (value is not None and type(value) is not tuple)
        }


class ReportResult(Model):
    """The database's response to a worker's report about one job.

    Attributes:
        outcome: The outcome is `cancel` if the job must stop, and `lost` if the worker no longer
            has the lease. The outcome is `busy` if another transaction has locked the job's row, so
            that the report must be sent again. In all other cases, the outcome is `ok`.
        output: The value is `refused` if the database did not store some output, and None if the
            report had no output. In all other cases, the value is `followed` if someone reads the
            job's streams, or `unfollowed` if no one does.
    """

    job_id: JobId
    fence: int
    outcome: Literal["ok", "cancel", "lost", "busy"]
    output: Literal["followed", "unfollowed", "refused"] | None = None
    lease_expires_at: datetime | None = None


class ReportResponse(Model):
    """Results of a report, in the order of the report's items."""

    results: tuple[ReportResult, ...]


class ErrorInfo(Model):
    """Error of a failed attempt. Failures are grouped by `type`. `message` is for people."""

    type: str
    message: str
    data: Any = None
    #: HTTP status of a vendor's response, and name of a system error such as ENOSPC, or the code of
    #: a library such as SQLITE_BUSY. The suggested remedies depend on these codes.
    status: int | None = None
    errno: str | None = None
    #: File of a system error.
    path: str | None = None
    #: Address of the server from which the error came, such as a proxy.
    address: str | None = None
    #: SQLSTATE of a Postgres error, and the role of the call that lacked a right.
    sqlstate: str | None = None
    role: str | None = None
    #: Name of the signal that ended a program.
    signal: str | None = None
    #: Names of an environment variable, a module and a program that were not found.
    variable: str | None = None
    module: str | None = None
    program: str | None = None
    #: Beginning of the vendor's response, from which secrets were removed.
    response: str | None = None
    #: Stack of an attempt that hung or was lost, and ids of the jobs in the same process.
    evidence: dict[str, Any] | None = None
    #: Stack frames without values of variables, see `minutehand.worker.errors`. The database stores
    #: the frames with the attempt.
    traceback: dict[str, Any] | None = None
    #: Location of the worker's log and code, as `{request_id, log_group, log_stream, region,
    #: commit, source}`.
    origin: dict[str, str] | None = None


@dataclass(kw_only=True)
class SettleItem(ReportItem):
    """Outcome of one attempt, which the worker settles.

    An item is a dataclass without validation, because the worker only sends items.
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

        The caller sets the item's ids later.
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
    """Result of the settlement of one job.

    Attributes:
        outcome: The outcome is `stale` if another worker has leased the job, and `busy` if the job
            must be settled again because another transaction has locked the job's row, or because
            of `error`.
    """

    job_id: JobId
    fence: int
    outcome: Literal["applied", "stale", "cancelled", "not_found", "busy"]
    status: Status | None = None
    error: str | None = None


class SettleResponse(Model):
    """Results in the order of the settled items, and the jobs that the same call leased."""

    results: tuple[SettleResult, ...]
    lease: LeaseResponse | None = None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Parse a settlement's response from JSON."""
        body = decode_object(raw)
        if body.get("lease") is not None:
            body["lease"] = LeaseResponse.of(body["lease"], len(raw))
        return cls.model_validate(body)


#: A job type in the format of `register_job_types`. An omitted field takes the database's default.
JobTypeSpec = dict[str, Any]
