"""One bounded run of the worker: lease, maintain, run, report, settle, fan out, and end in time.

The worker knows no application and no cloud; waking and starting extra workers are injected.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from minutehand.clock import Clock, SystemClock
from minutehand.queue.errors import QueueError, QueueUnavailable
from minutehand.queue.models import (
    ErrorInfo,
    Lease,
    LeaseRequest,
    LeaseResponse,
    ReportItem,
    SettleItem,
    UnreadableLease,
)
from minutehand.queue.worker_client import WorkerQueue
from minutehand.tasks import end_tasks
from minutehand.worker.attempt import Attempt, LeaseKey
from minutehand.worker.channel import Channel
from minutehand.worker.deadlines import Deadlines, TickOptions, in_time
from minutehand.worker.extra_workers import SIDE_CALL_SECONDS, ExtraWorkers
from minutehand.worker.fanout import FanOut, StartExtraWorkers
from minutehand.worker.isolation import contained
from minutehand.worker.lease_requests import LeaseRequests
from minutehand.worker.maintenance import Maintenance
from minutehand.worker.publishing import Publishing
from minutehand.worker.registry import Registry
from minutehand.worker.reporter import Reporter
from minutehand.worker.settler import Settler
from minutehand.worker.summary import TickSummary
from minutehand.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)


class Tick:
    """One run; make it, `run` it, and read its summary. Not to be used twice."""

    def __init__(
        self,
        queue: WorkerQueue,
        registry: Registry,
        *,
        worker_id: str,
        budget_seconds: float = math.inf,
        options: TickOptions | None = None,
        job_types: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        clock: Clock | None = None,
        fan_out: FanOut | None = None,
        start_extra_workers: StartExtraWorkers | None = None,
        wakeups: asyncio.Event | None = None,
        renew_outside: Callable[[Sequence[ReportItem], str, str], None] | None = None,
        stopping: asyncio.Event | None = None,
        draining: asyncio.Event | None = None,
        is_last: bool = False,
        channel: Channel | None = None,
    ) -> None:
        self._queue = queue
        self._registry = registry
        self._options = options or TickOptions()
        self._clock = clock or SystemClock()
        self._job_types = _known(registry, job_types)
        self._wakeups = wakeups
        self._stopping = stopping
        #: Set when another run takes over: nothing more is leased, what runs is brought to its end.
        self._draining = draining
        self._renew_outside = renew_outside
        #: No other run is admitted beside this one: it looks for new work while it waits, too.
        self._is_last = is_last
        #: To the process that supervises this one.
        self._channel = channel
        self.tick_id = str(uuid.uuid4())
        self.worker_id = worker_id
        self.summary = TickSummary(worker_id=worker_id, tick_id=self.tick_id)
        #: The first hundred queue waits and run times, for metrics.
        self.wait_ms: list[float] = []
        self.run_ms: list[float] = []
        self._runs = 0
        self._running: dict[LeaseKey, Attempt] = {}
        self._settling: dict[LeaseKey, Attempt] = {}
        self._ended: list[Attempt] = []
        self._unstarted: list[SettleItem] = []
        self._pulse = asyncio.Event()
        self._woken = False
        self._looked_back = False
        self._deadlines = Deadlines.until(self._clock.monotonic(), budget_seconds)
        self._reporter = Reporter(
            queue,
            self._running,
            worker_id=worker_id,
            tick_id=self.tick_id,
            clock=self._clock,
            interval=self._options.report_seconds,
            settling=self._settling,
        )
        self._settler = Settler(
            queue,
            self.summary,
            self._deadlines,
            clock=self._clock,
            is_stopping=self._is_stopping,
        )
        self._lease_requests = LeaseRequests(
            queue,
            self.summary,
            self._deadlines,
            options=self._options,
            clock=self._clock,
            job_types=self._job_types,
            queues=queues,
            is_woken=wakeups is not None,
        )
        self._extra_workers = ExtraWorkers(
            fan_out,
            start_extra_workers,
            summary=self.summary,
            deadlines=self._deadlines,
            clock=self._clock,
            slots=self._options.concurrency,
        )
        self._maintenance = Maintenance(
            queue,
            self.summary,
            self._deadlines,
            clock=self._clock,
            is_busy=lambda: bool(self._running),
            on_done=self._maintained,
        )
        self._watchdog: Watchdog | None = None
        self._publishing = Publishing(
            registry.publishers, self._published, extra=self._extra, clock=self._clock
        )

    async def run(self) -> TickSummary:
        """Do the tick's work and return what it did.

        Raises:
            QueueUnavailable: The database did not answer the very first call; nothing began.
        """
        level = logging.DEBUG if self._options.quiet else logging.INFO
        logger.log(level, "Starting job execution", extra=self._extra("tick.started"))
        async with self._machinery():
            await self._publishing.once()
            await self._lease_first(level)
            await self._maybe_fan_out()
            while await self._turn():
                pass
        await self._report_end()
        self._finish_summary()
        logger.log(
            logging.INFO if self.summary.is_worth_reporting else level,
            "Execution completed in %d ms",
            round(self.summary.duration_ms),
            extra=self._extra("tick.completed") | {"summary": self.summary.as_dict()},
        )
        return self.summary

    # The loop ---------------------------------------------------------------------------------

    async def _turn(self) -> bool:
        """Wait for something to happen and act on it; False when the tick is over."""
        if self._clock.monotonic() >= self._deadlines.end:
            self._give_up_the_rest()
            return False
        if not self._ended and not self._unstarted:
            if not self._running and not self._worth_staying():
                return False
            await self._until_something_happens()
        now = self._clock.monotonic()
        if now >= self._deadlines.stop_leasing and not self._looked_back:
            self._looked_back = True
            await self._look_back()
        if now >= self._deadlines.stop_working or self._is_stopping():
            self._stop_all()
        if self._ended or self._unstarted:
            # one turn of the loop, so that what ends together is settled together
            await asyncio.sleep(0)
            await self._settle()
        elif self._should_ask(now):
            await self._lease_more()
        return True

    async def _until_something_happens(self) -> None:
        now = self._clock.monotonic()
        # once everything was cancelled, check now and then until it has stopped
        told_to_stop = now >= self._deadlines.stop_working or self._is_stopping()
        until = [
            min(self._deadlines.end, now + 0.25) if told_to_stop else self._deadlines.stop_working
        ]
        if not self._looked_back:
            until.append(max(now, self._deadlines.stop_leasing))
        if self._may_lease(now):
            if self._polls:
                until.append(self._lease_requests.polled_at + self._options.poll_seconds)
            if self._lease_requests.next_due_at is not None:
                until.append(self._lease_requests.next_due_at)
        timeout = min(until) - now
        if timeout > 0:
            try:
                async with asyncio.timeout(None if math.isinf(timeout) else timeout):
                    await self._pulse.wait()
            except TimeoutError:
                return
        self._pulse.clear()

    @property
    def _polls(self) -> bool:
        """Whether it looks for new work now and then, beside what runs or in place of others."""
        return bool(self._running) or self._is_last

    def _may_lease(self, now: float) -> bool:
        return (
            now < self._deadlines.stop_leasing
            and self._free_slots() > 0
            and not self._is_stopping()
            and not self._is_draining()
            and bool(self._job_types)
        )

    def _should_ask(self, now: float) -> bool:
        if not self._may_lease(now):
            return False
        if self._woken or self._lease_requests.next_due_by(now):
            return True
        return self._polls and now >= self._lease_requests.polled_at + self._options.poll_seconds

    def _worth_staying(self) -> bool:
        """Whether to wait for work that falls due soon, or that was just announced."""
        now = self._clock.monotonic()
        if not self._may_lease(now):
            return False
        if self._woken or self._maintenance.is_wanted or self._lease_requests.is_due_now:
            return True
        if self._lease_requests.owes_a_look:
            return True
        next_due_at = self._lease_requests.next_due_at
        if next_due_at is None or next_due_at >= self._deadlines.stop_leasing:
            return False
        return next_due_at <= now + self._options.linger_seconds

    def _free_slots(self) -> int:
        return self._options.concurrency - len(self._running)

    def _is_stopping(self) -> bool:
        return self._stopping is not None and self._stopping.is_set()

    def _is_draining(self) -> bool:
        return self._draining is not None and self._draining.is_set()

    def _stop_all(self) -> None:
        for attempt in list(self._running.values()):
            if attempt.stop_reason is not None:
                continue
            if self._is_stopping():
                attempt.stop("shutdown", grace_seconds=min(self._options.grace_seconds, 2.0))
            else:
                attempt.stop("deadline")

    # Leasing ----------------------------------------------------------------------------------

    def _request(self, *, staying: bool, count_due: bool | None = None) -> LeaseRequest:
        self._woken = False
        return self._lease_requests.request(
            free_slots=self._free_slots(), staying=staying, count_due=count_due
        )

    async def _lease_first(self, level: int) -> None:
        sent_at = self._clock.monotonic()
        request = self._request(staying=False)
        if not self._may_lease(sent_at):
            request = request.model_copy(update={"limit": 0})
        response = await self._lease_requests.ask(request)
        self._take(response, sent_at, level=level)

    async def _lease_more(self) -> None:
        sent_at = self._clock.monotonic()
        try:
            response = await self._lease_requests.ask(self._request(staying=bool(self._running)))
        except QueueUnavailable as error:
            self._note("Lease did not get through; it is repeated", "lease.unavailable", error)
            self._lease_requests.put_off(self._options.poll_seconds)
            return
        except QueueError as error:
            # what runs continues and is settled; only nothing new begins for a while
            self._note("Lease was refused", "lease.refused", error)
            self._lease_requests.refused()
            return
        self._take(response, sent_at)

    def _take(self, response: LeaseResponse, sent_at: float, *, level: int = logging.DEBUG) -> None:
        now = self._clock.monotonic()
        self._lease_requests.note_answer(response)
        if response.maintenance:
            self._maintenance.request()
        found = len(response.leases)
        logger.log(
            logging.INFO if found else level,
            "Found %d pending job(s)",
            found,
            extra=self._extra("tick.leased") | {"due": response.due},
        )
        for broken in response.unreadable:
            self._refuse(broken)
        for lease in response.leases:
            if (lease.job.id, lease.fence) in self._running:
                continue  # a repeated answer
            self._stop_earlier(lease)
            self.summary.leased += 1
            if now >= self._deadlines.stop_working:
                self._unstarted.append(
                    SettleItem(job_id=lease.job.id, fence=lease.fence, outcome="released")
                )
                continue
            attempt = Attempt(
                lease,
                self._registry.find(lease.job.job_type),
                clock=self._clock,
                sent_at=sent_at,
                work_until=self._deadlines.stop_working,
                had_fair_time=self._deadlines.had_fair_time(now, self._options.usual_seconds),
                queue=self._queue,
                on_news=self._reporter.announce,
                on_end=self._attempt_ended,
                grace_seconds=self._grace(now),
            )
            if len(self.wait_ms) < 100:
                self.wait_ms.append(round(lease.queued_seconds * 1000, 1))
            self._running[attempt.key] = attempt
            attempt.company = len(self._running)
            logger.info(
                "Processing job %s (type: %s)",
                attempt.job_id,
                attempt.job_type,
                extra=self._extra("attempt.started")
                | {
                    "job_id": attempt.job_id,
                    "job_type": attempt.job_type,
                    "attempt": lease.job.attempts,
                    "queue": lease.job.queue,
                },
            )
            if self._channel is not None:
                self._channel.began(attempt)
            attempt.start()
        if response.leases:
            if self._watchdog is not None:
                self._watchdog.start()
            self._reporter.announce()

    def _stop_earlier(self, lease: Lease) -> None:
        """Stop an attempt of the same job: its lease was taken back before this one was given."""
        for attempt in self._running.values():
            if attempt.job_id == lease.job.id:
                attempt.stop("lost")

    def _refuse(self, lease: UnreadableLease) -> None:
        """Make a job that this worker cannot read a dead letter, to be redriven once it can."""
        logger.error(
            "Job %s cannot be read: %s",
            lease.job_id,
            lease.problem,
            extra=self._extra("lease.unreadable") | {"job_id": lease.job_id},
        )
        self.summary.leased += 1
        self._unstarted.append(
            SettleItem(
                job_id=lease.job_id,
                fence=lease.fence,
                outcome="failed",
                error=ErrorInfo(type="LeaseUnreadable", message=lease.problem),
            )
        )

    def _grace(self, now: float) -> float:
        """Time to stop in, but never past the tick's own end."""
        if math.isinf(self._deadlines.end):
            return self._options.grace_seconds
        room = (self._deadlines.end - self._deadlines.stop_working) * 0.6
        return max(0.05, min(self._options.grace_seconds, room))

    # Settling ---------------------------------------------------------------------------------

    def _attempt_ended(self, attempt: Attempt) -> None:
        if self._channel is not None:
            self._channel.ended(attempt)
        self._ended.append(attempt)
        self._pulse.set()

    async def _settle(self) -> None:
        """Settle what has ended and fill its slots, in one round trip."""
        now = self._clock.monotonic()
        deadline = now + max(0.0, min(2.0, (self._deadlines.end - now) / 3))
        # their updates are in flight; if they are lost, the settle carries them
        while now < deadline and any(attempt.reporting for attempt in self._ended):
            await self._reporter.wait_idle(seconds=deadline - now)
            now = self._clock.monotonic()
        ended, self._ended = self._ended, []
        items, self._unstarted = self._unstarted, []
        for attempt in ended:
            company = (attempt.company + len(self._running)) / 2
            self._running.pop(attempt.key, None)
            share = attempt.duration_seconds * self._options.usd_per_second / company
            item = attempt.settlement(cost_usd=share)
            if item is None:
                self.summary.lost += 1
            else:
                items.append(item)
                if len(self.run_ms) < 100:
                    self.run_ms.append(item.duration_ms or 0.0)
            self._runs += 1
            self.summary.busy_ms += attempt.duration_seconds * 1000
        attempts = {attempt.key: attempt for attempt in ended}
        sent_at = self._clock.monotonic()
        lease = None
        if self._may_lease(sent_at):
            lease = self._request(staying=bool(self._running))
        if items:
            self._settling.update(attempts)
            try:
                answer = await self._settler.settle(items, attempts, lease)
            finally:
                self._settling.clear()
            if answer is not None:
                self._take(answer, sent_at)
                await self._maybe_fan_out()
                return
        if lease is not None:
            await self._lease_more()

    # Around -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _machinery(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(self._reporter.run(), name="reporter"),
            loop.create_task(self._maintenance.run(), name="maintenance"),
        ]
        # what leases new work, and ends when another run takes over
        looking: list[asyncio.Task[None]] = []
        if self._wakeups is not None:
            looking.append(loop.create_task(self._listen(self._wakeups), name="wakeups"))
        if self._registry.publishers:
            looking.append(loop.create_task(self._publishing.run(), name="publishing"))
        tasks += looking
        if self._draining is not None:
            drained = self._await_drain(self._draining, looking)
            tasks.append(loop.create_task(drained, name="draining"))
        if self._stopping is not None:
            tasks.append(loop.create_task(self._await_stop(self._stopping), name="stopping"))
        self._watchdog = Watchdog(
            loop,
            renew=self._renew_all if self._renew_outside else None,
            renew_after=self._options.renew_outside_seconds,
            running=lambda: [(at.job_id, at.job_type) for at in tuple(self._running.values())],
        )
        # by a timer of its own: the deadline must work while a call hangs
        deadline = None
        if not math.isinf(self._deadlines.stop_working):
            left = self._deadlines.stop_working - self._clock.monotonic()
            deadline = loop.call_later(max(0.0, left), self._deadline_reached)
        with contained(loop):
            try:
                yield
            finally:
                self._watchdog.stop()
                if deadline is not None:
                    deadline.cancel()
                await end_tasks(tasks)
                for attempt in list(self._running.values()):
                    attempt.stop("lost")

    def _deadline_reached(self) -> None:
        self._stop_all()
        self._pulse.set()

    def _give_up_the_rest(self) -> None:
        """The time is over: what has not ended or could not be settled runs again elsewhere."""
        left = list(self._running.values())
        if not left:
            return
        self.summary.lost += len(left)
        self.summary.error = f"the tick's time ran out with {len(left)} job(s) unsettled"
        logger.error(
            "Time ran out before every job was settled",
            extra=self._extra("tick.overtime")
            | {"job_ids": [attempt.job_id for attempt in left[:20]]},
        )

    async def _listen(self, wakeups: asyncio.Event) -> None:
        while True:
            await wakeups.wait()
            wakeups.clear()
            try:
                await self._publishing.once()
            except asyncio.CancelledError:
                wakeups.set()  # this run has ended or leases no more: the next one looks
                raise
            self._published()

    def _published(self) -> None:
        """Look for work: there is some, or someone says so."""
        self._woken = True
        self._pulse.set()

    def _maintained(self, moved: bool) -> None:
        """Maintenance is done: lease what it made ready, and decide whether to stay."""
        self._woken = self._woken or moved
        self._pulse.set()

    async def _await_stop(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._pulse.set()

    async def _await_drain(
        self, draining: asyncio.Event, looking: Sequence[asyncio.Task[None]]
    ) -> None:
        await draining.wait()
        for task in looking:
            task.cancel()
        self._pulse.set()

    def _renew_all(self) -> None:
        """Called in the watchdog's thread while the loop is blocked."""
        if self._renew_outside is None:
            return
        now = self._clock.monotonic()
        known = (*tuple(self._running.values()), *tuple(self._settling.values()))
        held = [attempt for attempt in known if attempt.stop_reason != "lost"]
        if not held:
            return
        items = [ReportItem(job_id=attempt.job_id, fence=attempt.fence) for attempt in held]
        self._renew_outside(items, self.worker_id, self.tick_id)
        for attempt in held:
            attempt.renewed(now)

    async def _look_back(self) -> None:
        """Lease no more: hand a backlog to extra workers instead of to the next minute."""
        if not self._extra_workers.can_start or self._lease_requests.due == 0:
            return
        if self._lease_requests.unanswered is not None:
            return  # no time for a queue that is unavailable
        request = self._request(staying=False, count_due=True).model_copy(update={"limit": 0})
        until = self._clock.monotonic() + SIDE_CALL_SECONDS
        try:
            response = await self._lease_requests.ask(request, until=until)
        except QueueUnavailable as error:
            self._note("Backlog could not be counted", "tick.uncounted", error)
            return
        self._lease_requests.due = response.due
        await self._extra_workers.for_the_rest(response.due, runs=self._runs)

    async def _maybe_fan_out(self) -> None:
        await self._extra_workers.for_backlog(self._lease_requests.due, runs=self._runs)

    async def _report_end(self) -> None:
        """Leave the summary behind, unless the tick found nothing: idle is one query."""
        self._finish_summary()
        if not self.summary.is_worth_reporting:
            return
        now = self._clock.monotonic()
        # under the id that was last seen with free slots: enqueues count on it for two seconds more
        call = self._queue.tick_finished(
            tick_id=self._lease_requests.lease_id,
            worker_id=self.worker_id,
            summary=self.summary.as_dict(),
        )
        try:
            await in_time(call, min(now + SIDE_CALL_SECONDS, self._deadlines.end), self._clock)
        except QueueError as error:
            self._note("Tick's summary was not stored", "tick.goodbye_failed", error)

    def _finish_summary(self) -> None:
        self.summary.duration_ms = round(
            (self._clock.monotonic() - self._deadlines.start) * 1000, 1
        )
        self.summary.due_left = self._lease_requests.due
        self.summary.reports = self._reporter.reports

    def _note(self, message: str, event: str, error: QueueError) -> None:
        logger.warning(message, extra=self._extra(event) | {"error": str(error)})

    def _extra(self, event: str) -> dict[str, Any]:
        return {"event": event, "worker_id": self.worker_id, "tick_id": self.tick_id}


def _known(registry: Registry, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The job types to ask for: only such as this version has processors for."""
    if wanted is None:
        return registry.names
    return tuple(sorted({name for name in wanted if name in registry}))
