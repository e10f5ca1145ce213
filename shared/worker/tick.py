"""One bounded run of the worker: reclaim and lease, run, report, settle, fan out, and end in time.

The worker knows no application and no cloud; waking and starting siblings are injected.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from shared.clock import Clock, SystemClock
from shared.queue.errors import QueueError, QueueUnavailable
from shared.queue.models import (
    ErrorInfo,
    JobId,
    LeaseRequest,
    LeaseResponse,
    NewJob,
    ReportItem,
    SettleItem,
    SettleResult,
)
from shared.queue.worker_client import WorkerQueue
from shared.worker.attempt import Attempt
from shared.worker.containment import contained
from shared.worker.fanout import FanOut, StartSiblings
from shared.worker.registry import Registry
from shared.worker.reporter import Reporter
from shared.worker.summary import TickSummary
from shared.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TickOptions:
    """How a tick behaves; the defaults suit a Lambda function.

    Attributes:
        concurrency: Most jobs running at once in this tick.
        lease_seconds: Length of leases whose type does not say; None leaves it to the database.
        poll_seconds: How often a tick with running jobs and free slots asks for more.
        linger_seconds: Work due within this time is slept for instead of left to the next tick.
        report_seconds: Least time between two reports.
        quiet: Log an empty tick at DEBUG; for loops that tick often.
        grace_seconds: How long a processor that was told to stop may take.
        usd_per_second: What a second of this worker costs, shared by the jobs that run in it; an
            estimate for the job's `cost_usd`. 0 estimates nothing.
    """

    concurrency: int = 5
    lease_seconds: float | None = None
    poll_seconds: float = 0.5
    linger_seconds: float = 55.0
    report_seconds: float = 0.25
    quiet: bool = False
    grace_seconds: float = Attempt.GRACE_SECONDS
    version: str = "0.1.0"
    usd_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Moments:
    """The tick's turning points, on the steady clock."""

    start: float
    #: Nothing is leased from here on.
    stop_leasing: float
    #: Whatever still runs is stopped here.
    stop_working: float
    #: The last settle must be through by now.
    end: float

    @classmethod
    def until(cls, start: float, budget: float) -> Moments:
        """The moments of a tick that has `budget` seconds; infinite for a loop without deadline."""
        if math.isinf(budget):
            return cls(start, budget, budget, budget)
        end = start + budget
        return cls(
            start=start,
            stop_leasing=end - min(10.0, max(0.2 * budget, min(1.0, 0.5 * budget))),
            stop_working=end - min(3.0, max(0.1 * budget, min(0.5, 0.3 * budget))),
            end=end - min(0.3, 0.05 * budget),
        )

    def had_fair_time(self, now: float) -> bool:
        """Whether a job that begins now gets at least half of a whole tick's working time."""
        if math.isinf(self.stop_working):
            return True
        return self.stop_working - now >= 0.5 * (self.stop_working - self.start)


class Tick:
    """One run; make it, `run` it, and read its summary. Not to be used twice."""

    #: Most items in one settle call.
    SETTLE_BATCH = 100

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
        start_siblings: StartSiblings | None = None,
        wakeups: asyncio.Event | None = None,
        renew_outside: Callable[[Sequence[ReportItem], str, str], None] | None = None,
        stopping: asyncio.Event | None = None,
    ) -> None:
        self._queue = queue
        self._registry = registry
        self._options = options or TickOptions()
        self._clock = clock or SystemClock()
        self._budget = budget_seconds
        self._job_types = _known(registry, job_types)
        self._queues = tuple(queues) if queues is not None else None
        self._fan_out = fan_out
        self._start_siblings = start_siblings
        self._wakeups = wakeups
        self._stopping = stopping
        self._renew_outside = renew_outside
        self.tick_id = str(uuid.uuid4())
        self.worker_id = worker_id
        self.summary = TickSummary(worker_id=worker_id, tick_id=self.tick_id)
        self.wait_ms: list[float] = []
        self.run_ms: list[float] = []
        self._running: dict[JobId, Attempt] = {}
        self._ended: list[Attempt] = []
        self._unstarted: list[SettleItem] = []
        self._pulse = asyncio.Event()
        self._woken = False
        self._call = 0
        self._next_due_at: float | None = None
        self._polled_at = float("-inf")
        self._due = 0
        self._vain = 0
        self._looked_back = False
        self._moments = Moments.until(self._clock.monotonic(), budget_seconds)
        self._reporter = Reporter(
            queue,
            self._running,
            worker_id=worker_id,
            tick_id=self.tick_id,
            clock=self._clock,
            interval=self._options.report_seconds,
        )
        self._watchdog: Watchdog | None = None

    async def run(self) -> TickSummary:
        """Do the tick's work and return what it did.

        Raises:
            QueueUnavailable: The database did not answer the very first call; nothing began.
        """
        level = logging.DEBUG if self._options.quiet else logging.INFO
        logger.log(level, "Starting job execution", extra=self._extra("tick.started"))
        async with self._machinery():
            await self._lease_first(level)
            await self._maybe_fan_out()
            while await self._turn():
                pass
        await self._say_goodbye()
        self._finish_summary()
        logger.log(
            logging.INFO if self.summary.did_something else level,
            "Execution completed in %d ms",
            round(self.summary.duration_ms),
            extra=self._extra("tick.completed") | {"summary": self.summary.as_dict()},
        )
        return self.summary

    # The loop ---------------------------------------------------------------------------------

    async def _turn(self) -> bool:
        """Wait for something to happen and act on it; False when the tick is over."""
        if not self._ended and not self._unstarted:
            if not self._running and not self._worth_staying():
                return False
            await self._until_something_happens()
        now = self._clock.monotonic()
        if now >= self._moments.stop_leasing and not self._looked_back:
            self._looked_back = True
            await self._look_back()
        if now >= self._moments.stop_working or self._is_stopping():
            self._stop_all()
        if self._ended or self._unstarted:
            # one turn of the loop, so that what ends together is settled together
            await asyncio.sleep(0)
            await self._settle()
        elif self._should_ask(now):
            await self._lease_more()
        return True

    async def _until_something_happens(self) -> None:
        if self._pulse.is_set():
            self._pulse.clear()
            return
        now = self._clock.monotonic()
        # once everything was told to stop, look again now and then until it has
        told_to_stop = now >= self._moments.stop_working or self._is_stopping()
        until = [now + 0.25 if told_to_stop else self._moments.stop_working]
        if not self._looked_back:
            until.append(max(now, self._moments.stop_leasing))
        if self._may_lease(now):
            if self._running:
                until.append(self._polled_at + self._options.poll_seconds)
            if self._next_due_at is not None:
                until.append(self._next_due_at)
        timeout = min(until) - now
        if timeout > 0:
            try:
                async with asyncio.timeout(None if math.isinf(timeout) else timeout):
                    await self._pulse.wait()
            except TimeoutError:
                return
        self._pulse.clear()

    def _may_lease(self, now: float) -> bool:
        return (
            now < self._moments.stop_leasing
            and self._free_slots() > 0
            and not self._is_stopping()
            and bool(self._job_types)
        )

    def _should_ask(self, now: float) -> bool:
        if not self._may_lease(now):
            return False
        if self._woken or (self._next_due_at is not None and now >= self._next_due_at):
            return True
        return bool(self._running) and now >= self._polled_at + self._options.poll_seconds

    def _worth_staying(self) -> bool:
        """Whether to wait for work that falls due soon, or that we were just told about."""
        now = self._clock.monotonic()
        if not self._may_lease(now):
            return False
        if self._woken:
            return True
        if self._next_due_at is None or self._next_due_at >= self._moments.stop_leasing:
            return False
        return self._next_due_at <= now + self._options.linger_seconds

    def _free_slots(self) -> int:
        return self._options.concurrency - len(self._running)

    def _is_stopping(self) -> bool:
        return self._stopping is not None and self._stopping.is_set()

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
        now = self._clock.monotonic()
        self._call += 1
        self._polled_at = now
        self._woken = False
        left = self._moments.stop_working - now
        free = self._free_slots()
        return LeaseRequest(
            worker_id=self.worker_id,
            tick_id=self.tick_id,
            call=self._call,
            limit=max(0, free),
            job_types=self._job_types,
            queues=self._queues,
            lease_seconds=self._options.lease_seconds,
            budget_ms=None if math.isinf(left) else max(0, int(left * 1000)),
            version=self._options.version,
            # None lets the database count what is left; 0 keeps enqueues waking somebody, for a
            # tick that may be about to leave, or that is woken itself
            free_slots=None if staying and self._wakeups is None else 0,
            count_due=count_due,
        )

    async def _lease_first(self, level: int) -> None:
        sent_at = self._clock.monotonic()
        request = self._request(staying=False)
        if not self._may_lease(sent_at):
            request = request.model_copy(update={"limit": 0})
        response = await self._queue.lease(request)
        self._take(response, sent_at, level=level)

    async def _lease_more(self) -> None:
        sent_at = self._clock.monotonic()
        try:
            response = await self._queue.lease(self._request(staying=bool(self._running)))
        except QueueUnavailable as error:
            self._note_unavailable("Lease did not get through", error)
            self._next_due_at = self._clock.monotonic() + self._options.poll_seconds
            return
        self._take(response, sent_at)

    def _take(self, response: LeaseResponse, sent_at: float, *, level: int = logging.DEBUG) -> None:
        now = self._clock.monotonic()
        self.summary.reclaimed += response.reclaimed
        self.summary.promoted += response.promoted
        self._due = response.due
        self._next_due_at = None
        if response.next_due_in_ms is not None:
            # what is due but never comes, e.g. because its row is locked, is asked for ever less
            self._vain = 0 if response.leases else min(8, self._vain + 1)
            pause = max(response.next_due_in_ms / 1000, 0.01 * 2**self._vain)
            self._next_due_at = now + pause
        self.summary.next_due_in_ms = response.next_due_in_ms
        found = len(response.leases)
        logger.log(
            logging.INFO if found else level,
            "Found %d pending job(s)",
            found,
            extra=self._extra("tick.leased") | {"due": response.due},
        )
        for lease in response.leases:
            if lease.job.id in self._running:
                continue  # a repeated answer
            self.summary.leased += 1
            if now >= self._moments.stop_working:
                self._unstarted.append(
                    SettleItem(job_id=lease.job.id, fence=lease.fence, outcome="released")
                )
                continue
            wait = (self._clock.now() - lease.job.created_at).total_seconds() * 1000
            if lease.job.attempts == 1 and len(self.wait_ms) < 100:
                self.wait_ms.append(max(0.0, round(wait, 1)))
            attempt = Attempt(
                lease,
                self._registry.find(lease.job.job_type),
                clock=self._clock,
                sent_at=sent_at,
                work_until=self._moments.stop_working,
                had_fair_time=self._moments.had_fair_time(now),
                spawn=self._spawn,
                on_news=self._reporter.announce,
                on_end=self._attempt_ended,
                grace_seconds=self._grace(now),
            )
            self._running[attempt.job_id] = attempt
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
            attempt.start()
        if response.leases:
            if self._watchdog is not None:
                self._watchdog.start()
            self._reporter.announce()

    def _grace(self, now: float) -> float:
        """Time to stop in, but never past the tick's own end."""
        if math.isinf(self._moments.end):
            return self._options.grace_seconds
        room = (self._moments.end - self._moments.stop_working) * 0.6
        return max(0.05, min(self._options.grace_seconds, room))

    async def _spawn(
        self, job_id: JobId, fence: int, name: str, children: Sequence[NewJob]
    ) -> list[JobId]:
        return await self._queue.spawn(job_id, fence, name, children)

    # Settling ---------------------------------------------------------------------------------

    def _attempt_ended(self, attempt: Attempt) -> None:
        self._ended.append(attempt)
        self._pulse.set()

    async def _settle(self) -> None:
        """Settle what has ended and fill its slots, in one round trip."""
        if any(attempt.reporting for attempt in self._ended):
            # its news is on its way; if it gets lost there, the settle has to carry it
            await self._reporter.settled_down()
        ended, self._ended = self._ended, []
        items, self._unstarted = self._unstarted, []
        for attempt in ended:
            company = (attempt.company + len(self._running)) / 2
            self._running.pop(attempt.job_id, None)
            share = attempt.duration_seconds * self._options.usd_per_second / max(1.0, company)
            item = attempt.settlement(cost_usd=share)
            if item is None:
                self.summary.lost += 1
            else:
                items.append(item)
                self.run_ms.append(item.duration_ms or 0.0)
            self.summary.busy_ms += attempt.duration_seconds * 1000
        attempts = {attempt.job_id: attempt for attempt in ended}
        for start in range(0, len(items), self.SETTLE_BATCH):
            batch = items[start : start + self.SETTLE_BATCH]
            last = start + self.SETTLE_BATCH >= len(items)
            await self._settle_batch(batch, attempts, with_lease=last)
        if not items:
            await self._refill()

    async def _refill(self) -> None:
        if self._may_lease(self._clock.monotonic()):
            await self._lease_more()

    async def _settle_batch(
        self, items: list[SettleItem], attempts: dict[JobId, Attempt], *, with_lease: bool
    ) -> None:
        sent_at = self._clock.monotonic()
        lease = None
        if with_lease and self._may_lease(sent_at):
            lease = self._request(staying=bool(self._running))
        try:
            response = await self._until_through(items, lease)
        except QueueUnavailable as error:
            # the leases lapse and the jobs run again: at least once, as promised
            self._note_unavailable("Settle did not get through before the end", error)
            self.summary.lost += len(items)
            return
        except QueueError as error:
            await self._settle_apart(items, attempts, error)
            if lease is not None:
                await self._refill()
            return
        self._note_settled(items, response.results, attempts)
        if response.lease is not None:
            self._take(response.lease, sent_at)
            await self._maybe_fan_out()

    async def _until_through(self, items: list[SettleItem], lease: LeaseRequest | None) -> Any:
        """Settle, and go on trying while the queue is away and there is time."""
        while True:
            left = self._moments.end - self._clock.monotonic()
            try:
                async with asyncio.timeout(None if math.isinf(left) else max(0.2, left)):
                    return await self._queue.settle(
                        items, worker_id=self.worker_id, tick_id=self.tick_id, lease=lease
                    )
            except TimeoutError as error:
                raise QueueUnavailable("the tick's time was over before the settle") from error
            except QueueUnavailable as error:
                if self._clock.monotonic() >= self._moments.end or self._is_stopping():
                    raise
                self._note_unavailable("Settle is repeated", error)
                await asyncio.sleep(0.5)

    async def _settle_apart(
        self, items: list[SettleItem], attempts: dict[JobId, Attempt], error: QueueError
    ) -> None:
        """One item was refused and the batch with it: settle them alone."""
        if len(items) > 1:
            logger.warning(
                "Settle was refused; its jobs are settled one by one",
                extra=self._extra("settle.refused") | {"jobs": len(items), "error": str(error)},
            )
        for item in items:
            for candidate in (item, _rejected(item, error)):
                try:
                    response = await self._until_through([candidate], None)
                except QueueUnavailable as unavailable:
                    self._note_unavailable("Settle did not get through", unavailable)
                    self.summary.lost += 1
                    break
                except QueueError as refusal:
                    logger.error(
                        "Settle of a job was refused",
                        extra=self._extra("settle.failed")
                        | {
                            "job_id": item.job_id,
                            "outcome": candidate.outcome,
                            "error": str(refusal),
                        },
                    )
                    continue
                self._note_settled([candidate], response.results, attempts)
                break

    def _note_settled(
        self,
        items: Sequence[SettleItem],
        results: Sequence[SettleResult],
        attempts: dict[JobId, Attempt],
    ) -> None:
        told = {(result.job_id, result.fence): result for result in results}
        for item in items:
            result = told.get((item.job_id, item.fence))
            outcome = "stale" if result is None else result.outcome
            if outcome == "applied":
                self.summary.count(item.outcome)
            elif outcome == "cancelled":
                self.summary.cancelled += 1
            else:
                self.summary.lost += 1
            attempt = attempts.get(item.job_id)
            if attempt is not None:
                self._log_attempt(attempt, item, outcome, result)

    def _log_attempt(
        self, attempt: Attempt, item: SettleItem, told: str, result: SettleResult | None
    ) -> None:
        """The one line per attempt that holds everything about it."""
        status = result.status if result is not None else None
        extra = self._extra("attempt.settled") | {
            "job_id": attempt.job_id,
            "job_type": attempt.job_type,
            "queue": attempt.lease.job.queue,
            "workspace_id": attempt.lease.job.workspace_id,
            "attempt": attempt.lease.job.attempts,
            "fence": attempt.fence,
            "outcome": item.outcome,
            "settled": told,
            "status": status,
            "duration_ms": item.duration_ms,
            "traceparent": attempt.context.traceparent,
        }
        if item.outcome == "completed" and told == "applied":
            logger.info("Job %s completed successfully", attempt.job_id, extra=extra)
            return
        if item.error is not None:
            extra |= {"error_type": item.error.type, "error": item.error.message}
        if told in {"stale", "not_found"}:
            logger.warning("Job %s was settled by another worker", attempt.job_id, extra=extra)
        elif item.outcome == "failed" or status == "failed":
            logger.error(
                "Job %s failed for good", attempt.job_id, extra=extra, exc_info=_raised(attempt)
            )
        elif item.outcome == "retry":
            logger.warning(
                "Job %s failed and is retried",
                attempt.job_id,
                extra=extra,
                exc_info=_raised(attempt),
            )
        else:
            logger.info("Job %s left as %s", attempt.job_id, item.outcome, extra=extra)

    # Around -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _machinery(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._reporter.run(), name="reporter")]
        if self._wakeups is not None:
            tasks.append(loop.create_task(self._listen(self._wakeups), name="wakeups"))
        if self._stopping is not None:
            tasks.append(loop.create_task(self._await_stop(self._stopping), name="stopping"))
        self._watchdog = Watchdog(loop, renew=self._renew_all if self._renew_outside else None)
        with contained(loop):
            try:
                yield
            finally:
                self._watchdog.stop()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for attempt in list(self._running.values()):
                    attempt.stop("lost")

    async def _listen(self, wakeups: asyncio.Event) -> None:
        while True:
            await wakeups.wait()
            wakeups.clear()
            self._woken = True
            self._pulse.set()

    async def _await_stop(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._pulse.set()

    def _renew_all(self) -> None:
        """Called in the watchdog's thread while the loop stands still."""
        if self._renew_outside is None:
            return
        now = self._clock.monotonic()
        held = [attempt for attempt in tuple(self._running.values()) if attempt.ending is None]
        if not held:
            return
        items = [ReportItem(job_id=attempt.job_id, fence=attempt.fence) for attempt in held]
        self._renew_outside(items, self.worker_id, self.tick_id)
        for attempt in held:
            attempt.renewed(now)

    async def _look_back(self) -> None:
        """No more leasing from here: hand a backlog to siblings instead of to the next minute."""
        if self._fan_out is None or self._start_siblings is None or self._due == 0:
            return
        try:
            request = self._request(staying=False, count_due=True).model_copy(update={"limit": 0})
            response = await self._queue.lease(request)
        except QueueUnavailable as error:
            self._note_unavailable("Backlog could not be counted", error)
            return
        self._due = response.due
        if self._due > 0:
            await self._fan_out_by(max(1, self._siblings_wanted()))

    def _siblings_wanted(self) -> int:
        if self._fan_out is None:
            return 0
        mean = sum(self.run_ms) / len(self.run_ms) / 1000 if self.run_ms else None
        return self._fan_out.siblings(
            due=self._due,
            slots=self._options.concurrency,
            seconds_left=self._moments.stop_leasing - self._clock.monotonic(),
            mean_seconds=mean,
        )

    async def _maybe_fan_out(self) -> None:
        """Once per tick, when it sees more than it can carry."""
        if self._fan_out is None or self._start_siblings is None or self.summary.siblings:
            return
        await self._fan_out_by(self._siblings_wanted())

    async def _fan_out_by(self, wanted: int) -> None:
        if wanted < 1 or self._start_siblings is None:
            return
        accepted = await self._start_siblings(wanted)
        self.summary.siblings += accepted
        logger.info(
            "Started sibling workers",
            extra=self._extra("tick.fanned_out")
            | {"wanted": wanted, "accepted": accepted, "due": self._due},
        )

    async def _say_goodbye(self) -> None:
        """Leave the summary behind, unless the tick found nothing: idle is one query."""
        self._finish_summary()
        if not self.summary.did_something:
            return
        try:
            await self._queue.tick_finished(
                tick_id=self.tick_id, worker_id=self.worker_id, summary=self.summary.as_dict()
            )
        except QueueError as error:
            logger.warning(
                "Tick's summary was not stored",
                extra=self._extra("tick.goodbye_failed") | {"error": str(error)},
            )

    def _finish_summary(self) -> None:
        self.summary.duration_ms = round((self._clock.monotonic() - self._moments.start) * 1000, 1)
        self.summary.due_left = self._due
        self.summary.calls = self._call
        self.summary.reports = self._reporter.reports

    def _note_unavailable(self, message: str, error: QueueError) -> None:
        self.summary.error = str(error)
        logger.warning(message, extra=self._extra("queue.unavailable") | {"error": str(error)})

    def _extra(self, event: str) -> dict[str, Any]:
        return {"event": event, "worker_id": self.worker_id, "tick_id": self.tick_id}


def _known(registry: Registry, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The job types to ask for: only such as this version has processors for."""
    if wanted is None:
        return registry.names
    return tuple(sorted({name for name in wanted if name in registry}))


def _rejected(item: SettleItem, error: QueueError) -> SettleItem:
    """The same ending without what the database may have refused."""
    keeps_outcome = item.outcome in {"released", "cancelled", "retry"}
    return SettleItem(
        job_id=item.job_id,
        fence=item.fence,
        outcome=item.outcome if keeps_outcome else "failed",
        error=ErrorInfo(
            type="SettleRejected",
            message=f"the database refused the {item.outcome}: {error}"[:2000],
        ),
        duration_ms=item.duration_ms,
    )


def _raised(attempt: Attempt) -> BaseException | None:
    return getattr(attempt.ending, "error", None)
