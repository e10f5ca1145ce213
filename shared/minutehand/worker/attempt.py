"""One attempt, in which a processor runs a leased job until it ends or must stop."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from minutehand import telemetry
from minutehand.log import current_request_id
from minutehand.queue.errors import LeaseLost, QueueError
from minutehand.queue.models import AbandonedJob, JobId, Lease, LeasedJob, NewJob, Pulse, SettleItem
from minutehand.worker.batch import Batch
from minutehand.worker.context import JobContext, clear_memos
from minutehand.worker.current_job import JOB_ID, RecordedCoroutine, to_record
from minutehand.worker.errors import location_in, stack_in
from minutehand.worker.job import BatchedJob, Job, job_of
from minutehand.worker.middleware import Call, calling, thread_name, wrap
from minutehand.worker.run import LeaseKey, Run
from minutehand.worker.settlement import (
    AttemptFacts,
    CallResult,
    StopReason,
    check_unawaited,
    settle_item,
)
from minutehand.worker.stacks import awaited, database_sessions, peak_memory_mb, running_frames
from minutehand.worker.streams import StreamHistory
from minutehand.worker.updates import LONG_OUTPUT, NO_UPDATES, Updates

logger = logging.getLogger(__name__)

#: Columns of the job's row that `Job` does not have, so that a processor does not get them.
_UNSEEN = tuple({field.name for field in fields(LeasedJob)} - {field.name for field in fields(Job)})
#: Maximum seconds between two reports of a running job. The response to a report also shows whether
#: the job is cancelled.
REPORT_SECONDS = 4.0
#: Seconds between two pulses of a running job. A pulse reports the time of the job's last update
#: and the location of its running code.
PULSE_SECONDS = 15.0
#: Growth of the process's memory after which a pulse is due although nothing else has changed.
MEMORY_MB = 64
#: If a timer fires this many seconds late, another job has blocked the event loop.
BLOCKED_SECONDS = 0.5
#: Minimum seconds of a minute for which a job blocked the event loop that a pulse reports.
REPORTED_BLOCK_SECONDS = 10
#: Seconds between two reports of a job's output, while someone reads the output and while no one
#: does.
FOLLOWED_SECONDS = 0.08
UNFOLLOWED_SECONDS = 1.0


class AttemptEnvironment:
    """The run, its event loop and thread, and the callbacks that all attempts of the run share.

    Args:
        on_updates: Function that an attempt calls when the attempt has updates to report.
        on_end: Function that an attempt calls once at its end, so that the attempt can be settled.
        beside: Function that returns the ids of the jobs that run in this process.
    """

    def __init__(
        self,
        run: Run,
        *,
        on_updates: Callable[[], None],
        on_end: Callable[[Attempt], None],
        beside: Callable[[], list[JobId]],
    ) -> None:
        self.run = run
        self.on_updates = on_updates
        self.on_end = on_end
        self.beside = beside
        self.clock = run.clock
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()


class Attempt:
    """An attempt to run a leased job.

    Args:
        sent_at: Time of the lease request. The worker counts the lease from this time, so that the
            lease ends here earlier than in the database.
        batch: The batch of the job, if the processor takes batches.
    """

    # the defaults are class attributes, because a worker creates many attempts, and few of them
    # change a default
    stop_reason: StopReason | None = None
    result: CallResult | None = None
    #: Time of the last report of output, and whether someone reads the job's output.
    output_sent_at = -math.inf
    has_reader = False
    #: Contents of the latest stored pulse and of the latest sent pulse: the time of the job's last
    #: update, the location of its running code, and more.
    _saved_state: tuple[Any, ...] | None = None
    _sent_state: tuple[Any, ...] | None = None
    #: True if a report with updates of this attempt is in flight.
    has_open_report = False
    #: Time until which the attempt's updates are not sent, because another transaction has locked
    #: the job's row.
    busy_until: float | None = None
    #: Time on the monotonic clock at which the timeout stops the processor, and whether the timeout
    #: was restarted because another job had blocked the event loop.
    timeout_at = math.inf
    _is_extended = False
    #: The type's timeout, or None if the job's deadline is earlier.
    timeout_seconds: float | None = None
    ended_at: float | None = None
    #: True if the attempt's task has started. A task that is cancelled before its start would never
    #: end the attempt.
    _has_started = False
    #: Futures of callers that wait until all updates so far are stored.
    _flush_waiters: tuple[asyncio.Future[None], ...] = ()
    #: Stack of the processor when its timeout stopped it, and ids of the jobs in the same process.
    timeout_details: dict[str, Any] | None = None
    _timeout_callbacks: tuple[asyncio.TimerHandle, ...] = ()
    _timeout: asyncio.TimerHandle | None = None
    #: True while the job waits for the next call of its batch, and the total duration of such waits
    #: that have ended. During a wait, its start is subtracted from this total.
    _is_suspended = False
    _waited_seconds = 0.0
    _task: asyncio.Task[None] | None = None
    _coroutine: RecordedCoroutine | None = None

    def __init__(
        self,
        environment: AttemptEnvironment,
        lease: Lease,
        *,
        sent_at: float,
        batch: Batch | None = None,
    ) -> None:
        job, clock = lease.job, environment.clock
        self.lease = lease
        self.batch = batch
        self.job_id = job.id
        self.job_type = job.job_type
        self.fence = lease.fence
        self.key: LeaseKey = (self.job_id, self.fence)
        self.lease_until = sent_at + lease.lease_seconds
        self.traceparent = telemetry.child_traceparent(job.traceparent)
        self._environment = environment
        job_type = environment.run.registry.find(job.job_type)
        assert job_type is not None, "a lease request names types of the registry only"
        self._type = job_type
        self._extended_at = self._sent_at = sent_at
        self._started_at = clock.monotonic()
        #: Time of the next pulse.
        self._pulse_at = self._started_at + PULSE_SECONDS
        self.updates = Updates(clock)
        self._steps = {} if lease.steps is None else lease.steps
        self._context = JobContext(self, self.updates, steps=self._steps, clock=clock)

    @property
    def names(self) -> dict[str, str]:
        """Fields that each log line of the attempt contains, so that people find the lines."""
        return {"job_id": self.job_id, "job_type": self.job_type}

    def start(self) -> None:
        """Start the processor, and a timer that stops it."""
        coroutine = self._coroutine = RecordedCoroutine(self._run(), self.job_id)
        self._task = self._environment.loop.create_task(coroutine, name=f"job:{self.job_id}")
        self.start_timeout()

    def start_timeout(self) -> None:
        """Start the timer for the timeout. A batch calls this method at the start of each call."""
        job, clock = self.lease.job, self._environment.clock
        self._end_timer(is_suspended=False)
        seconds = self.timeout_seconds = job.timeout_seconds
        if job.deadline_at is not None:
            left = max(0.0, (job.deadline_at - clock.now()).total_seconds())
            if seconds is None or left < seconds:
                seconds, self.timeout_seconds = left, None
        if seconds is None:
            return
        self.timeout_at = clock.monotonic() + seconds
        if self.batch is not None and seconds <= 0:
            self.stop("timeout")
        else:
            self._timeout = self._environment.loop.call_later(seconds, self._time_out)

    def end_timeout(self) -> None:
        """Stop the timer for the timeout, because the job waits for the next call of its batch."""
        self._end_timer(is_suspended=True)
        self.timeout_at = math.inf

    def _end_timer(self, *, is_suspended: bool) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
        if is_suspended != self._is_suspended:
            self._is_suspended, self._pulse_at = is_suspended, self._environment.clock.monotonic()
            self._waited_seconds += -self._pulse_at if is_suspended else self._pulse_at

    def _time_out(self) -> None:
        """Stop the processor at its timeout, unless it is called again for halves of the batch.

        If another job has blocked the event loop, this processor could not run, and its timeout
        starts again. The timeout starts again only once, because this job may have blocked the
        event loop itself.
        """
        delay = self._environment.clock.monotonic() - self.timeout_at
        is_delayed = delay > BLOCKED_SECONDS and self._type.is_async
        if is_delayed and not self._is_extended and len(self._environment.beside()) > 1:
            self._is_extended = True
            self.start_timeout()
            return
        call = None
        # halve a batch only after the type's timeout. If a call only passes the deadline of one of
        # its jobs, the call does not hang.
        if self.batch is not None and self.timeout_seconds is not None:
            call = self.batch.halve_expired_call(self.job_id)
        if call is None:
            self.stop("timeout")
        else:
            self._environment.loop.call_later(self._grace_seconds, self._run_halves, call)

    def stop(self, reason: StopReason, *, grace_seconds: float | None = None) -> None:
        """Stop the processor. The reason `lost` replaces an earlier reason.

        A processor that still runs after the grace time is abandoned. The slot of an abandoned
        processor becomes free, and its result is not stored.
        """
        if self.result is not None:
            return
        if self.stop_reason is None or reason == "lost":
            self.stop_reason = reason
            if reason == "timeout":
                self.timeout_details = {
                    "frames": stack_in(running_frames(*self._code()), self.module),
                    "jobs": self._environment.beside(),
                    "commit": self._origin.get("commit"),
                }
            # cancel the task only once, because a second cancellation would interrupt the clean-up
            if self._task is not None and self._has_started:
                self._task.cancel()
        if grace_seconds is None:
            grace_seconds = self._grace_seconds
        self._timeout_callbacks += (
            self._environment.loop.call_later(grace_seconds, self._abandon),
        )

    @property
    def has_user_text(self) -> bool:
        """True if the settlement contains text from the processor, which must be redacted."""
        return self.stop_reason is None and self.result is not None and self.result.has_user_text

    def settlement(self) -> SettleItem | None:
        """Return the item to settle, or None if nothing may be stored.

        Call this method only once.
        """
        assert self.result is not None, "the job is still running"
        run = self._environment.run
        facts = AttemptFacts(
            stop_reason=self.stop_reason,
            timeout_seconds=self.timeout_seconds,
            is_late=self.ended_at is not None and self.ended_at > self.timeout_at,
            has_new_steps=self._context.new_steps > 0,
            had_enough_time=not self._is_suspended
            and run.deadlines.had_enough_time(self._started_at, run.options.usual_seconds),
            module=self.module,
            timeout_details=self.timeout_details,
        )
        item = settle_item(self.result, facts)
        # break the reference cycle, so that attempt and task are freed without the garbage
        # collector
        context = self._context
        del self._context
        if item is None:
            return None
        for line in item.logs:
            self.updates.add_log(line)
        if context.open_memos:
            job = self.lease.job
            clear_memos(context, item.outcome, is_last=job.attempts >= job.max_attempts)
        item.job_id, item.fence = self.job_id, self.fence
        if item.error is not None:
            request_id = current_request_id()
            origin = self._origin | ({} if request_id is None else {"request_id": request_id})
            item.error = item.error.model_copy(update={"origin": origin or None})
        updates = self.updates.take(max_logs=Updates.MAX_LOGS + 1)
        if updates is not NO_UPDATES:
            for name, value in updates._asdict().items():
                setattr(item, name, value)
        item.duration_ms = round(self.duration_seconds * 1000, 1)
        item.cost_usd = dollars(context.cost_usd)
        return item

    @property
    def _origin(self) -> dict[str, str]:
        return self._environment.run.options.origin or {}

    @property
    def module(self) -> str:
        """Name of the processor's module."""
        return getattr(self._type.run, "__module__", "")

    def pulse(self, *, has_updates: bool) -> Pulse | None:
        """Return the pulse for the next report, or None if no pulse is due or nothing has changed.

        The first update after a silence also sends a pulse, so that people no longer see the job as
        silent. After the end of the processor, a pulse reports that the outcome is not stored yet.
        """
        now, sent = self._environment.clock.monotonic(), self._sent_state
        was_silent = has_updates and sent is not None and sent[0] < now - PULSE_SECONDS
        if not (now >= self._pulse_at or was_silent):
            return None
        self._pulse_at = now + PULSE_SECONDS
        if self.ended_at is not None:
            self._sent_state = (self.ended_at,)
            if self._saved_state == self._sent_state:
                return None
            ended_ms = round((now - self.ended_at) * 1000)
            return Pulse(last="end", for_ms=ended_ms, memory_mb=peak_memory_mb())
        try:
            return self._sample(now)
        except Exception:  # of an object of the user; other jobs share the report
            extra = {"event": "pulse.failed", **self.names}
            logger.warning("A job could not be sampled", extra=extra, exc_info=True)
            self._sent_state = (now,)  # the next sample waits until it is due
            return None

    def _sample(self, now: float) -> Pulse | None:
        """Return what the processor does now, or None if nothing has changed."""
        updates = self.updates
        frames = running_frames(*self._code())
        sessions, memory = database_sessions(frames), peak_memory_mb()
        beside = None if self.batch is None else 0 if self._is_suspended else self.batch.others
        until, used = self.timeout_at, memory // MEMORY_MB
        location = location_in(frames, self.module)
        program, waits = awaited(frames)
        blocked = 0 if self._coroutine is None else round(self._coroutine.blocked_seconds)
        blocked = 0 if blocked < REPORTED_BLOCK_SECONDS else blocked
        current = updates.last_at, location, sessions, used, beside, until, blocked, program, waits
        if current == self._saved_state:
            return None
        self._sent_state = current
        return Pulse(
            last=updates.last_kind,
            for_ms=round((now - updates.last_at) * 1000),
            left_ms=None if until == math.inf else round((until - now) * 1000),
            place=location and location.place,
            code=location and location.code,
            stack=location.calls if location else [],
            pid=sessions[0] if sessions else None,
            own_pids=sessions[1:],
            batched=beside,
            blocked_ms=blocked * 1000 or None,
            program=program,
            waits=waits,
            in_thread=None if self._type.is_async else True,
            memory_mb=memory,
        )

    def _code(self) -> tuple[asyncio.Task[Any] | None, str]:
        """Return the task and the name of the thread in which the processor runs."""
        if self._is_suspended:
            return None, ""
        if self.batch is not None:
            return self.batch.task, self.batch.thread_name
        return self._task, thread_name(*self.key)

    @property
    def duration_seconds(self) -> float:
        """Seconds that the processor has run so far, or ran until its end, without waits."""
        end = self._environment.clock.monotonic() if self.ended_at is None else self.ended_at
        waited = self._waited_seconds + (end if self._is_suspended else 0.0)
        return max(0.0, end - self._started_at - waited)

    def notify_updates(self) -> None:
        """Notify the reporter of updates. Any thread may call this method."""
        if threading.get_ident() == self._environment.thread:
            self._environment.on_updates()
        else:
            self._environment.loop.call_soon_threadsafe(self._environment.on_updates)

    async def flush(self) -> None:
        """Wait until all updates so far are stored."""
        if self.stop_reason == "lost" or self.result is not None:
            text = f"lease on job {self.job_id} was lost; nothing was stored"
            raise LeaseLost(text, status=409, code="PT409", hint="lease_lost")
        flushed: asyncio.Future[None] = self._environment.loop.create_future()
        self._flush_waiters += (flushed,)
        self._environment.on_updates()
        await flushed

    async def spawn(self, name: str, children: Sequence[NewJob]) -> list[JobId]:
        """Enqueue child jobs. A repeated call with the same name enqueues no further jobs."""
        return await self._environment.run.queue.spawn(self.job_id, self.fence, name, children)

    async def stream_history(self, stream: str) -> StreamHistory:
        """Return the output that earlier attempts have written into a stream."""
        if self.fence == 1:
            return StreamHistory()
        body = await self._environment.run.queue.read_output(self.job_id, self.fence, stream)
        kept = {step: stream["items"] or stream["text"] for step, stream in body["kept"].items()}
        return StreamHistory(body["attempt"], kept)

    def remaining(self) -> float:
        """Return the seconds left for this attempt."""
        until = min(self._environment.run.deadlines.stop_working, self.timeout_at)
        return max(0.0, until - self._environment.clock.monotonic())

    def stop_requested(self) -> bool:
        """Return whether the processor must end."""
        return self.stop_reason is not None or self.result is not None

    @property
    def output_at(self) -> float:
        """Time of the next report of output.

        One report contains all output that is written before this time.
        """
        if not self.updates.has_output:
            return float("inf")
        if self.updates.output_bytes >= LONG_OUTPUT:
            return float("-inf")
        return self.output_sent_at + (FOLLOWED_SECONDS if self.has_reader else UNFOLLOWED_SECONDS)

    @property
    def is_urgent(self) -> bool:
        """True if a caller waits for the updates to be stored."""
        return bool(self._flush_waiters)

    def report_due_at(self, fraction: float = 1.0) -> float:
        """Return the due time of the next report, which renews the lease and may stop the job.

        Args:
            fraction: Fraction of the report interval, after which a report of other jobs may
                include this attempt.
        """
        return self._sent_at + min(REPORT_SECONDS, self.lease.lease_seconds / 3) * fraction

    def mark_reported(self, sent_at: float) -> None:
        """Record that a report of this attempt was stored.

        The report renews the lease if at least a quarter of the lease time has passed.
        """
        self._sent_at = sent_at
        self._saved_state = self._sent_state
        if sent_at >= self._extended_at + self.lease.lease_seconds / 4:
            self._extended_at = sent_at
            self.lease_until = sent_at + self.lease.lease_seconds

    def finish_flush(self, error: QueueError | None = None) -> None:
        """Wake the callers of `flush`, or raise `error` in them."""
        waiting, self._flush_waiters = self._flush_waiters, ()
        for future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    async def _run(self) -> None:
        self._has_started = True
        try:
            result = CallResult(await self._call())
        except BaseException as error:
            result = CallResult(error=error)
        self._end(result)

    def _call(self) -> Awaitable[Any]:
        """Call the processor for this job alone or in a batch."""
        if self.stop_reason is not None:
            raise asyncio.CancelledError("the attempt was stopped before it began")
        job_type, raw, context = self._type, self.lease.job, self._context
        row = vars(raw)
        payload, row["payload"] = job_type.read_payload(raw.payload, raw.schema_version), None
        given = row | {"payload": payload, "attempt": raw.attempts, "fence": self.fence}
        for name in _UNSEEN:
            del given[name]
        telemetry.enter(self.traceparent)
        job: Job[Any]
        call: Call
        if self.batch is not None:
            job = member = job_of(BatchedJob, given | {"ctx": context})
            call = partial(self.batch.join, member, self)
        else:
            JOB_ID.set(to_record(self.job_id))
            job = job_of(Job, given)
            thread = None if job_type.is_async else thread_name(*self.key)
            call = calling(job_type.run, job, context, thread=thread)
        call = wrap(job_type.around, call, job, context)
        return call() if self.lease.steps is not None else self._with_steps(call)

    async def _with_steps(self, call: Call) -> Any:
        """Call the processor after reading the step results that were too large for the lease."""
        self._steps |= await self._environment.run.queue.read_steps(self.job_id, self.fence)
        return await call()

    def _end(self, result: CallResult) -> None:
        if self.result is not None:
            return  # an abandoned processor has ended, or its thread continues
        self.result = (
            result if self._context.calls is None else check_unawaited(result, self._context)
        )
        self.ended_at = self._environment.clock.monotonic()
        for timer in (self._timeout, *self._timeout_callbacks):
            if timer is not None:
                timer.cancel()
        self._timeout_callbacks, self._task, self._coroutine = (), None, None
        if self.batch is not None:
            self.batch.ended(self.job_id, is_abandoned=result.abandoned)
        self._environment.on_end(self)

    def _abandon(self) -> None:
        if self.result is not None:
            return
        self._record_abandoned(*self._code())
        if self._task is not None:
            self._task.cancel()
        self._end(CallResult(abandoned=True))

    def _run_halves(self, call: asyncio.Task[None]) -> None:
        """Call the processor for the halves of a batch whose call ignored its cancellation."""
        code = self._code()
        if self.batch is not None and self.batch.abandon(call):
            self._record_abandoned(*code)

    def _record_abandoned(self, *code: Any) -> None:
        job_id, module, in_thread = self.job_id, self.module, not self._type.is_async

        def find() -> AbandonedJob | None:
            location = location_in(running_frames(*code), module)
            if location is None:
                return None
            return AbandonedJob(job_id=job_id, place=location.place, in_thread=in_thread)

        logger.error(
            "Processor did not end after its cancellation and was abandoned",
            extra={
                "event": "attempt.abandoned",
                "stop_reason": self.stop_reason or "timeout",
                "grace_seconds": self._grace_seconds,
                **self.names,
            },
        )
        self._environment.run.lease_id.abandoned[job_id] = find

    @property
    def _grace_seconds(self) -> float:
        return self._environment.run.deadlines.grace(self._environment.run.options.grace_seconds)


def dollars(amount: Any) -> float | None:
    """Return the cost that a processor reported, or None if the cost is 0 or not a number."""
    if type(amount) is float and not amount:
        return None
    try:
        cost = round(float(amount), 9)
    except BaseException:  # methods of a user's class may raise anything
        return None
    return cost if 0 < cost < 1e9 else None
