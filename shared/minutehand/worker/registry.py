"""The registry of processors by job type, with options and payload models."""

import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar, Unpack, overload

from pydantic import TypeAdapter, ValidationError

from minutehand.queue.errors import JobServiceError
from minutehand.queue.models import JobTypeSpec
from minutehand.worker.context import JobContext
from minutehand.worker.job import BatchedJob, Job
from minutehand.worker.middleware import Middleware, is_async
from minutehand.worker.option_checks import Name, check_options
from minutehand.worker.options import TypeOptions
from minutehand.worker.outcomes import Returned, Seconds, seconds
from minutehand.worker.schedules import Schedule, Schedules, schedules_of
from minutehand.worker.serialization import text

logger = logging.getLogger(__name__)

P = TypeVar("P")
M = TypeVar("M", bound=Middleware)
R_co = TypeVar("R_co", bound=Returned | Awaitable[Returned], covariant=True)

AsyncProcessor = Callable[[Job[P], JobContext], Awaitable[Returned]]
SyncProcessor = Callable[[Job[P], JobContext], Returned]
#: Outcome of one job of a batch. An exception in a batch's results fails the exception's job, as if
#: the processor had raised it for this job.
Each = Returned | BaseException
B_co = TypeVar("B_co", bound=Sequence[Each] | Awaitable[Sequence[Each]], covariant=True)
AsyncBatchProcessor = Callable[[list[BatchedJob[P]]], Awaitable[Sequence[Each]]]
SyncBatchProcessor = Callable[[list[BatchedJob[P]]], Sequence[Each]]
AnyProcessor = AsyncProcessor[P] | SyncProcessor[P] | AsyncBatchProcessor[P] | SyncBatchProcessor[P]
#: Maximum jobs of a batch, and maximum seconds that a batch waits for more jobs. The wait is short,
#: because the leases of waiting jobs may expire and a cancellation must arrive within five seconds.
MAX_BATCH = 500
MAX_BATCH_WAIT = 3.0
#: Function that enqueues the jobs of an app's outbox, and returns the number of jobs.
Publisher = Callable[[], Awaitable[int]]
#: Function that converts the raw payload of one version to the next version.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


class ProcessorOptions(TypeOptions, total=False):
    """Options of `@processor`, except `batch` and `batch_wait`, which only an overload has."""

    #: Version of the payload's schema. Increase the version together with an upcaster.
    version: int
    #: Upcasters by the version from which they convert, such as `{1: to_version_2}`.
    upcasters: Mapping[int, Upcaster] | None
    #: Job type whose jobs spawn jobs of this type. A run that is limited to the parent type also
    #: runs this type.
    part_of: Name | None
    #: A cron expression or `Schedule`s. The schedules enqueue jobs of this type without a tenant. A
    #: deploy updates and removes the schedules.
    schedule: Schedules | None


class _CheckedOptions(ProcessorOptions):
    job_type: Name
    batch: int | None
    batch_wait: Seconds | None


class PayloadRejected(JobServiceError):
    """The payload does not match the processor's model, which a retry would not change."""

    def __init__(self, message: str, errors: Sequence[Mapping[str, Any]]) -> None:
        self.errors = list(errors)
        super().__init__(message)


#: Defaults that the worker always publishes, so that an option removed from the code gets its
#: default again.
_SPELT_OUT: dict[str, Any] = {"events": "full", "internal": False}


@dataclass(frozen=True, kw_only=True)
class JobType(Generic[P]):
    """A job type with its processor and options."""

    name: str
    run: AnyProcessor[P]
    payload: type[P]
    is_async: bool
    options: TypeOptions
    #: Maximum jobs of one call of the processor. `batch` is None if each job has its own call.
    batch: int | None = None
    batch_wait: float = 0.0
    version: int = 1
    upcasters: Mapping[int, Upcaster] = field(default_factory=dict)
    part_of: str | None = None
    schedules: tuple[Schedule, ...] = ()
    around: Sequence[Middleware] = field(default=(), repr=False, compare=False)
    adapter: TypeAdapter[P] = field(repr=False, compare=False)

    def read_payload(self, raw: Any, version: int | None) -> P:
        """Convert the payload to the current version, and parse it as the processor's model.

        Raises:
            PayloadRejected: The payload does not match the model, or has a newer version.
        """
        at = self.version if version is None else version
        if at > self.version:
            raise PayloadRejected(
                f"payload of {self.name!r} has version {at}; this worker knows {self.version}. "
                "Deploy the worker before enqueueing the new version.",
                [],
            )
        if at < self.version and isinstance(raw, dict):
            raw = dict(raw)
            # Apply all upcasters of the payload's version and of later versions. There may be no
            # upcaster of exactly the payload's version, because a caller may send a version that
            # never existed.
            for step in sorted(step for step in self.upcasters if step >= at):
                raw = self.upcasters[step](raw)
        try:
            return self.adapter.validate_python(raw)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            where = ", ".join(".".join(map(str, p["loc"])) or "payload" for p in errors[:5])
            name = getattr(self.payload, "__name__", self.payload)
            raise PayloadRejected(
                f"payload of {self.name!r} does not fit {name}: {where}",
                [{"path": list(p["loc"]), "message": p["msg"]} for p in errors],
            ) from error

    def spec(self) -> JobTypeSpec:
        """Return the job type in the published format, with the JSON Schema of its payload."""
        spec: dict[str, Any] = {**_SPELT_OUT, **self.options}
        for name in ("lease", "timeout"):
            if (length := spec.pop(name, None)) is not None:
                # the database stores whole seconds
                spec[f"{name}_seconds"] = max(1, math.ceil(seconds(length)))
        for name in ("backoff", "rate_limit"):
            if (option := spec.pop(name, None)) is not None:
                spec[name] = option.to_json()
        docs = inspect.cleandoc(self._code.__doc__ or "").partition("\n\n")[0]
        spec |= {
            "job_type": self.name,
            "payload_schema": self.adapter.json_schema(),
            "schema_version": self.version,
            "source": f"{self._code.__module__}:{self._code.__qualname__}",
            "schedules": [schedule.to_json(self.name) for schedule in self.schedules],
        }
        if docs:
            spec["description"] = " ".join(docs.split())[:2000]
        return spec

    @property
    def location(self) -> str | None:
        """Location of the processor's code as `file:function`, without a line number."""
        run: Any = inspect.unwrap(self._code)
        body = run.__call__ if inspect.isclass(run) else run
        code = getattr(body, "__code__", None)
        return None if code is None else f"{code.co_filename}:{code.co_name}"

    @property
    def where(self) -> str:
        """Module and function, file and line of the processor's code, for people."""
        found = f"{self._code.__module__}.{self._code.__qualname__}"
        code = getattr(inspect.unwrap(self._code), "__code__", None)
        return found if code is None else f"{found} ({code.co_filename}:{code.co_firstlineno})"

    def is_in(self, package: str) -> bool:
        """Return whether a module or its submodules contain the processor's code."""
        return f"{getattr(self.run, '__module__', '')}.".startswith(f"{package}.")

    @property
    def _code(self) -> Any:
        return self.run if inspect.isroutine(self.run) else type(self.run)


class Decorator(Protocol[P]):
    """Type of `@processor(…)`, which returns the decorated function unchanged."""

    def __call__(
        self, run: Callable[[Job[P], JobContext], R_co], /
    ) -> Callable[[Job[P], JobContext], R_co]:
        """Register the decorated function as processor."""


class BatchDecorator(Protocol[P]):
    """Type of `@processor(…, batch=…)`."""

    def __call__(
        self, run: Callable[[list[BatchedJob[P]]], B_co], /
    ) -> Callable[[list[BatchedJob[P]]], B_co]:
        """Register the decorated function as processor of batches."""


class Registry:
    """Job types by name.

    Applications use the registry of `processor`, and tests create registries.
    """

    def __init__(self) -> None:
        self._types: dict[str, JobType[Any]] = {}
        #: Publishers of apps with an outbox, by name. Each worker run calls the publishers.
        self.publishers: dict[str, Publisher] = {}
        #: Modules of processors that could not be imported, with the error. The worker publishes
        #: the failures, so that people see why no worker serves the modules' job types.
        self.failures: dict[str, str] = {}
        self._around: list[Middleware] = []

    def failure_specs(self) -> list[JobTypeSpec]:
        """Return the modules that could not be imported, in the published format."""
        return [{"module": module, "failure": failure} for module, failure in self.failures.items()]

    def __iter__(self) -> Iterator[JobType[Any]]:
        return iter(self._types.values())

    def __contains__(self, name: str) -> bool:
        return name in self._types

    @property
    def names(self) -> tuple[str, ...]:
        """The registered job types, sorted."""
        return tuple(sorted(self._types))

    def with_parts(self, names: Iterable[str]) -> list[str]:
        """Return the job types in `names` with their part types, because jobs wait for their parts.

        A type is a part of the type that its `part_of` names.
        """
        selected = list(dict.fromkeys(names))
        for name in selected:  # the list grows during the loop, because parts may have parts
            selected += [
                t for t in self.names if self._types[t].part_of == name and t not in selected
            ]
        return selected

    def find(self, name: str) -> JobType[Any] | None:
        """Return the job type with this name, or None."""
        return self._types.get(name)

    def add(self, job_type: JobType[Any]) -> None:
        """Add a job type, perhaps from another registry. The type's own middleware stays outermost.

        Raises:
            ValueError: A processor with this name already exists.
        """
        if (other := self._types.get(job_type.name)) is not None:
            raise ValueError(
                f"job type {job_type.name!r} has two processors: {other.where} and {job_type.where}"
            )
        self._types[job_type.name] = job_type
        for middleware in self._around:
            self._put_inside(job_type.name, middleware)

    def forget(self, module_name: str) -> None:
        """Remove the job types of a module and its submodules after its import failed."""
        for name, job_type in list(self._types.items()):
            if job_type.is_in(module_name):
                del self._types[name]

    def around(self, middleware: M) -> M:
        """Decorate a middleware, so that it runs around each attempt of the registry's processors.

        The middleware also applies to processors that are already registered. The middleware that
        was added first is outermost.

        Raises:
            TypeError: `middleware` must be an async function of `(job, ctx, call)`.
        """
        if not is_async(middleware):
            raise TypeError(f"{middleware!r} must be an async function of (job, ctx, call)")
        self._around.append(middleware)
        for name in self._types:
            self._put_inside(name, middleware)
        return middleware

    def _put_inside(self, name: str, middleware: Middleware) -> None:
        """Add a middleware to a type, inside its other middleware, unless the type has it."""
        job_type = self._types[name]
        if middleware not in job_type.around:
            self._types[name] = replace(job_type, around=(*job_type.around, middleware))

    def around_all(self, middleware: Middleware) -> None:
        """Make `middleware` the outermost middleware of each type that does not have it."""
        for name, job_type in self._types.items():
            if middleware not in job_type.around:
                self._types[name] = replace(job_type, around=(middleware, *job_type.around))

    def publisher(self, name: str, publish: Publisher) -> None:
        """Call `publish` before a run's first lease, after wake-ups of the run, and every second.

        Raises:
            ValueError: A publisher with this name already exists.
        """
        if name in self.publishers:
            raise ValueError(f"a publisher named {name!r} already exists")
        self.publishers[name] = publish

    def specs(self) -> list[JobTypeSpec]:
        """Return each job type in the published format. Log and skip invalid types."""
        found = []
        for name in self.names:
            try:
                found.append(self._types[name].spec())
            except Exception as error:  # such as a model without a JSON Schema
                reason = text(error, 500).partition("\n")[0]
                extra = {"event": "worker.type_refused", "job_type": name}
                where = self._types[name].where
                logger.error("Job type %s of %s is rejected: %s", name, where, reason, extra=extra)
        return found

    @overload
    def processor(
        self,
        job_type: str,
        *,
        payload: type[P],
        batch: None = None,
        batch_wait: None = None,
        **options: Unpack[ProcessorOptions],
    ) -> Decorator[P]: ...

    @overload
    def processor(
        self,
        job_type: str,
        *,
        payload: type[P],
        batch: int,
        batch_wait: Seconds | None = None,
        **options: Unpack[ProcessorOptions],
    ) -> BatchDecorator[P]: ...

    def processor(
        self,
        job_type: str,
        *,
        payload: type[P],
        batch: int | None = None,
        batch_wait: Seconds | None = None,
        **options: Unpack[ProcessorOptions],
    ) -> Any:
        """Register the decorated function as the processor of `job_type`.

        A coroutine function runs on the worker's event loop and must not block it. A synchronous
        function runs in its own thread.

        Args:
            job_type: Name of the type.
            payload: Model of the type's payloads. The worker publishes the model's JSON Schema, so
                that the database rejects other payloads, however a job is enqueued.
            batch: Maximum jobs per call of the function, from 1 to 500, all of one workspace. The
                function gets a list of `BatchedJob`, each with its own `ctx`. The function returns
                a list with the outcome of each job in the same order. An exception in the list
                fails only its job.
            batch_wait: Seconds that the first job of a batch waits for more jobs, 0 to 3.
            options: The fields of `ProcessorOptions`.

        Raises:
            ValueError: The job type already has a processor, or an option has an invalid value.
            TypeError: An option does not exist or has the wrong type, or the function takes other
                arguments than its job and `ctx`, or its list of jobs.
        """
        given = {**options, "job_type": job_type, "batch": batch, "batch_wait": batch_wait}
        check_options(f"processor of {job_type!r}", _CheckedOptions, given)
        version = options.pop("version", 1)
        part_of = options.pop("part_of", None)
        upcasters = dict(options.pop("upcasters", None) or {})
        if strange := [at for at in upcasters if not 1 <= at < version]:
            raise ValueError(
                f"upcasters of {job_type!r} must be from 1 to {version - 1}, not {strange}"
            )
        schedules = schedules_of(options.pop("schedule", None), job_type)
        wait = _batch_wait(job_type, batch, batch_wait)
        adapter = _adapter(job_type, payload)

        def register(run: Any) -> Any:
            _reject_other_arguments(job_type, run, is_batch=batch is not None)
            self.add(
                JobType(
                    name=job_type,
                    run=run,
                    payload=payload,
                    is_async=is_async(run),
                    options=options,
                    batch=batch,
                    batch_wait=wait,
                    version=version,
                    upcasters=upcasters,
                    part_of=part_of,
                    schedules=schedules,
                    adapter=adapter,
                )
            )
            return run

        return register


def _adapter(job_type: str, payload: Any) -> TypeAdapter[Any]:
    """Return the parser for payloads of this model, or raise a TypeError."""
    try:
        return TypeAdapter(payload)
    except Exception as error:  # pydantic may raise anything for an unsuitable type
        raise TypeError(
            f"payload of {job_type!r} must be a model or a type that pydantic reads, "
            f"not {payload!r}"
        ) from error


def _batch_wait(job_type: str, batch: int | None, wait: Seconds | None) -> float:
    """Check `batch` and `batch_wait`, and return `batch_wait` in seconds."""
    if batch is None:
        if wait is not None:
            raise ValueError(f"batch_wait of {job_type!r} needs batch, the maximum jobs of a call")
        return 0.0
    if not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"batch of {job_type!r} must be from 1 to {MAX_BATCH}, not {batch}")
    length = wait.total_seconds() if isinstance(wait, timedelta) else float(wait or 0)
    if not 0 <= length <= MAX_BATCH_WAIT:
        raise ValueError(
            f"batch_wait of {job_type!r} must be from 0 to {MAX_BATCH_WAIT:g} seconds, not {wait}"
        )
    return length


def _reject_other_arguments(job_type: str, run: Any, *, is_batch: bool) -> None:
    """Reject a processor with wrong arguments at start-up, because all of its jobs would fail."""
    try:
        takes = inspect.signature(run)
    except (TypeError, ValueError):  # a function in C may have no signature
        return
    expected = "two arguments, the job and its ctx"
    if is_batch:
        expected = (
            "one argument, the list of its jobs, because it has batch; each job has its own ctx"
        )
    try:
        takes.bind(*([None] if is_batch else [None, None]))
    except TypeError as error:
        raise TypeError(
            f"the processor of {job_type!r} must take {expected}; it takes {takes}"
        ) from error


#: Default registry of workers, to which `@processor` and `@around` add processors and middleware.
default_registry = Registry()
processor = default_registry.processor
around = default_registry.around
