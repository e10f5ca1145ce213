"""Which processor runs which job type, with its limits and its payload's model."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Generic, Protocol, TypeVar, Unpack, overload

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
#: What a job of a batch came to: an exception fails that job as if it had been raised.
Each = Returned | BaseException
B_co = TypeVar("B_co", bound=Sequence[Each] | Awaitable[Sequence[Each]], covariant=True)
AsyncBatchProcessor = Callable[[list[BatchedJob[P]]], Awaitable[Sequence[Each]]]
SyncBatchProcessor = Callable[[list[BatchedJob[P]]], Sequence[Each]]
AnyProcessor = AsyncProcessor[P] | SyncProcessor[P] | AsyncBatchProcessor[P] | SyncBatchProcessor[P]
#: Most jobs of a batch; longest wait for more of them, in seconds: their leases are held meanwhile,
#: and a cancel arrives within five.
MOST_BATCH: Final = 500
MOST_BATCH_WAIT: Final = 3.0
#: Moves what an app's tables hold for the queue into it; returns how many jobs were made.
Publisher = Callable[[], Awaitable[int]]
#: Turns the raw payload of one version into that of the next.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


class ProcessorOptions(TypeOptions, total=False):
    """Options of `@processor`, of which `batch` comes from its own overload."""

    #: Version of the payload's shape; raise it with an upcaster.
    version: int
    #: From a version to the next: `{1: to_version_2}`.
    upcasters: Mapping[int, Upcaster] | None
    #: The type whose jobs spawn these: a worker run over that one runs these too.
    part_of: Name | None
    #: When the clock enqueues such jobs, of no tenant: a cron expression, or `Schedule`s. A deploy
    #: changes and removes them.
    schedule: Schedules | None


class _CheckedOptions(ProcessorOptions):
    job_type: Name
    batch: int | None
    batch_wait: Seconds | None


class UnknownProcessor(JobServiceError):
    """No processor of that job type was imported."""


class PayloadRejected(JobServiceError):
    """The payload does not fit the processor's model; another attempt would not help."""

    def __init__(self, message: str, problems: Sequence[Mapping[str, Any]]) -> None:
        self.problems = list(problems)
        super().__init__(message)


#: What the database gets of each type, so that an option that is taken away has gone.
_SPELT_OUT: dict[str, Any] = {"events": "full", "internal": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobType(Generic[P]):
    """A job type and everything the worker and the database need to know about it."""

    name: str
    run: AnyProcessor[P]
    payload: type[P]
    is_async: bool
    options: TypeOptions
    #: Most jobs of a call; None where each is a call of its own.
    batch: int | None = None
    batch_wait: float = 0.0
    version: int = 1
    upcasters: Mapping[int, Upcaster] = field(default_factory=dict)
    part_of: str | None = None
    schedules: tuple[Schedule, ...] = ()
    around: Sequence[Middleware] = field(default=(), repr=False, compare=False)
    adapter: TypeAdapter[P] = field(repr=False, compare=False)

    def read_payload(self, raw: Any, version: int | None) -> P:
        """The payload as the processor's model, brought up to the present version first.

        Raises:
            PayloadRejected: It does not fit, or was written by a newer version than this one.
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
            # by the steps there are: anyone who enqueues names the version, and may name any number
            for step in sorted(step for step in self.upcasters if step >= at):
                raw = self.upcasters[step](raw)
        try:
            return self.adapter.validate_python(raw)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            where = ", ".join(".".join(map(str, p["loc"])) or "payload" for p in problems[:5])
            name = getattr(self.payload, "__name__", self.payload)
            raise PayloadRejected(
                f"payload of {self.name!r} does not fit {name}: {where}",
                [{"path": list(p["loc"]), "message": p["msg"]} for p in problems],
            ) from error

    def spec(self) -> JobTypeSpec:
        """The type as it is published to the database, payload schema included."""
        spec: dict[str, Any] = {**_SPELT_OUT, **self.options}
        for name in ("lease", "timeout"):
            if (length := spec.pop(name, None)) is not None:
                # the database keeps whole seconds
                spec[f"{name}_seconds"] = max(1, math.ceil(seconds(length)))
        for name in ("backoff", "rate_limit"):
            if (option := spec.pop(name, None)) is not None:
                spec[name] = option.wire()
        docs = inspect.cleandoc(self._code.__doc__ or "").partition("\n\n")[0]
        spec |= {
            "job_type": self.name,
            "payload_schema": self.adapter.json_schema(),
            "schema_version": self.version,
            "source": f"{self._code.__module__}:{self._code.__qualname__}",
            "schedules": [schedule.wire(self.name) for schedule in self.schedules],
        }
        if docs:
            spec["description"] = " ".join(docs.split())[:2000]
        return spec

    @property
    def place(self) -> str | None:
        """Its code as `file:function`, as a stack names a frame without its line."""
        run: Any = inspect.unwrap(self._code)
        body = run.__call__ if inspect.isclass(run) else run
        code = getattr(body, "__code__", None)
        return None if code is None else f"{code.co_filename}:{code.co_name}"

    @property
    def where(self) -> str:
        """Its code for a person: module and function, and the line of its file."""
        found = f"{self._code.__module__}.{self._code.__qualname__}"
        code = getattr(inspect.unwrap(self._code), "__code__", None)
        return found if code is None else f"{found} ({code.co_filename}:{code.co_firstlineno})"

    @property
    def _code(self) -> Any:
        return self.run if inspect.isroutine(self.run) else type(self.run)


class Decorator(Protocol[P]):
    """What `@processor(…)` returns: takes a function and gives the very same one back."""

    def __call__(
        self, run: Callable[[Job[P], JobContext], R_co], /
    ) -> Callable[[Job[P], JobContext], R_co]:
        """Register it."""


class BatchDecorator(Protocol[P]):
    """What `@processor(…, batch=…)` returns."""

    def __call__(
        self, run: Callable[[list[BatchedJob[P]]], B_co], /
    ) -> Callable[[list[BatchedJob[P]]], B_co]:
        """Register it."""


class Registry:
    """Job types by name. Applications use the one behind `processor`; tests make their own."""

    def __init__(self) -> None:
        self._types: dict[str, JobType[Any]] = {}
        #: What each worker run calls for apps with an outbox of their own, by name.
        self.publishers: dict[str, Publisher] = {}
        self._around: list[Middleware] = []

    def __iter__(self) -> Iterator[JobType[Any]]:
        return iter(self._types.values())

    def __contains__(self, name: str) -> bool:
        return name in self._types

    @property
    def names(self) -> tuple[str, ...]:
        """The registered job types, sorted."""
        return tuple(sorted(self._types))

    def with_parts(self, names: Iterable[str]) -> list[str]:
        """Add the job types whose jobs are parts of these: without them these would only wait."""
        wanted = list(dict.fromkeys(names))
        for name in wanted:  # grows as it goes: parts may have parts
            wanted += [t for t in self.names if self._types[t].part_of == name and t not in wanted]
        return wanted

    def find(self, name: str) -> JobType[Any] | None:
        """The job type of that name, or None."""
        return self._types.get(name)

    def add(self, job_type: JobType[Any]) -> None:
        """Add a job type, e.g. one that another registry made: its own middleware stays outermost.

        Raises:
            ValueError: The name is taken.
        """
        if (other := self._types.get(job_type.name)) is not None:
            raise ValueError(
                f"job type {job_type.name!r} has two processors: {other.where} and {job_type.where}"
            )
        self._types[job_type.name] = job_type
        for middleware in self._around:
            self._put_inside(job_type.name, middleware)

    def forget(self, module_name: str) -> None:
        """Drop the types of a module and of those inside it: one that failed to import half-way."""
        for name, job_type in list(self._types.items()):
            module = getattr(job_type.run, "__module__", "")
            if module == module_name or module.startswith(f"{module_name}."):
                del self._types[name]

    def around(self, middleware: M) -> M:
        """Run `middleware` around every attempt of this registry's processors; a decorator.

        It counts for processors registered or added before and after; the first added is the
        outermost.

        Raises:
            TypeError: It is not an async function of `(job, ctx, call)`.
        """
        if not is_async(middleware):
            raise TypeError(f"{middleware!r} must be an async function of (job, ctx, call)")
        self._around.append(middleware)
        for name in self._types:
            self._put_inside(name, middleware)
        return middleware

    def _put_inside(self, name: str, middleware: Middleware) -> None:
        """Have it run in the middleware of a type that has a list of its own, once."""
        job_type = self._types[name]
        if middleware not in job_type.around:
            self._types[name] = replace(job_type, around=(*job_type.around, middleware))

    def around_all(self, *middleware: Middleware) -> None:
        """Run `middleware` around all other of every type; what a type has already stays there."""
        for job_type in list(self):
            more = [each for each in middleware if each not in job_type.around]
            self._types[job_type.name] = replace(job_type, around=(*more, *job_type.around))

    def publisher(self, name: str, publish: Publisher) -> None:
        """Have `publish` called in each worker run: before it leases, on wake-ups, every second.

        Raises:
            ValueError: The name is taken.
        """
        if name in self.publishers:
            raise ValueError(f"there is a publisher {name!r} already")
        self.publishers[name] = publish

    def specs(self) -> list[JobTypeSpec]:
        """Every type as it is published to the database; one that cannot be stops no other."""
        found = []
        for name in self.names:
            try:
                found.append(self._types[name].spec())
            except Exception as error:  # as of a user's model without a JSON Schema
                said = text(error, 500).partition("\n")[0]
                extra = {"event": "worker.type_refused", "job_type": name}
                where = self._types[name].where
                logger.error("Job type %s of %s is refused: %s", name, where, said, extra=extra)
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

        A coroutine function runs on the worker's event loop and must not block it; a plain
        function runs in its own thread.

        Args:
            batch: Call it with up to so many jobs of one workspace, 1 to 500: a list of
                `BatchedJob`, each with its own `ctx`. It returns a list with what each came to, in
                their order: a result, an outcome, or an exception, which fails that job alone.
            batch_wait: Seconds that the first of a batch waits for more, 0 to 3; 0 takes what is
                there.
            payload: The model every payload must fit. Its JSON Schema is published, so the
                database refuses what would not fit, however it is enqueued.
            options: See `ProcessorOptions`.

        Raises:
            ValueError: The name is taken, or an option makes no sense.
            TypeError: An option does not exist or has a value of the wrong type, or the function
                takes other arguments.
        """
        given = {**options, "job_type": job_type, "batch": batch, "batch_wait": batch_wait}
        check_options(f"processor of {job_type!r}", _CheckedOptions, given)
        version = options.pop("version", 1)
        part_of = options.pop("part_of", None)
        steps = _upcasters(job_type, options.pop("upcasters", None), version)
        schedules = schedules_of(options.pop("schedule", None), job_type)
        wait = _batch_wait(job_type, batch, batch_wait)
        adapter = _adapter(job_type, payload)

        def register(run: Any) -> Any:
            _refuse_other_arguments(job_type, run, is_batched=batch is not None)
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
                    upcasters=steps,
                    part_of=part_of,
                    schedules=schedules,
                    around=self._around,  # the list itself: more may be added
                    adapter=adapter,
                )
            )
            return run

        return register


def _upcasters(
    job_type: str, given: Mapping[int, Upcaster] | None, version: int
) -> dict[int, Upcaster]:
    """The steps from version to version, once they make sense."""
    if given is None:
        return {}
    if strange := [at for at in given if not 1 <= at < version]:
        raise ValueError(
            f"upcasters of {job_type!r} must be from 1 to {version - 1}, not {strange}"
        )
    return dict(given)


def _adapter(job_type: str, payload: Any) -> TypeAdapter[Any]:
    """What reads payloads of this model."""
    try:
        return TypeAdapter(payload)
    except Exception as error:  # pydantic looks at whatever it is given
        raise TypeError(
            f"payload of {job_type!r} must be a model or a type that pydantic reads, "
            f"not {payload!r}"
        ) from error


def _batch_wait(job_type: str, batch: int | None, wait: Seconds | None) -> float:
    """How long a batch waits, once both options are known to make sense."""
    if batch is None:
        if wait is not None:
            raise ValueError(f"batch_wait of {job_type!r} needs batch, the most jobs of a call")
        return 0.0
    if not 1 <= batch <= MOST_BATCH:
        raise ValueError(f"batch of {job_type!r} must be from 1 to {MOST_BATCH}, not {batch}")
    length = wait.total_seconds() if isinstance(wait, timedelta) else float(wait or 0)
    if not 0 <= length <= MOST_BATCH_WAIT:
        raise ValueError(
            f"batch_wait of {job_type!r} must be from 0 to {MOST_BATCH_WAIT:g} seconds, not {wait}"
        )
    return length


def _refuse_other_arguments(job_type: str, run: Any, *, is_batched: bool) -> None:
    """Say at the start what would else cost each job all of its attempts."""
    try:
        takes = inspect.signature(run)
    except (TypeError, ValueError):  # one in C says nothing of it
        return
    wanted = "two arguments, the job and its ctx"
    if is_batched:
        wanted = "one argument, the list of its jobs, each with its own job.ctx, as it has batch"
    try:
        takes.bind(*([None] if is_batched else [None, None]))
    except TypeError as error:
        raise TypeError(
            f"the processor of {job_type!r} must take {wanted}; it takes {takes}"
        ) from error


#: Where `@processor` and `@around` register; the worker function runs what is in here.
default_registry = Registry()
processor = default_registry.processor
around = default_registry.around
