"""Which processor runs which job type, with its limits and its payload's model.

Publishing the types to the database is asked of `JobType.spec`; running them is the tick's.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from minutehand.queue.errors import JobServiceError
from minutehand.queue.models import JobTypeSpec, plain
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.middleware import Middleware, is_async
from minutehand.worker.outcomes import Outcome, Returned, Seconds, seconds
from minutehand.worker.schedules import Schedule, Schedules, schedules_of

P = TypeVar("P")
M = TypeVar("M", bound=Middleware)
R_co = TypeVar("R_co", bound=Returned, covariant=True)

_UNIONS: Final = (Union, UnionType)
_OUTCOMES: Final = get_args(Outcome)

AsyncProcessor = Callable[[Job[P], JobContext], Awaitable[Returned]]
SyncProcessor = Callable[[Job[P], JobContext], Returned]
#: Moves what an app's tables hold for the queue into it; returns how many jobs were made.
Publisher = Callable[[], Awaitable[int]]
#: Turns the raw payload of one version into that of the next.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


class UnknownProcessor(JobServiceError):
    """No processor of that job type was imported; the message names the nearest ones."""


class PayloadRejected(JobServiceError):
    """The payload does not fit the processor's model; another attempt would not help."""

    def __init__(self, message: str, problems: Sequence[Mapping[str, Any]]) -> None:
        self.problems = list(problems)
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `limit` starts per `per`; with `per_key`, for each concurrency key apart."""

    limit: int
    per: Seconds = 1
    per_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobType(Generic[P]):
    """A job type and everything the worker and the database need to know about it."""

    name: str
    run: AsyncProcessor[P] | SyncProcessor[P]
    payload: type[P]
    is_async: bool
    queue: str | None = None
    max_concurrency: int | None = None
    workspace_concurrency: int | None = None
    key_concurrency: int | None = None
    lease: Seconds | None = None
    timeout: Seconds | None = None
    max_attempts: int | None = None
    backoff: Backoff | None = None
    rate_limit: RateLimit | None = None
    version: int = 1
    upcasters: Mapping[int, Upcaster] = field(default_factory=dict)
    events: Literal["full", "minimal"] = "full"
    live: Literal["full", "states", "off"] = "full"
    ageing: Seconds | None = None
    internal: bool = False
    part_of: str | None = None
    tagged_by: tuple[str, ...] = ()
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
            raise PayloadRejected(
                f"payload of {self.name!r} does not fit {_type_name(self.payload)}: {where}",
                [{"path": list(p["loc"]), "message": p["msg"]} for p in problems],
            ) from error

    def result_schema(self) -> dict[str, Any] | None:
        """The JSON Schema of its results, without planned endings.

        None where the processor's annotation does not say, or names what has no schema.
        """
        run = self.run if inspect.isroutine(self.run) else getattr(self.run, "__call__", None)  # noqa: B004
        try:
            returned = get_type_hints(run).get("return", Any)
            parts = get_args(returned) if get_origin(returned) in _UNIONS else (returned,)
            results = tuple(part for part in parts if part not in _OUTCOMES)
            if not results or Any in results:
                return None
            adapter: TypeAdapter[Any] = TypeAdapter(Union[results])  # type: ignore[arg-type] # noqa: UP007
            return adapter.json_schema(mode="serialization")
        except (NameError, PydanticUserError):
            return None

    def spec(self) -> JobTypeSpec:
        """The type as it is published to the database, payload schema included."""
        limit = self.rate_limit
        return JobTypeSpec(
            job_type=self.name,
            queue=self.queue,
            max_concurrency=self.max_concurrency,
            workspace_concurrency=self.workspace_concurrency,
            key_concurrency=self.key_concurrency,
            lease_seconds=_whole(self.lease),
            timeout_seconds=_whole(self.timeout),
            max_attempts=self.max_attempts,
            backoff=self.backoff.wire() if self.backoff is not None else None,
            rate_limit=None
            if limit is None
            else {
                "limit": limit.limit,
                "per_seconds": plain(seconds(limit.per)),
                "per_key": limit.per_key,
            },
            payload_schema=self.adapter.json_schema(),
            schema_version=self.version,
            events=self.events,
            live=self.live,
            ageing_seconds=_whole(self.ageing),
            internal=self.internal,
            tagged_by=self.tagged_by,
            source=self.source,
            description=self.description,
            schedules=tuple(schedule.wire(self.name) for schedule in self.schedules),
        )

    @property
    def source(self) -> str:
        """Where its processor is: `module:function`."""
        run = self.run if inspect.isroutine(self.run) else type(self.run)
        return f"{run.__module__}:{run.__qualname__}"

    @property
    def description(self) -> str | None:
        """What it does: the first paragraph of its processor's docstring."""
        run = self.run if inspect.isroutine(self.run) else type(self.run)
        words = inspect.cleandoc(run.__doc__ or "").partition("\n\n")[0]
        return " ".join(words.split())[:2000] or None


class Decorator(Protocol[P]):
    """What `@processor(…)` returns: takes a function and gives the very same one back."""

    @overload
    def __call__(
        self, run: Callable[[Job[P], JobContext], Awaitable[R_co]], /
    ) -> Callable[[Job[P], JobContext], Awaitable[R_co]]: ...
    @overload
    def __call__(
        self, run: Callable[[Job[P], JobContext], R_co], /
    ) -> Callable[[Job[P], JobContext], R_co]: ...


class Registry:
    """Job types by name. Applications use the one behind `processor`; tests make their own."""

    def __init__(self) -> None:
        self._types: dict[str, JobType[Any]] = {}
        self._publishers: dict[str, Publisher] = {}
        self._around: list[Middleware] = []

    def __iter__(self) -> Iterator[JobType[Any]]:
        return iter(self._types.values())

    def __len__(self) -> int:
        return len(self._types)

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

    def get(self, name: str) -> JobType[Any]:
        """The job type of that name.

        Raises:
            UnknownProcessor: Its module was not imported, or the name is misspelt.
        """
        try:
            return self._types[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._types, n=3)
            meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise UnknownProcessor(f"no processor for job type {name!r}.{meant}") from None

    def find(self, name: str) -> JobType[Any] | None:
        """The job type of that name, or None."""
        return self._types.get(name)

    def add(self, kind: JobType[Any]) -> None:
        """Take over a job type that another registry made.

        Raises:
            ValueError: The name is taken.
        """
        self._refuse_taken(kind.name)
        self._types[kind.name] = kind

    def _refuse_taken(self, job_type: str) -> None:
        if job_type in self._types:
            raise ValueError(f"job type {job_type!r} has a processor already")

    def forget(self, module_prefix: str) -> None:
        """Drop what came from modules so named, types and middleware, before they are reloaded."""
        for name, kind in list(self._types.items()):
            if getattr(kind.run, "__module__", "").startswith(module_prefix):
                del self._types[name]
        self._around[:] = [
            each
            for each in self._around
            if not getattr(each, "__module__", "").startswith(module_prefix)
        ]

    def around(self, middleware: M) -> M:
        """Run `middleware` around every attempt of this registry's processors; a decorator.

        It counts for processors registered before and after; the first added is the outermost.
        Its time is part of the attempt's, and its exceptions are the attempt's.

        Raises:
            TypeError: It is not an async function of `(job, ctx, call)`.
        """
        if not is_async(middleware):
            raise TypeError(f"{middleware!r} must be an async function of (job, ctx, call)")
        self._around.append(middleware)
        return middleware

    def around_all(self, *middleware: Middleware) -> None:
        """Run `middleware` around all other of every type; what a type has already stays there."""
        for kind in list(self):
            more = [each for each in middleware if each not in kind.around]
            self._types[kind.name] = replace(kind, around=(*more, *kind.around))

    @property
    def publishers(self) -> Mapping[str, Publisher]:
        """What each worker run calls for apps with an outbox of their own, by name."""
        return self._publishers

    def publisher(self, name: str, publish: Publisher) -> None:
        """Have `publish` called in each worker run: before it leases, on wake-ups, every second.

        A run without work then costs one call more. A failure is logged and tried again; the
        jobs of the run do not notice.

        Raises:
            ValueError: The name is taken.
        """
        if name in self._publishers:
            raise ValueError(f"there is a publisher {name!r} already")
        self._publishers[name] = publish

    def specs(self) -> list[JobTypeSpec]:
        """Every type as it is published to the database."""
        return [self._types[name].spec() for name in self.names]

    def processor(
        self,
        job_type: str,
        *,
        payload: type[P],
        queue: str | None = None,
        max_concurrency: int | None = None,
        workspace_concurrency: int | None = None,
        key_concurrency: int | None = None,
        lease: Seconds | None = None,
        timeout: Seconds | None = None,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        rate_limit: RateLimit | None = None,
        version: int = 1,
        upcasters: Mapping[int, Upcaster] | None = None,
        events: Literal["full", "minimal"] = "full",
        live: Literal["full", "states", "off"] = "full",
        ageing: Seconds | None = None,
        internal: bool = False,
        part_of: str | None = None,
        tagged_by: Sequence[str] = (),
        schedule: Schedules | None = None,
    ) -> Decorator[P]:
        """Register the decorated function as the processor of `job_type`.

        A coroutine function runs on the worker's event loop and must not block it; a plain
        function runs in its own thread.

        Args:
            payload: The model every payload must fit. Its JSON Schema is published, so the
                database refuses what would not fit, however it is enqueued.
            max_concurrency: Most jobs of this type running at once, over all workers.
            workspace_concurrency: The same for each workspace.
            key_concurrency: The same for each `concurrency_key` of a workspace.
            lease: How long a silent worker keeps the job, 60 s when None. Renewed while it runs.
            timeout: Longest run of one attempt, enforced; 300 s when None.
            max_attempts: Attempts before the job is a dead letter, 5 when None.
            version: Version of the payload's shape; raise it with an upcaster.
            upcasters: From a version to the next: `{1: to_version_2}`.
            events: `minimal` omits the events of creation and lease, for large numbers of jobs.
            live: What is sent to Realtime. `states` sends nothing on the job's own topic: a
                watcher of one job polls it every few seconds. `off` sends nothing at all.
            ageing: A ready job's priority improves by one step each time this long has passed, so
                that urgent jobs cannot hold it back indefinitely; None for never.
            internal: True for jobs that only the platform's own code makes: every function refuses
                a person who would enqueue, schedule or insert one.
            part_of: The job type whose jobs spawn these: a worker run over that type runs these
                as well.
            tagged_by: Fields of the payload whose values become tags of each job, as
                `customer:42`, so that jobs are found by them at any age; `a.b` reaches inside.
            schedule: When the clock enqueues such jobs: a cron expression for the system, or
                `Schedule`s for each workspace or one. A deploy changes and removes them.

        Raises:
            ValueError: The name is taken, or an option makes no sense.
        """
        steps = dict(upcasters or {})
        schedules = schedules_of(schedule, job_type)
        _check(job_type, version, steps, max_concurrency, max_attempts)
        self._refuse_taken(job_type)

        def register(run: Any) -> Any:
            self._types[job_type] = JobType(
                name=job_type,
                run=run,
                payload=payload,
                is_async=is_async(run),
                queue=queue,
                max_concurrency=max_concurrency,
                workspace_concurrency=workspace_concurrency,
                key_concurrency=key_concurrency,
                lease=lease,
                timeout=timeout,
                max_attempts=max_attempts,
                backoff=backoff,
                rate_limit=rate_limit,
                version=version,
                upcasters=steps,
                events=events,
                live=live,
                ageing=ageing,
                internal=internal,
                part_of=part_of,
                tagged_by=tuple(tagged_by),
                schedules=schedules,
                around=self._around,  # the list itself: more may be added
                adapter=TypeAdapter(payload),
            )
            return run

        return register


def _check(
    job_type: str,
    version: int,
    upcasters: Mapping[int, Upcaster],
    max_concurrency: int | None,
    max_attempts: int | None,
) -> None:
    if not 1 <= len(job_type) <= 100:
        raise ValueError(f"a job type's name must have 1 to 100 characters, not {job_type!r}")
    if version < 1:
        raise ValueError(f"version={version} of {job_type!r} must be at least 1")
    strange = [at for at in upcasters if not 1 <= at < version]
    if strange:
        raise ValueError(
            f"upcasters of {job_type!r} must be from 1 to {version - 1}, not {strange}"
        )
    if max_concurrency is not None and max_concurrency < 1:
        raise ValueError(f"max_concurrency={max_concurrency} of {job_type!r} must be at least 1")
    if max_attempts is not None and not 1 <= max_attempts <= 50:
        raise ValueError(f"max_attempts={max_attempts} of {job_type!r} must be from 1 to 50")


def _whole(value: Seconds | None) -> int | None:
    # the database keeps whole seconds
    return None if value is None else max(1, math.ceil(seconds(value)))


def _type_name(kind: object) -> str:
    return getattr(kind, "__name__", None) or str(kind)


#: Where `@processor` and `@around` register; the worker function runs what is in here.
default_registry = Registry()
processor = default_registry.processor
around = default_registry.around
