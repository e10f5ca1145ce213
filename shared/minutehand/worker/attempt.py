"""One attempt: a processor at work under a lease, its limits, and how it is stopped."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, Final

from minutehand import telemetry
from minutehand.log import current_request_id
from minutehand.queue.errors import LeaseLost, QueueError
from minutehand.queue.models import ErrorInfo, JobId, Lease, LeasedJob, NewJob, SettleItem
from minutehand.worker.batch import Batch
from minutehand.worker.context import JobContext, forget_memos
from minutehand.worker.job import BatchedJob, Job, job_of
from minutehand.worker.middleware import Call, calling, thread_name, within
from minutehand.worker.registry import UnknownProcessor
from minutehand.worker.run import LeaseKey, Run
from minutehand.worker.settlement import Ending, StopReason, settle_item, with_calls
from minutehand.worker.stacks import stack_of
from minutehand.worker.streams import Said
from minutehand.worker.updates import LONG_OUTPUT, NOTHING, Updates

logger = logging.getLogger(__name__)

#: What a processor does not see of its job's row.
_UNSEEN: Final = tuple(
    {each.name for each in fields(LeasedJob)} - {each.name for each in fields(Job)}
)
#: Longest time until a running job is asked for: it learns of a cancel within it.
LOOK_SECONDS: Final = 4.0
#: Between two reports of output, while someone follows the job and while no one does.
FOLLOWED_SECONDS: Final = 0.08
UNFOLLOWED_SECONDS: Final = 1.0


class Surroundings:
    """Of all attempts of a run: the run, its event loop and thread, and what they call.

    Args:
        on_news: Called when an attempt has something to report.
        on_end: Called once, when it is over and can be settled.
        beside: The jobs that share its process.
    """

    def __init__(
        self,
        run: Run,
        *,
        on_news: Callable[[], None],
        on_end: Callable[[Attempt], None],
        beside: Callable[[], list[JobId]],
    ) -> None:
        self.run = run
        self.on_news = on_news
        self.on_end = on_end
        self.beside = beside
        self.clock = run.clock
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()


class Attempt:
    """A lease being worked on.

    Args:
        sent_at: When the lease was requested: so it always ends before the database's.
        batch: The jobs that its processor is called with, where it takes several.
    """

    # What most attempts never change is the class's: there is one for each job.
    stop_reason: StopReason | None = None
    ending: Ending | None = None
    #: When its output was sent last, and whether someone read it.
    output_sent_at = -math.inf
    is_followed = False
    #: Set while a report with this attempt's updates is in flight.
    reporting = False
    #: Until when its news wait, since a user's transaction holds its row.
    busy_until: float | None = None
    #: When its processor is stopped, on the steady clock.
    timeout_at = math.inf
    ended_at: float | None = None
    #: Its processor's task takes its first step: one that is cancelled before has no chance to end.
    _has_begun = False
    #: Those who wait until everything so far is stored.
    _flushes: tuple[asyncio.Future[None], ...] = ()
    #: Where it was when its timeout stopped it, and what ran beside it.
    evidence: dict[str, Any] | None = None
    _timers: tuple[asyncio.TimerHandle, ...] = ()
    _task: asyncio.Task[None] | None = None

    def __init__(
        self, around: Surroundings, lease: Lease, *, sent_at: float, batch: Batch | None = None
    ) -> None:
        job, clock = lease.job, around.clock
        self.lease = lease
        self.batch = batch
        self.job_id = job.id
        self.job_type = job.job_type
        self.fence = lease.fence
        self.key: LeaseKey = (self.job_id, self.fence)
        self.lease_until = sent_at + lease.lease_seconds
        self.traceparent = telemetry.child_traceparent(job.traceparent)
        self._around = around
        self._type = around.run.registry.find(job.job_type)
        self._renewed_at = self._asked_at = sent_at
        self._started_at = clock.monotonic()
        self.updates = Updates(clock)
        self._steps = {} if lease.steps is None else lease.steps
        self._context = JobContext(self, self.updates, steps=self._steps, clock=clock)
        self.timeout_seconds = self._limit()
        if self.timeout_seconds is not None:
            self.timeout_at = self._started_at + self.timeout_seconds

    @property
    def names(self) -> dict[str, str]:
        """What its lines in the log are found by."""
        return {"job_id": self.job_id, "job_type": self.job_type}

    def start(self) -> None:
        """Start the processor, which is stopped after `timeout_seconds`."""
        loop = self._around.loop
        self._task = loop.create_task(self._run(), name=f"job:{self.job_id}")
        if self.timeout_seconds is not None:
            self._timers = (loop.call_later(self.timeout_seconds, self.stop, "timeout"),)

    def stop(self, reason: StopReason, *, grace_seconds: float | None = None) -> None:
        """Have the processor end; the first reason counts, except that a lost lease always does.

        After the grace time it is abandoned: its slot is free, and what it still does is neither
        awaited nor stored.
        """
        if self.ending is not None:
            return
        if self.stop_reason is None or reason == "lost":
            self.stop_reason = reason
            if reason == "timeout":
                self.evidence = self._where_it_is()
            # once, or each answer that repeats the reason would interrupt its clean-up
            if self._task is not None and self._has_begun:
                self._task.cancel()
        if grace_seconds is None:
            grace_seconds = self._grace_seconds
        self._timers += (self._around.loop.call_later(grace_seconds, self._abandon),)

    @property
    def says_why(self) -> bool:
        """Whether its settlement has a text of the processor's, to be filtered for secrets."""
        return self.stop_reason is None and self.ending is not None and self.ending.says_why

    def settlement(self) -> SettleItem | None:
        """What to settle now that it is over; None when nothing may be stored. To be asked once."""
        if self.ending is None:
            raise RuntimeError(f"job {self.job_id} is still running")
        item = settle_item(self.ending, self)
        # each knows the other: apart, both are freed at once, and no collector looks for them
        context = self._context
        del self._context
        if item is None:
            return None
        for line in item.logs:
            self.updates.add_log(line)
        if context.open_memos:
            job = self.lease.job
            forget_memos(context, item.outcome, is_last=job.attempts >= job.max_attempts)
        item.job_id, item.fence = self.job_id, self.fence
        if item.error is not None:
            item.error = self._with_origin(item.error)
        updates = self.updates.take(most_logs=Updates.MAX_LOGS + 1)
        if updates is not NOTHING:
            for name, value in updates._asdict().items():
                setattr(item, name, value)
        item.duration_ms = round(self.duration_seconds * 1000, 1)
        item.cost_usd = dollars(context.cost_usd)
        return item

    @property
    def has_advanced(self) -> bool:
        """Whether it stored a step that earlier attempts had not."""
        return self._context.new_steps > 0

    @property
    def had_fair_time(self) -> bool:
        """Whether the tick gave it at least half of a whole tick's time."""
        run = self._around.run
        return run.deadlines.had_fair_time(self._started_at, run.options.usual_seconds)

    def _with_origin(self, error: ErrorInfo) -> ErrorInfo:
        request_id = current_request_id()
        own = {} if request_id is None else {"request_id": request_id}
        origin = {**(self._around.run.options.origin or {}), **own}
        return error.model_copy(update={"origin": origin or None})

    @property
    def module(self) -> str:
        """Its processor's."""
        return getattr(self._type.run, "__module__", "") if self._type is not None else ""

    @property
    def place(self) -> str | None:
        """Its processor as a stack of `faulthandler` names it, without the line."""
        return None if self._type is None else self._type.place

    def _where_it_is(self) -> dict[str, Any]:
        task, thread = self._task, thread_name(self.job_id)
        if self.batch is not None:
            task, thread = self.batch.task, self.batch.thread_name
        return {
            "frames": stack_of(task, thread, self.module),
            "jobs": self._around.beside(),
            "commit": (self._around.run.options.origin or {}).get("commit"),
        }

    @property
    def duration_seconds(self) -> float:
        """How long the processor ran, or has been running."""
        end = self._around.clock.monotonic() if self.ended_at is None else self.ended_at
        return max(0.0, end - self._started_at)

    def announce(self) -> None:
        """Announce updates; may be called from any thread."""
        if threading.get_ident() == self._around.thread:
            self._around.on_news()
        else:
            self._around.loop.call_soon_threadsafe(self._around.on_news)

    async def flush(self) -> None:
        """Return once all updates so far are stored."""
        if self.stop_reason == "lost" or self.ending is not None:
            text = f"lease on job {self.job_id} was lost; nothing was stored"
            raise LeaseLost(text, status=409, code="PT409", hint="lease_lost")
        stored: asyncio.Future[None] = self._around.loop.create_future()
        self._flushes += (stored,)
        self._around.on_news()
        await stored

    async def spawn(self, name: str, children: Sequence[NewJob]) -> list[JobId]:
        """Enqueue children, once per name."""
        return await self._around.run.queue.spawn(self.job_id, self.fence, name, children)

    async def said(self, stream: str) -> Said:
        """What earlier attempts said in a stream."""
        if self.fence == 1:
            return Said()
        body = await self._around.run.queue.read_output(self.job_id, self.fence, stream)
        kept = {step: each["items"] or each["text"] for step, each in body["kept"].items()}
        return Said(body["attempt"], kept)

    def remaining(self) -> float:
        """Seconds left for this attempt."""
        until = min(self._around.run.deadlines.stop_working, self.timeout_at)
        return max(0.0, until - self._around.clock.monotonic())

    def stop_requested(self) -> bool:
        """Whether the processor is to end."""
        return self.stop_reason is not None or self.ending is not None

    @property
    def output_at(self) -> float:
        """When its output is to be sent: what comes soon after is joined to it."""
        if not self.updates.has_output:
            return float("inf")
        if self.updates.output_bytes >= LONG_OUTPUT:
            return float("-inf")
        return self.output_sent_at + (FOLLOWED_SECONDS if self.is_followed else UNFOLLOWED_SECONDS)

    @property
    def is_urgent(self) -> bool:
        """Whether someone waits for the updates to be stored."""
        return bool(self._flushes)

    def look_at(self, share: float = 1.0) -> float:
        """When the queue has to be asked for it: to renew its lease, and whether it must stop.

        After a `share` of that time a call for others may ask for it as well.
        """
        return self._asked_at + min(LOOK_SECONDS, self.lease.lease_seconds / 3) * share

    def seen(self, sent_at: float) -> None:
        """A report sent at `sent_at` was answered, and renewed the lease if a quarter was over."""
        self._asked_at = sent_at
        if sent_at >= self._renewed_at + self.lease.lease_seconds / 4:
            self._renewed_at = sent_at
            self.lease_until = sent_at + self.lease.lease_seconds

    def stored(self, error: QueueError | None = None) -> None:
        """The update was stored, or refused for good: its waiters continue, or get the reason."""
        waiting, self._flushes = self._flushes, ()
        for future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    async def _run(self) -> None:
        self._has_begun = True
        try:
            ending = Ending(await self._call())
        except BaseException as error:
            ending = Ending(error=error)
        self._end(ending)

    def _call(self) -> Awaitable[Any]:
        """Call its processor, or have it called."""
        if self.stop_reason is not None:
            raise asyncio.CancelledError("it was stopped before it began")
        job_type = self._type
        if job_type is None:
            raise UnknownProcessor(f"no processor for job type {self.job_type!r}")
        raw, context = self.lease.job, self._context
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
            call = partial(self.batch.join, member, self.stop_requested)
        else:
            job = job_of(Job, given)
            thread = None if job_type.is_async else thread_name(self.job_id)
            call = calling(job_type.run, job, context, thread=thread)
        call = within(job_type.around, call, job, context)
        return call() if self.lease.steps is not None else self._with_steps(call)

    async def _with_steps(self, call: Call) -> Any:
        """Call with results of steps that are too long to come with the lease."""
        self._steps |= await self._around.run.queue.read_steps(self.job_id, self.fence)
        return await call()

    def _end(self, ending: Ending) -> None:
        if self.ending is not None:
            logger.warning(
                "Abandoned processor has ended", extra={"event": "attempt.ended_late", **self.names}
            )
            return
        self.ending = ending if self._context.calls is None else with_calls(ending, self._context)
        self.ended_at = self._around.clock.monotonic()
        for timer in self._timers:
            timer.cancel()
        self._timers, self._task = (), None
        if self.batch is not None:
            self.batch.ended(self.job_id)
        self._around.on_end(self)

    def _abandon(self) -> None:
        if self.ending is not None:
            return
        logger.error(
            "Processor ignored its cancellation and was abandoned",
            extra={
                "event": "attempt.abandoned",
                "stop_reason": self.stop_reason,
                "grace_seconds": self._grace_seconds,
                **self.names,
            },
        )
        if self._task is not None:
            self._task.cancel()
        self._end(Ending(abandoned=True))

    @property
    def _grace_seconds(self) -> float:
        return self._around.run.deadlines.grace(self._around.run.options.grace_seconds)

    def _limit(self) -> float | None:
        """Seconds that it may run."""
        job = self.lease.job
        if job.deadline_at is None:
            return job.timeout_seconds
        left = max(0.0, (job.deadline_at - self._around.clock.now()).total_seconds())
        return left if job.timeout_seconds is None else min(left, job.timeout_seconds)


def dollars(said: Any) -> float | None:
    """What an attempt cost, by its processor's count; None for nothing, or for no number."""
    if type(said) is float and not said:
        return None
    try:
        cost = round(float(said), 9)
    except BaseException:  # a class of the user's may raise anything while it is looked at
        return None
    return cost if 0 < cost < 1e9 else None
