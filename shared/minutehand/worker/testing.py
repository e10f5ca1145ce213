"""Test helpers that run a processor without a queue, alone or in a batch, or drain a test queue."""

import asyncio
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Generic, Self, TypeVar

from pydantic_core import to_json

from minutehand.clock import Clock, FrozenClock
from minutehand.config import Settings
from minutehand.queue.errors import QueueError
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.models import (
    ErrorInfo,
    JobId,
    LogLine,
    NewJob,
    OutputChunk,
    Progress,
    SettleItem,
    WorkspaceId,
)
from minutehand.worker.batch import Batch
from minutehand.worker.context import JobContext, clear_memos
from minutehand.worker.errors import ending_error
from minutehand.worker.job import BatchedJob
from minutehand.worker.loop import Worker
from minutehand.worker.middleware import Middleware, calling, is_async, wrap
from minutehand.worker.registry import AnyProcessor, Registry
from minutehand.worker.settlement import AttemptFacts, CallResult, check_unawaited, settle_item
from minutehand.worker.streams import StreamHistory, joined
from minutehand.worker.summary import TickSummary
from minutehand.worker.updates import Updates

P = TypeVar("P")
#: Maximum bytes of a payload or result, which is the default of the setting `payload_max_bytes`.
MAX_STORED = 262_144
#: Fields that a `Run` copies from the item to settle.
_SETTLED = ("outcome", "result", "error", "wait", "retry_after_seconds", "until", "delay_seconds")


@dataclass(frozen=True)
class Run:
    """Result of one run of a processor, which a worker would settle."""

    outcome: str
    result: Any = None
    error: ErrorInfo | None = None
    #: The exception that the processor raised.
    raised: BaseException | None = None
    retry_after_seconds: float | None = None
    until: datetime | None = None
    delay_seconds: float | None = None
    #: A dict if the job waits. The type is `Any`, so that a test may read a field directly.
    wait: Any = None
    progress: Sequence[Progress] = ()
    logs: Sequence[LogLine] = ()
    #: Output of each stream by name, as a string or a list of items.
    output: Mapping[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> list[str]:
        """Messages of the job's log lines."""
        return [line.message for line in self.logs]


@dataclass
class ProcessorTest(Generic[P]):
    """A job whose processor a test can run repeatedly. The job's steps are stored in memory.

    Attributes:
        steps: Results of finished steps and ended waits by name. A test may add results before a
            run.
        children: Spawned child jobs, by the name of the call of `spawn`.
        remaining: Value of `ctx.remaining`.
        around: Middleware around the processor. The first middleware is outermost.
    """

    processor: AnyProcessor[P]
    payload: P
    job_type: str = "tested"
    attempt: int = 1
    max_attempts: int = 5
    workspace_id: str = "11111111-1111-4111-8111-111111111111"
    user_id: str | None = None
    session_id: str | None = None
    traceparent: str | None = None
    steps: dict[str, Any] = field(default_factory=dict)
    children: dict[str, list[NewJob]] = field(default_factory=dict)
    remaining: float = 300.0
    around: Sequence[Middleware] = ()
    clock: Clock = field(default_factory=FrozenClock)
    job_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    cancelled: bool = False
    _waiting: dict[str, Any] | None = None
    _ids: dict[str, list[JobId]] = field(default_factory=dict)
    _chunks: list[OutputChunk] = field(default_factory=list)

    @classmethod
    def of(
        cls, register: Callable[..., None], payload: P, *arguments: Any, job_type: str | None = None
    ) -> Self:
        """Test the processor that `register(registry, settings, …)` adds for this payload.

        Args:
            register: A function of an app's module `processors`.
            payload: Payload of the job.
            arguments: Further arguments of `register`.
            job_type: Name of the job type, needed if several types have the payload's model.

        Raises:
            ValueError: No processor, or more than one processor, fits the payload.
        """
        registry = Registry()
        settings = Settings(supabase_url="http://localhost", supabase_publishable_key="test")
        register(registry, settings.with_environ(**os.environ), *arguments)
        model = type(payload)
        fitting = [
            candidate for candidate in registry if job_type is None and candidate.payload is model
        ]
        fitting += [candidate for candidate in registry if candidate.name == job_type]
        if len(fitting) != 1:
            criterion = f"payload {model.__name__}" if job_type is None else f"name {job_type!r}"
            names = [candidate.name for candidate in fitting] or list(registry.names)
            raise ValueError(
                f"{len(fitting)} processors have the {criterion}; give `job_type`, one of {names}"
            )
        [found] = fitting
        return cls(found.run, payload, job_type=found.name, around=found.around)

    async def run(self) -> Run:
        """Run the processor once from the beginning, with the steps that earlier runs stored."""
        return await self._run(None)

    async def _run(self, batch: Batch | None) -> Run:
        stage = _Stage(self)
        context = JobContext(stage, stage.updates, steps=self.steps, clock=self.clock)
        job = BatchedJob(
            id=JobId(self.job_id),
            job_type=self.job_type,
            payload=self.payload,
            workspace_id=WorkspaceId(self.workspace_id),
            created_at=self.clock.now(),
            user_id=self.user_id,
            session_id=self.session_id,
            attempt=self.attempt,
            max_attempts=self.max_attempts,
            fence=self.attempt,
            traceparent=self.traceparent,
            ctx=context,
        )
        call = calling(self.processor, job, context, thread=_thread_of(self.processor))
        if batch is not None:
            call = partial(batch.join, job, stage)
        try:
            result = CallResult(await wrap(self.around, call, job, context)())
        except BaseException as error:
            result = CallResult(error=error)
        result = check_unawaited(result, context)
        if batch is not None:
            batch.ended(job.id, is_abandoned=False)
        item = settle_item(result, AttemptFacts(has_new_steps=context.new_steps > 0))
        assert item is not None, "no test loses its lease"
        if item.outcome == "completed" and _is_too_long(item.result):
            message = "the result has more than 256 kB; store the result and return a reference"
            item = SettleItem.of("failed", error=ending_error("ResultTooLarge", message))
        clear_memos(context, item.outcome, is_last=job.is_last_attempt)
        await stage.flush()
        self._waiting = item.wait
        if item.outcome == "retry":
            self.attempt += 1
        return Run(
            **{name: getattr(item, name) for name in _SETTLED},
            raised=result.error,
            progress=tuple(stage.progress),
            logs=tuple(stage.logs),
            output={name: joined(stage.stream_output(name)) for name in stage.streams()},
        )

    def answer(self, answer: Any) -> None:
        """Answer the question of the job.

        If the question has options, the answer must be an option.
        """
        if answer not in ((self._waiting or {}).get("options") or [answer]):
            raise AssertionError(f"the answer {answer!r} must be an option: {self._waiting}")
        self._end_wait("ask", {"answer": answer})

    def event(self, payload: Any = None) -> None:
        """Emit the event that the job waits for."""
        self._end_wait("event", {"event": payload})

    def wake(self) -> None:
        """End the sleep of the job."""
        self._end_wait("sleep", {})

    def time_out(self) -> None:
        """End the job's wait as if its timeout had passed."""
        wait = self._waiting or {}
        if "timeout_seconds" not in wait:
            raise AssertionError(f"the job waits without a timeout: {self._waiting}")
        self._end_wait(wait["kind"], wait.get("default", {"timed_out": True}))

    def children_end(self, results: Sequence[Any]) -> None:
        """End the child jobs with `results`.

        An exception in `results` makes its job a dead letter.
        """
        wait = self._waiting or {}
        ids = list(wait.get("job_ids", ()))
        if len(ids) != len(results):
            raise AssertionError(
                f"there must be {len(ids)} results, one for each child, not {len(results)}"
            )
        ended = [
            {"id": child, "status": "failed", "result": None, "error_message": str(result)}
            if isinstance(result, Exception)
            else {"id": child, "status": "completed", "result": result, "error_message": None}
            for child, result in zip(ids, results, strict=True)
        ]
        self._end_wait("children", {"children": ended})

    def _end_wait(self, kind: str, value: Any) -> None:
        if self._waiting is None or self._waiting["kind"] != kind:
            raise AssertionError(f"the job does not wait for {kind!r}: {self._waiting}")
        self.steps[self._waiting["name"]] = value
        self._waiting = None


async def run_batch(tests: Sequence[ProcessorTest[P]]) -> list[Run]:
    """Run the jobs of these tests in one call of their batch processor."""
    run = tests[0].processor
    ids = [JobId(test.job_id) for test in tests]
    batch = Batch(run, ids, in_thread=_thread_of(run) is not None)
    return await asyncio.gather(*(test._run(batch) for test in tests))


def _is_too_long(value: Any) -> bool:
    return len(to_json(value)) > MAX_STORED


def _thread_of(run: object) -> str | None:
    return None if is_async(run) else "tested"


class HeldFunctions(WorkerFunctions):
    """Fake of your SQL functions that returns fixed results.

    `calls` lists the arguments of each call of the service.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def call_held(self, function: str, job_id: str, fence: int, **arguments: Any) -> Any:
        """Record the call, and return the fixed result."""
        self.calls.append((function, arguments))
        return self.answers[function]


class _Stage:
    """Replaces the attempt to which a job's context belongs.

    This object stores updates in memory immediately.
    """

    def __init__(self, test: ProcessorTest[Any]) -> None:
        self.updates = Updates()
        self.progress: list[Progress] = []
        self.logs: list[LogLine] = []
        self._test = test

    def notify_updates(self) -> None:
        """Store each reported progress, not only the last one, so that a test can check all."""
        updates = self.updates.take(max_logs=Updates.MAX_LOGS)
        if updates.progress is not None:
            self.progress.append(updates.progress)
        self.logs.extend(updates.logs)
        for step in updates.steps:
            self._test.steps[step.name] = step.result
        self._test._chunks.extend(updates.output)

    def streams(self) -> set[str]:
        """Return the names of all streams that the job has written."""
        return {chunk.stream for chunk in self._test._chunks}

    def stream_output(self, stream: str) -> list[OutputChunk]:
        """Return the output of a stream since the stream's latest start."""
        chunks = [chunk for chunk in self._test._chunks if chunk.stream == stream]
        return [chunk for chunk in chunks if chunk.attempt == chunks[-1].attempt]

    async def stream_history(self, stream: str) -> StreamHistory:
        """Return the number of a stream's latest start, and the latest output of finished steps."""
        by_step: dict[str, list[OutputChunk]] = {}
        chunks = self.stream_output(stream) if stream in self.streams() else []
        for chunk in self._test._chunks:
            if chunk.stream == stream and chunk.step in self._test.steps:
                before = by_step.get(chunk.step, [])
                is_same = [chunk.attempt] == [earlier.attempt for earlier in before[-1:]]
                by_step[chunk.step] = [*(before if is_same else ()), chunk]
        finished = {step: joined(parts) for step, parts in by_step.items()}
        return StreamHistory(chunks[-1].attempt if chunks else 0, finished)

    async def flush(self) -> None:
        self.notify_updates()

    async def spawn(self, name: str, children: Sequence[NewJob]) -> list[JobId]:
        """Store the child jobs. A repeated name returns the ids of the earlier call."""
        test = self._test
        if any(_is_too_long(child.payload) for child in children):
            limit = f"{MAX_STORED} bytes (payload_max_bytes)"
            message = f"payload exceeds {limit}; store the data and pass a reference"
            raise QueueError(message, status=413, code="PT413", hint="payload_too_large")
        if name not in test._ids:
            test.children[name] = list(children)
            test._ids[name] = [JobId(str(uuid.uuid4())) for _ in children]
        return test._ids[name]

    def remaining(self) -> float:
        return self._test.remaining

    def stop_requested(self) -> bool:
        return self._test.cancelled

    def start_timeout(self) -> None:
        """Do nothing, because a test has no timeout."""

    end_timeout = start_timeout


async def drain(worker: Worker, *, most_ticks: int = 50) -> list[TickSummary]:
    """Run a worker's ticks until a tick finds no job. Use `drain` only on test databases.

    Raises:
        AssertionError: The worker still found jobs after `most_ticks` ticks.
    """
    summaries = []
    for _ in range(most_ticks):
        summaries.append(await worker.tick(budget_seconds=60.0))
        if summaries[-1].leased == 0:
            return summaries
    raise AssertionError(f"jobs were still found after {most_ticks} ticks")
