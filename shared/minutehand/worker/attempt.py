"""One attempt: a processor at work under a lease, its updates, its limits, and how it is stopped.

The reporter stores updates; the tick settles.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from types import FrameType
from typing import Any

from minutehand.clock import Clock, ShiftedClock
from minutehand.log import current_request_id
from minutehand.queue.errors import LeaseLost, QueueError
from minutehand.queue.models import (
    Artefact,
    ErrorInfo,
    JobId,
    Lease,
    NewArtefact,
    NewJob,
    SettleItem,
)
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import trace, tracebacks
from minutehand.worker.context import JobContext, Updates
from minutehand.worker.isolation import TaskGroupOfAttempt, belonging_to
from minutehand.worker.job import Job
from minutehand.worker.middleware import run_within
from minutehand.worker.registry import JobType, PayloadRejected, UnknownProcessor
from minutehand.worker.settlement import (
    Abandoned,
    Circumstances,
    Ending,
    Raised,
    Returned,
    StopReason,
    verdict,
)

logger = logging.getLogger(__name__)

TOLERATED_SKEW = timedelta(seconds=2)
#: A job and the fence of one lease of it: a worker may get a job again while it still runs here.
LeaseKey = tuple[JobId, int]


class Attempt:
    """A lease being worked on.

    Args:
        sent_at: When the lease was requested, monotonic: our timeouts start
            there, so it always ends before the database's.
        work_until: When the tick will stop it at the latest.
        on_end: Called once, on the loop, when the attempt is over.
    """

    #: How long a cancelled processor may take to stop.
    GRACE_SECONDS = 5.0

    def __init__(
        self,
        lease: Lease,
        kind: JobType[Any] | None,
        *,
        clock: Clock,
        sent_at: float,
        work_until: float,
        had_fair_time: bool,
        queue: WorkerQueue,
        on_news: Callable[[], None],
        on_end: Callable[[Attempt], None],
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        clock = database_clock(lease, clock)
        self.lease = lease
        self.kind = kind
        self.job_id = lease.job.id
        self.fence = lease.fence
        self.key: LeaseKey = (self.job_id, self.fence)
        self.job_type = lease.job.job_type
        self.updates = Updates(clock)
        self.renewed_at = sent_at
        self.lease_until = sent_at + lease.lease_seconds
        self.stop_reason: StopReason | None = None
        self.ending: Ending | None = None
        self.started_at = clock.monotonic()
        self.ended_at: float | None = None
        #: How many jobs ran in the worker when this one began, itself included.
        self.company = 1
        #: Set while a report with this attempt's updates is in flight.
        self.reporting = False
        self._clock = clock
        self._work_until = work_until
        self._had_fair_time = had_fair_time
        self._queue = queue
        self._on_news = on_news
        self._on_end = on_end
        self.grace_seconds = grace_seconds
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._flushes: list[asyncio.Future[None]] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._task: asyncio.Task[None] | None = None
        #: Where a processor was that did not stop.
        self._stack: tuple[FrameType, ...] = ()
        self.group = TaskGroupOfAttempt(self.job_id, self.job_type)
        self.context = JobContext(
            self,
            self.updates,
            steps=lease.steps or {},
            clock=clock,
            traceparent=trace.child_of(lease.job.traceparent),
            loop=self._loop,
        )
        self.timeout_seconds = self._timeout()

    # Life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the processor; its clock runs from here."""
        self.started_at = self._clock.monotonic()
        with belonging_to(self.group):
            self._task = self._loop.create_task(self._run(), name=f"job:{self.job_id}")
        self._task.add_done_callback(self._task_done)
        if self.timeout_seconds is not None:
            self._later(self.timeout_seconds, self.stop, "timeout")

    def stop(self, reason: StopReason, *, grace_seconds: float | None = None) -> None:
        """Tell the processor to end; the first reason counts, except that a lost lease always does.

        After the grace time it is abandoned: its slot is free, and what it still does is neither
        awaited nor stored.
        """
        grace = self.grace_seconds if grace_seconds is None else grace_seconds
        if self.ending is not None:
            return
        if self.stop_reason is None or reason == "lost":
            self.stop_reason = reason
            # once: what it does to clean up is not torn off by each answer that repeats the reason
            if self._task is not None:
                self._task.cancel()
            if self.kind is not None and not self.kind.is_async:
                # its thread may be blocked in `ctx.wait`, on one of these
                for task in self.group.left_over():
                    task.cancel()
        self._later(grace, self._abandon)

    def settlement(self, *, cost_usd: float = 0.0) -> SettleItem | None:
        """What to settle now that it is over; None when nothing may be stored.

        Args:
            cost_usd: Estimate for the worker's time, added to what the processor spent.
        """
        if self.ending is None:
            raise RuntimeError(f"job {self.job_id} is still running")
        seen = Circumstances(
            stop=self.stop_reason,
            timeout_seconds=self.timeout_seconds,
            ran_seconds=self.duration_seconds,
            blocked=self.group.blocked,
            advanced=self.context.new_steps > 0,
            had_fair_time=self._had_fair_time,
        )
        item = verdict(self.ending, seen)
        if item is None:
            return None
        if item.error is not None:
            item = replace(item, error=self._traced(item.error))
        updates = self.updates.take(most_logs=Updates.MAX_LOGS + 1)
        cost = self.context.cost_usd + cost_usd
        return replace(
            item,
            job_id=self.job_id,
            fence=self.fence,
            **updates._asdict(),
            duration_ms=round(self.duration_seconds * 1000, 1),
            cost_usd=round(cost, 9) if cost > 0 else None,
        )

    def _traced(self, error: ErrorInfo) -> ErrorInfo:
        """The error with the frames it came from, and where its log is."""
        package = getattr(self.kind.run, "__module__", "") if self.kind is not None else ""
        found: dict[str, Any] | None = None
        if isinstance(self.ending, Raised) and not isinstance(self.ending.error, PayloadRejected):
            found = tracebacks.describe(self.ending.error, package=package)
        elif isinstance(self.ending, Abandoned):
            found = tracebacks.describe_stack(self._stack, package=package)
        request_id = current_request_id()
        origin = None if request_id is None else {"request_id": request_id}
        return error.model_copy(update={"traceback": found, "origin": origin})

    @property
    def duration_seconds(self) -> float:
        """How long the processor ran, or has been running."""
        end = self._clock.monotonic() if self.ended_at is None else self.ended_at
        return max(0.0, end - self.started_at)

    # The port of its context --------------------------------------------------------------------

    def announce(self) -> None:
        """Announce updates; may be called from any thread."""
        if threading.get_ident() == self._thread:
            self._on_news()
        else:
            self._loop.call_soon_threadsafe(self._on_news)

    async def flush(self) -> None:
        """Return once all updates so far are stored."""
        if self.stop_reason == "lost" or self.ending is not None:
            raise self._lost()
        if not self.updates and not self.reporting:
            return
        stored: asyncio.Future[None] = self._loop.create_future()
        self._flushes.append(stored)
        self._on_news()
        await stored

    async def spawn(self, name: str, children: Sequence[NewJob]) -> list[JobId]:
        """Enqueue children, once per name."""
        return await self._queue.spawn(self.job_id, self.fence, name, children)

    async def store_artefact(self, artefact: NewArtefact) -> Artefact:
        """Store a file."""
        return await self._queue.store_artefact(self.job_id, self.fence, artefact)

    def remaining(self) -> float:
        """Seconds left for this attempt."""
        now = self._clock.monotonic()
        until = self._work_until
        if self.timeout_seconds is not None:
            until = min(until, self.started_at + self.timeout_seconds)
        return max(0.0, until - now)

    def stop_requested(self) -> bool:
        """Whether the processor is to end."""
        return self.stop_reason is not None or self.ending is not None

    # For the reporter ---------------------------------------------------------------------------

    @property
    def is_urgent(self) -> bool:
        """Whether someone waits for the updates to be stored."""
        return bool(self._flushes)

    @property
    def renew_at(self) -> float:
        """When its lease has to be renewed: a third of it has passed."""
        return self.renewed_at + self.lease.lease_seconds / 3

    @property
    def may_renew_at(self) -> float:
        """From when on another one's report renews it as well."""
        return self.renewed_at + self.lease.lease_seconds / 4

    def stored(self) -> None:
        """The update was stored: its waiters continue."""
        waiting, self._flushes = self._flushes, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def refused(self, error: QueueError) -> None:
        """The update was refused for good: its waiters get the reason."""
        waiting, self._flushes = self._flushes, []
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    def renewed(self, sent_at: float) -> None:
        """A report sent at `sent_at` renewed the lease."""
        self.renewed_at = sent_at
        self.lease_until = sent_at + self.lease.lease_seconds

    # Inside -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        ending: Ending
        try:
            ending = Returned(await self._process())
        except BaseException as error:
            ending = Raised(error)
        self._end(ending)

    async def _process(self) -> Any:
        kind, raw = self.kind, self.lease.job
        if kind is None:
            raise UnknownProcessor(f"no processor for job type {raw.job_type!r}")
        job: Job[Any] = Job(
            id=raw.id,
            job_type=raw.job_type,
            payload=kind.read_payload(raw.payload, raw.schema_version),
            workspace_id=raw.workspace_id,
            created_at=raw.created_at,
            queue=raw.queue,
            priority=raw.priority,
            user_id=raw.user_id,
            session_id=raw.session_id,
            parent_id=raw.parent_id,
            attempt=raw.attempts,
            max_attempts=raw.max_attempts,
            fence=self.fence,
            traceparent=raw.traceparent,
            deadline_at=raw.deadline_at,
            queued_seconds=self.lease.queued_seconds,
        )
        trace.enter(self.context.traceparent or trace.child_of(None))
        if self.lease.steps is None:
            self.context.restore_steps(await self._queue.read_steps(self.job_id, self.fence))
        return await run_within(
            kind.around, kind.run, job, self.context, in_thread=not kind.is_async
        )

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if self.ending is None:
            # cancelled before its first step: `_run` had no chance to note it
            self._end(Raised(asyncio.CancelledError()))

    def _end(self, ending: Ending) -> None:
        if self.ending is not None:
            self._log_late_end(ending)
            return
        self.ending = ending
        self.ended_at = self._clock.monotonic()
        for timer in self._timers:
            timer.cancel()
        self._cancel_left_over_tasks()
        self._on_end(self)

    def _abandon(self) -> None:
        if self.ending is not None:
            return
        logger.error(
            "Processor ignored its cancellation and was abandoned",
            extra={
                "event": "attempt.abandoned",
                "job_id": self.job_id,
                "job_type": self.job_type,
                "stop_reason": self.stop_reason,
                "grace_seconds": self.grace_seconds,
            },
        )
        if self._task is not None:
            self._stack = tuple(self._where(self._task))
            self._task.cancel()
        self._end(Abandoned())

    def _where(self, task: asyncio.Task[None]) -> list[FrameType]:
        """Where the processor is: a plain one in its thread, else where its task waits."""
        for thread in threading.enumerate():
            if thread.name.startswith(f"job:{self.job_id}-"):
                return tracebacks.running(sys._current_frames().get(thread.ident or 0))
        return tracebacks.suspended(task)

    def _cancel_left_over_tasks(self) -> None:
        own = self._task
        left = [task for task in self.group.left_over() if task is not own]
        if not left:
            return
        logger.warning(
            "Processor left tasks running; they were cancelled",
            extra={
                "event": "attempt.tasks_left",
                "job_id": self.job_id,
                "job_type": self.job_type,
                "tasks": [task.get_name() for task in left[:10]],
            },
        )
        for task in left:
            task.add_done_callback(_retrieve)
            task.cancel()

    def _log_late_end(self, ending: Ending) -> None:
        logger.warning(
            "Abandoned processor has ended",
            extra={
                "event": "attempt.ended_late",
                "job_id": self.job_id,
                "job_type": self.job_type,
                "ending": type(ending).__name__,
            },
        )

    def _timeout(self) -> float | None:
        limits = []
        if self.lease.job.timeout_seconds is not None:
            limits.append(self.lease.job.timeout_seconds)
        if self.lease.job.deadline_at is not None:
            left = (self.lease.job.deadline_at - self._clock.now()).total_seconds()
            limits.append(max(0.0, left))
        return min(limits) if limits else None

    def _later(self, delay: float, call: Callable[..., None], *args: Any) -> None:
        self._timers.append(self._loop.call_later(delay, call, *args))

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"lease on job {self.job_id} was lost; nothing was stored",
            status=409,
            code="PT409",
            hint="lease_lost",
        )


def database_clock(lease: Lease, clock: Clock) -> Clock:
    """`clock`, set right by the database's when it is plainly wrong.

    Waits and deadlines are instants that the database compares with its own time. The lease carries
    when that was. A second or two is the way of the answer.
    """
    if lease.leased_at is None:
        return clock
    shift = lease.leased_at - clock.now()
    return ShiftedClock(clock, shift) if abs(shift) > TOLERATED_SKEW else clock


def _retrieve(task: asyncio.Task[Any]) -> None:
    # read the exception, so that asyncio does not report it a second time
    if not task.cancelled():
        task.exception()
