"""The context of a processor, for progress, logs, steps, waits and child jobs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel

from minutehand.clock import Clock
from minutehand.queue.errors import ProcessorError
from minutehand.queue.models import EnqueueOptions, JobId, LogLine, NewJob, Progress, StepResult
from minutehand.redaction import without_secrets
from minutehand.worker.backoff import Backoff
from minutehand.worker.graph import Stage, run_graph
from minutehand.worker.outcomes import Fail, Retry, Seconds, Snooze, retry_after_of, seconds
from minutehand.worker.remote import CALL_SECONDS, Service, StillRunning, run_remote
from minutehand.worker.serialization import clean_text, log_metadata, sanitize, text
from minutehand.worker.streams import (
    MAX_STREAM_NAME,
    MAX_STREAMS,
    RUNNING,
    OutputRefused,
    Stream,
    StreamHistory,
)
from minutehand.worker.unawaited import CallTracker, must_await, tracked_call
from minutehand.worker.updates import Updates

T = TypeVar("T")
StepCall = Callable[[], Awaitable[Any]]
#: Middleware around a step. The middleware gets the step's name and a function that runs the step.
AroundStep = Callable[[str, StepCall], Awaitable[Any]]

_LEVELS = {level: level for level in ("debug", "info", "warning", "error")} | {
    "warn": "warning",
    "critical": "error",
}
MAX_STEP_NAME = 200
#: Maximum characters of a memo's name, to which a number is appended.
MAX_MEMO_NAME = 180
#: Backoff between two tries of a step in one attempt.
STEP_BACKOFF = Backoff(first=0.5, cap=8, factor=4)
#: Seconds after which the worker reports a running step even without other updates.
LONG_STEP = 0.5
#: Maximum seconds between two tries of a step in one attempt. A longer wait ends the attempt.
MAX_DELAY = 15.0
#: Pause between two polls of work in another service, during which the job leaves the worker.
POLL_INTERVAL = timedelta(seconds=5)
MAX_TAG = 100
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")
#: Maximum child jobs per call of the database.
MAX_CHILDREN_PER_CALL = 500
#: Maximum child jobs of one `gather` or `map`.
MAX_GATHERED = 10_000
_NO_OPTIONS = EnqueueOptions.model_construct()


class Suspended(BaseException):
    """Raised to suspend the job, so that the worker runs other jobs. A suspension is not an error.

    The class is a BaseException, so that a processor's `except Exception` does not catch it.
    """

    def __init__(self, wait: Mapping[str, Any]) -> None:
        self.wait = dict(wait)
        super().__init__(f"waiting: {wait.get('kind')} {wait.get('name')!r}")


class AttemptEnded(BaseException):
    """Raised to end the attempt with an outcome, as if the processor had returned the outcome.

    A function that a processor calls raises AttemptEnded. The processor itself can return the
    outcome.
    """

    def __init__(self, outcome: Retry | Snooze | Fail) -> None:
        self.outcome = outcome
        super().__init__(str(outcome))


class StepTimeout(ProcessorError):
    """One try of a step took longer than the step's `timeout`."""


class ChildrenFailed(ProcessorError):
    """Child jobs of a `gather` or `map` did not complete, and are listed in `failed`."""

    def __init__(self, name: str, failed: Sequence[ChildResult]) -> None:
        self.failed = list(failed)
        first = self.failed[0]
        super().__init__(
            f"{len(self.failed)} child job(s) of {name!r} did not complete; the first, {first.id}, "
            f"is {first.status}: {first.error_message or 'no message'}",
            retryable=False,
            data={"wait": name, "failed": [child.id for child in self.failed[:100]]},
        )


class ChildResult(BaseModel):
    """Outcome of a child job."""

    id: JobId
    status: str
    result: Any = None
    error_message: str | None = None

    @property
    def completed(self) -> bool:
        """True if the child completed."""
        return self.status == "completed"


class StepMemo:
    """Values that a step keeps for later attempts, stored by the next report or settlement.

    If the job fails or is cancelled, its memos are emptied, so that a retry by a person starts with
    empty memos.
    """

    def __init__(self, name: str, steps: dict[str, Any], updates: Updates) -> None:
        self._name = name
        self._steps = steps
        self._updates = updates
        self._count = 0
        while self._key in steps:
            self._count += 1

    @property
    def _key(self) -> str:
        return f"{self._name} {self._count + 1}"

    @property
    def last(self) -> Any:
        """The latest value of the memo, or None."""
        return self._steps.get(f"{self._name} {self._count}")

    def add(self, value: Any) -> None:
        """Add a JSON value. Earlier values remain stored, because step results never change."""
        self._steps[self._key] = value
        self._updates.add_step(StepResult(name=self._key, result=value))
        self._count += 1

    def end(self) -> None:
        """Empty the memo."""
        if self.last is not None:
            self.add(None)


def clear_memos(context: JobContext, outcome: str, *, is_last: bool) -> None:
    """Empty the memos of a job if `outcome` ends the job, before the worker stores the outcome."""
    for memo in context.open_memos:
        if outcome in {"failed", "cancelled"} or (outcome == "retry" and is_last):
            memo.end()


def restart_job(context: JobContext) -> None:
    """Prepare another call of the processor in the same attempt, which will skip finished steps.

    Tasks that the processor's earlier call has left running can no longer write into streams.
    """
    context._names.clear()
    context.suspended = None
    for stream in context._open_streams():
        stream.is_open = False
    if context.calls is not None:
        context.calls.end()


class ContextPort(Protocol):
    """Methods of an attempt that its context calls."""

    def notify_updates(self) -> None:
        """Notify the reporter of updates. Any thread may call this method."""

    async def flush(self) -> None:
        """Wait until all updates so far are stored.

        Raise LeaseLost if the database rejected the updates.
        """

    async def spawn(self, name: str, children: Sequence[NewJob]) -> list[JobId]:
        """Enqueue child jobs. A repeated call with the same name enqueues no further jobs."""

    async def stream_history(self, stream: str) -> StreamHistory:
        """Return the output that earlier attempts have written into a stream."""

    def remaining(self) -> float:
        """Return the seconds left for this attempt."""

    def stop_requested(self) -> bool:
        """Return whether the processor must end."""


class JobContext:
    """Methods with which a processor reports progress, runs steps, waits, and enqueues child jobs.

    Every method is safe on the event loop. `progress`, `log`, `tag`, `cancelled` and `remaining`
    are also safe in the thread of a synchronous processor.

    Waits (`sleep`, `ask`, `wait_for_event`, `gather`, `map`) end this run of the processor. The
    job leaves the worker, and after the wait the processor starts again from the beginning. Code
    that must not run twice belongs in a `step`.
    """

    def __init__(
        self, port: ContextPort, updates: Updates, *, steps: dict[str, Any], clock: Clock
    ) -> None:
        self._port = port
        self._updates = updates
        #: Results of steps and waits by name. Results that were too large for the lease response
        #: are added before the processor is called.
        self._steps = steps
        self.clock = clock
        self._names: dict[str, int] = {}
        self._streams: dict[str, Stream] = {}
        #: Memos that this attempt opened and `clear_memos` empties.
        self.open_memos: list[StepMemo] = []
        #: Calls that the processor must await. `calls` is None before the first call.
        self.calls: CallTracker | None = None
        #: Exception that suspends the job. The processor must not catch it.
        self.suspended: Suspended | None = None
        #: Middleware of each step of this attempt, the first outermost.
        self.around_steps: list[AroundStep] = []
        #: Number of new steps that this attempt stored.
        self.new_steps = 0
        #: Cost of this attempt in other services, in US dollars. The processor adds the cost of
        #: each call.
        self.cost_usd = 0.0

    def progress(
        self, percentage: float | None = None, stage: str | None = None, message: str | None = None
    ) -> None:
        """Report the job's progress. The worker sends the latest progress at most every 250 ms.

        Args:
            percentage: Number that is clamped to the range from 0 to 100.
            stage: Name of the current part of the processor's work.
            message: Text for people.
        """
        if percentage is not None:
            if percentage != percentage:
                raise ValueError("percentage is NaN")
            percentage = round(min(100.0, max(0.0, float(percentage))), 2)
        self._updates.set_progress(
            Progress(
                percentage=percentage,
                stage=None if stage is None else text(stage),
                message=None if message is None else text(message),
            )
        )
        self._port.notify_updates()

    def log(self, level: str, message: str, /, **metadata: Any) -> None:
        """Add a line to the job's log, which members of its workspace can read.

        Args:
            level: The level is debug, info, warning or error.
            message: Text, up to 4,000 characters.
            metadata: Named values of up to 4,000 bytes in total. A value that is not JSON becomes
                text, and a value that is too long is cut.
        """
        known = _LEVELS.get(level.lower())
        if known is None:
            raise ValueError(f"no log level {level!r}; use debug, info, warning or error")
        self._updates.add_log(
            LogLine(
                level=known,
                message=text(message),
                metadata=log_metadata(metadata) if metadata else None,
                at=self.clock.now(),
            )
        )
        self._port.notify_updates()

    def tag(self, *tags: str) -> None:
        """Add tags to the job, so that people can find it.

        A job has up to 20 tags. More tags are dropped without an error.

        Raises:
            ValueError: A tag must have 1 to 100 characters, without control characters.
        """
        for word in tags:
            if not 1 <= len(word) <= MAX_TAG or _CONTROL.search(word):
                raise ValueError(f"a tag must have 1 to {MAX_TAG} printable characters: {word!r}")
        self._updates.add_tags([clean_text(word) for word in tags])
        self._port.notify_updates()

    @asynccontextmanager
    async def stream(self, name: str) -> AsyncIterator[Stream]:
        """Open an output stream, for example for the text of a model.

        Clients read the stream while the job runs. All output is stored when the block ends without
        an error.

        Opening a stream restarts it, also in a later attempt. When a stream is restarted, readers
        drop the stream's earlier output. The output of a finished step is kept, and is written
        again when a later attempt skips the step.

        Args:
            name: Name of 1 to 100 characters. A job may have 20 streams.

        Raises:
            LeaseLost: This worker no longer has the lease.
            OutputRefused: The streams of the job exceed their maximum size.
            ValueError: A stream of this name is open.
        """
        before = self._streams.get(name)
        if before is None and not (
            0 < len(name) <= MAX_STREAM_NAME and len(self._streams) < MAX_STREAMS
        ):
            raise ValueError(
                f"a job has at most {MAX_STREAMS} streams, whose names have 1 to "
                f"{MAX_STREAM_NAME} characters"
            )
        history = StreamHistory() if before else await self._port.stream_history(name)
        if before := self._streams.get(name):  # another task may have opened the stream meanwhile
            if before.is_open:
                raise ValueError(
                    f"stream {name!r} is already open: write to it, or end its block first"
                )
            history = before.history
        stream = self._streams[name] = Stream(
            name, self._updates, self._port.notify_updates, history
        )
        try:
            yield stream
        finally:
            stream.close()
        if self._updates.has_output:
            await self._port.flush()
        if self._updates.is_output_rejected:
            raise OutputRefused

    def _open_streams(self) -> list[Stream]:
        return [stream for stream in self._streams.values() if stream.is_open]

    @must_await
    async def step(
        self,
        name: str,
        run: Callable[[], Awaitable[Any]],
        *,
        tries: int = 1,
        timeout: Seconds | None = None,
    ) -> Any:
        """Run `run` once per job, and return its stored result in later attempts.

        The result is converted to JSON and stored before `step` returns. If the process crashes
        after `run` and before the result is stored, a later attempt calls `run` again.

        Args:
            name: Name of the step. A second step with the same name gets the name with `#2`, and a
                third step the name with `#3`.
            run: An async function without arguments.
            tries: Maximum calls of `run` in one attempt. An error that is not retryable is raised
                immediately. Between two tries the step waits for the error's `retry_after`, or a
                backoff. If the wait is longer than MAX_DELAY, or than the time left, a `Retry` ends
                the attempt.
            timeout: Maximum duration of one call of `run`.

        Raises:
            LeaseLost: This worker no longer has the lease.
            StepTimeout: The last call of `run` exceeded `timeout`.
        """
        key = self._unique(name)
        if key in self._steps:
            for stream in self._open_streams():
                stream.replay_output(key)
            return self._steps[key]
        self._updates.start_step(key)
        timer = asyncio.get_running_loop().call_later(LONG_STEP, self._show_step)
        try:
            call: StepCall = partial(self._tried, key, run, tries, timeout)
            for around in reversed(self.around_steps):
                call = partial(around, key, partial(tracked_call, self, call))
            outer = RUNNING.set(key)
            try:
                result = sanitize(await call())
            finally:
                RUNNING.reset(outer)
        finally:
            timer.cancel()
            duration_ms = self._updates.leave_step(key)
        if result.refused is not None:
            raise ValueError(f"the result of step {key} cannot be stored: {result.refused}")
        if result.changed is not None:
            self.log("warning", f"In the result of step {key} {result.changed}")
        value = result.value
        self._updates.add_step(StepResult(name=key, result=value, duration_ms=duration_ms))
        await self._port.flush()
        self._steps[key] = value
        self.new_steps += 1
        return value

    def notes(self, name: str) -> StepMemo:
        """Open the memo `name` of the current step, with the values of earlier attempts."""
        step = RUNNING.get()
        name = f"{step}: {name}" if step else name
        memo = StepMemo(self._unique(name[-MAX_MEMO_NAME:]), self._steps, self._updates)
        self.open_memos.append(memo)
        return memo

    @must_await
    async def graph(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """Run `stages` concurrently, each after the stages that it needs.

        Return results by stage name.

        Each stage is a `step`, so that a later attempt skips the finished stages. A wait in a stage
        suspends the job when the running stages have ended. Each wait needs a unique name.

        Raises:
            StagesFailed: Some stages failed. All stages that do not need a failed stage have ended.
            LeaseLost: This worker no longer has the lease.
            ValueError: Two stages have one name, or a stage needs itself or an unknown stage.
        """

        async def run(stage: Stage, given: Mapping[str, Any]) -> Any:
            call = partial(stage.run, given)
            return await self.step(stage.name, call, tries=stage.tries, timeout=stage.timeout)

        return await run_graph(stages, run)

    @must_await
    async def remote(
        self,
        name: str,
        services: Sequence[Service[T]],
        *,
        within: Seconds,
        call_seconds: float = CALL_SECONDS,
    ) -> T:
        """Call `services` in order, as a step with one deadline, until one of them succeeds.

        If a service needs more time, the job leaves the worker, and its next attempt polls the
        service. If a service fails, hangs or responds too slowly, the next service is called. The
        job's log contains the reason.

        Args:
            name: Name of the step.
            services: Services in the order in which they are tried.
            within: Maximum time from the first call to the result, over all attempts.
            call_seconds: Maximum seconds of a single call of a service.

        Raises:
            ProcessorError: No service succeeded. Another attempt of the job calls the services
                again. After the deadline the error is not retryable, and the service that still
                works was asked to stop.
        """
        started_at = await self.step(f"{name}: begun", self._now)
        deadline = datetime.fromisoformat(started_at) + timedelta(seconds=seconds(within))

        def failed(service: str, reason: str) -> None:
            self.log("warning", f"{name}: {service} failed", reason=reason)

        async def poll_once(last: StillRunning | None) -> dict[str, Any]:
            gave = await run_remote(
                services,
                max_seconds=seconds(within),
                left=max(0.0, (deadline - self.clock.now()).total_seconds()),
                resume=last,
                call_seconds=call_seconds,
                on_failed=failed,
            )
            if not isinstance(gave, StillRunning):
                return {"gave": gave}
            if gave == last:
                raise AttemptEnded(Snooze(after=POLL_INTERVAL))
            return {"at": [gave.service, gave.task_id]}

        last: StillRunning | None = None
        while "gave" not in (found := await self.step(name, partial(poll_once, last))):
            last = StillRunning(*found["at"])
        given: T = found["gave"]
        return given

    async def _now(self) -> str:
        return self.clock.now().isoformat()

    def _show_step(self) -> None:
        self._updates.show_step()
        self._port.notify_updates()

    async def _tried(self, name: str, run: StepCall, tries: int, timeout: Seconds | None) -> Any:
        """Call the function of a step up to `tries` times, and return its first result."""
        for number in range(1, tries + 1):
            try:
                return await self._run_with_timeout(name, run, timeout)
            except Exception as error:
                final = isinstance(error, ProcessorError) and not error.retryable
                if number == tries or final:
                    raise
                reason = await asyncio.to_thread(without_secrets, text(error))
                self.log("warning", f"Step {name}: try {number} failed", reason=reason)
                wait = retry_after_of(error)
                delay = STEP_BACKOFF.delay(number) if wait is None else wait
                if delay > min(MAX_DELAY, self.remaining):
                    raise AttemptEnded(Retry(reason, after=delay)) from error
                await asyncio.sleep(delay)
                for stream in self._open_streams():
                    stream.discard(name)
        raise ValueError(f"tries={tries} must be at least 1")

    async def _run_with_timeout(self, name: str, run: StepCall, timeout: Seconds | None) -> Any:
        if timeout is None:
            return await _start_step(name, run)
        limit = asyncio.timeout(seconds(timeout))
        try:
            async with limit:
                return await _start_step(name, run)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the step itself raised the TimeoutError
            raise StepTimeout(f"step {name} took longer than {seconds(timeout):g} s") from error

    def _suspend(self, wait: Mapping[str, Any]) -> Suspended:
        self.suspended = Suspended(wait)
        return self.suspended

    @must_await
    async def sleep(self, duration: Seconds | datetime, *, name: str | None = None) -> None:
        """Suspend the job for a time, or until a date. For less than a second use asyncio.sleep."""
        key = self._unique(name or "sleep")
        if key in self._steps:
            return
        wait: dict[str, Any] = {"kind": "sleep", "name": key}
        if not isinstance(duration, datetime):
            raise self._suspend(wait | {"delay_seconds": seconds(duration)})
        if duration.tzinfo is None:
            raise ValueError(f"{duration.isoformat()} has no time zone")
        raise self._suspend(wait | {"until": duration.astimezone(UTC).isoformat()})

    @must_await
    async def ask(
        self,
        question: str,
        options: Sequence[str] | None = None,
        *,
        timeout: Seconds | None = None,
        default: Any = None,
        name: str | None = None,
    ) -> Any:
        """Ask a person a question, and suspend the job until the answer arrives.

        Args:
            timeout: Maximum wait for the answer, after which `default` is returned. Without a
                timeout the job waits indefinitely.
        """
        key = self._unique(name or "ask")
        if key in self._steps:
            return _given(self._steps[key], "answer", default)
        wait: dict[str, Any] = {"kind": "ask", "name": key, "question": question}
        if options is not None:
            wait["options"] = list(options)
        if timeout is not None:
            wait |= {"timeout_seconds": seconds(timeout), "default": {"answer": default}}
        raise self._suspend(wait)

    @must_await
    async def wait_for_event(
        self,
        event: str,
        *,
        timeout: Seconds | None = None,
        default: Any = None,
        name: str | None = None,
    ) -> Any:
        """Suspend the job until `event` is emitted in its workspace. Return the event's payload."""
        key = self._unique(name or f"event:{event}"[:MAX_STEP_NAME])
        if key in self._steps:
            return _given(self._steps[key], "event", default)
        wait: dict[str, Any] = {"kind": "event", "name": key, "event": event}
        if timeout is not None:
            wait["timeout_seconds"] = seconds(timeout)
        raise self._suspend(wait)

    @must_await
    async def spawn(self, children: Sequence[NewJob], *, name: str | None = None) -> list[JobId]:
        """Enqueue child jobs, and return their ids. A later attempt gets the ids of the same jobs.

        Raises:
            LeaseLost: This worker no longer has the lease. Nothing was enqueued.
            ValueError: A payload is not JSON.
        """
        key = self._unique(name or "spawn")
        ids: list[JobId] = []
        for start in range(0, len(children), MAX_CHILDREN_PER_CALL):
            batch_name = key if start == 0 else f"{key}@{start}"
            batch: list[NewJob] = []
            for child in children[start : start + MAX_CHILDREN_PER_CALL]:
                payload = sanitize(child.payload)
                if payload.refused is not None:
                    raise ValueError(payload.refused)
                batch.append(child.model_copy(update={"payload": payload.value}))
            ids += await self._port.spawn(batch_name, batch)
        return ids

    @must_await
    async def gather(
        self,
        children: Sequence[JobId],
        *,
        on_failed: Literal["raise", "return"] = "raise",
        name: str | None = None,
    ) -> list[ChildResult]:
        """Suspend the job until all `children`, up to 10,000, have ended.

        Return their results in order.

        Raises:
            ChildrenFailed: A child job did not complete, and `on_failed` is `raise`.
            TypeError: A child is not given by its id.
        """
        if strange := next((child for child in children if not isinstance(child, str)), None):
            raise TypeError(
                f"gather takes the ids that spawn returns, not {type(strange).__name__}: "
                "ids = await ctx.spawn([…]), then await ctx.gather(ids)"
            )
        key = self._unique(name or "gather")
        if key not in self._steps:
            if not children:
                return []
            if len(children) > MAX_GATHERED:
                raise ValueError(
                    f"gather takes at most {MAX_GATHERED} children, not {len(children)}"
                )
            raise self._suspend({"kind": "children", "name": key, "job_ids": list(children)})
        ended = [ChildResult.model_validate(child) for child in self._steps[key]["children"]]
        failed = [child for child in ended if not child.completed]
        if failed and on_failed == "raise":
            raise ChildrenFailed(key, failed)
        return ended

    @must_await
    async def map(
        self,
        items: Sequence[Any],
        job_type: str,
        *,
        options: EnqueueOptions = _NO_OPTIONS,
        on_failed: Literal["raise", "return", "skip"] = "raise",
        name: str | None = None,
    ) -> list[Any]:
        """Run one child job per item, each with its own retries. Return the results in item order.

        Args:
            items: Payloads of the children, up to 10,000.
            job_type: Type of the children.
            on_failed: If a child job did not complete, `raise` raises ChildrenFailed, `return`
                returns None for the job, and `skip` omits the job.
        """
        key = self._unique(name or f"map:{job_type}"[:MAX_STEP_NAME])
        if not items:
            return []
        if len(items) > MAX_GATHERED:
            raise ValueError(f"map takes at most {MAX_GATHERED} items, not {len(items)}")
        if f"{key}:ended" in self._steps:
            # the child jobs have ended, so their ids are not needed
            self._names[f"{key}:spawn"] = 1
            ids: list[JobId] = []
        else:
            ids = await self.spawn(
                [NewJob(job_type=job_type, payload=item, options=options) for item in items],
                name=f"{key}:spawn",
            )
        ended = await self.gather(
            ids, on_failed="raise" if on_failed == "raise" else "return", name=f"{key}:ended"
        )
        if on_failed == "skip":
            return [child.result for child in ended if child.completed]
        return [child.result if child.completed else None for child in ended]

    @property
    def cancelled(self) -> bool:
        """True if the processor must end due to a cancellation, lost lease, timeout or deadline."""
        return self._port.stop_requested()

    @property
    def remaining(self) -> float:
        """Seconds left for this attempt, until its timeout or the end of the worker run."""
        return self._port.remaining()

    def _unique(self, name: str) -> str:
        name = clean_text(name)
        if not name:
            raise ValueError("a step needs a name")
        count = self._names[name] = self._names.get(name, 0) + 1
        key = name if count == 1 else f"{name}#{count}"
        if len(key) > MAX_STEP_NAME:
            raise ValueError(f"step name {key[:40]!r}… is longer than {MAX_STEP_NAME} characters")
        return key


def _start_step(step: str, run: StepCall) -> Awaitable[Any]:
    """Call the function of a step. Raise a ProcessorError if the function returns no awaitable."""
    called = run() if callable(run) else None
    if isinstance(called, Awaitable):
        return called
    message = f"the function of step {step} must be async and take no arguments"
    if isinstance(run, Awaitable):
        message += ", which the step calls: give it `pay`, or `lambda: pay(order)`"
    else:
        message += f", not {type(run).__name__} that returned {type(called).__name__}"
        message += "; a plain one goes into a thread: `lambda: asyncio.to_thread(pay, order)`"
    # do not call the function again, because the first call may have done the work
    raise ProcessorError(message, retryable=False)


def _given(ended: Any, name: str, default: Any) -> Any:
    if not isinstance(ended, Mapping):
        return ended
    return default if ended.get("timed_out") else ended.get(name, default)
