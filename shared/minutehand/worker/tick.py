"""One bounded run of the worker: lease, run, report, settle, start extra workers, and end in time.

Read `Tick.run` first. It knows no application and no cloud; how it is woken and how extra workers
are started is its worker's.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import math
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from minutehand.queue.errors import QueueError, QueueUnavailable
from minutehand.queue.models import Lease, LeaseRequest, LeaseResponse, SettleItem
from minutehand.tasks import end_tasks
from minutehand.worker.attempt import Attempt, LeaseKey
from minutehand.worker.beside import Maintenance, Publishing
from minutehand.worker.deadlines import SIDE_CALL_SECONDS, Deadlines, FanOut, TickOptions, in_time
from minutehand.worker.lease_requests import LeaseRequests
from minutehand.worker.reporter import Reporter
from minutehand.worker.settler import Settler
from minutehand.worker.summary import TickSummary

if TYPE_CHECKING:
    from minutehand.worker.loop import Worker

logger = logging.getLogger(__name__)


class Tick:
    """One run of a worker; make it, `run` it, and read its summary. Not to be used twice.

    Args:
        job_types: Only these; None for all that have a processor.
        fan_out: How many extra workers it may start; None for none.
        wakeups: Set by others to make it lease at once.
        is_last: No other run is admitted beside this one: it looks for new work while it waits.
    """

    #: How often the alarm for a blocked event loop is set again.
    ALARM_SECONDS = 1.0

    def __init__(
        self,
        worker: Worker,
        *,
        budget_seconds: float = math.inf,
        options: TickOptions | None = None,
        job_types: Sequence[str] | None = None,
        fan_out: FanOut | None = None,
        wakeups: asyncio.Event | None = None,
        is_last: bool = False,
    ) -> None:
        self.queue = worker.queue
        self.clock = worker.clock
        self.options = options or worker.options
        self.stopping = worker.stopping
        self.wakeups = wakeups
        self.tick_id = str(uuid.uuid4())
        self.names = {"worker_id": worker.worker_id, "tick_id": self.tick_id}
        self.summary = TickSummary(worker_id=worker.worker_id, tick_id=self.tick_id)
        #: Attempts at work, and those that have ended and are being settled.
        self.running: dict[LeaseKey, Attempt] = {}
        self.settling: dict[LeaseKey, Attempt] = {}
        self.deadlines = Deadlines.until(self.clock.monotonic(), budget_seconds)
        known = worker.registry.names
        self.job_types = tuple(name for name in known if job_types is None or name in job_types)
        self._worker = worker
        self.registry = worker.registry
        self._fan_out = fan_out
        self._is_last = is_last
        self._runs = 0
        self._ended: list[Attempt] = []
        #: Leases that never began, as they are settled.
        self._unstarted: list[SettleItem] = []
        #: Something happened that the loop acts on.
        self._pulse = asyncio.Event()
        self._woken = False
        self._looked_back = False
        self._leases = LeaseRequests(self)
        self._reporter = Reporter(self)
        self._settler = Settler(self)
        self._maintenance = Maintenance(self)
        self._publishing = Publishing(self)

    async def run(self) -> TickSummary:
        """Do the tick's work and return what it did.

        Raises:
            QueueUnavailable: The database did not answer the very first call; nothing began.
        """
        level = logging.DEBUG if self.options.quiet else logging.INFO
        logger.log(level, "Starting job execution", extra=self.extra("tick.started"))
        async with self._work_beside():
            await self._publishing.once()
            sent_at = self.clock.monotonic()
            self._take(await self._leases.ask(self._request()), sent_at, level=level)
            await self._start_extra_workers()
            while not self._is_over():
                await self._until_something_happens()
                now = self.clock.monotonic()
                if now >= self.deadlines.stop_leasing:
                    await self._look_back()
                if now >= self.deadlines.stop_working or self.stopping.is_set():
                    self._stop_all()
                if self._ended or self._unstarted:
                    # one turn of the loop, so that what ends together is settled together
                    await asyncio.sleep(0)
                    await self._settle()
                elif self._should_lease(now):
                    await self._lease_more()
        await self._report_end()
        logger.log(
            logging.INFO if self.summary.is_worth_reporting else level,
            "Execution completed in %d ms",
            round(self.summary.duration_ms),
            extra=self.extra("tick.completed") | {"summary": self.summary.as_dict()},
        )
        return self.summary

    def announce(self) -> None:
        """An attempt has something to report, or began."""
        self._reporter.announce()

    def seconds_left(self) -> float:
        """Time until its last settle must be through."""
        return self.deadlines.end - self.clock.monotonic()

    # When -------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        if self.clock.monotonic() >= self.deadlines.end:
            self._give_up_the_rest()
            return True
        return not (self._ended or self._unstarted or self.running or self._is_worth_staying())

    def _is_worth_staying(self) -> bool:
        """Whether to wait for work that falls due soon, or that was just announced."""
        now = self.clock.monotonic()
        if not self._may_lease(now):
            return False
        if self._woken or self._maintenance.is_wanted:
            return True
        if self._leases.is_due_now or self._leases.owes_a_look:
            return True
        due_at = self._leases.next_due_at
        if due_at is None or due_at >= self.deadlines.stop_leasing:
            return False
        return due_at <= now + self.options.linger_seconds

    async def _until_something_happens(self) -> None:
        if self._ended or self._unstarted:
            return
        now = self.clock.monotonic()
        # once everything was cancelled, check now and then until it has stopped
        was_stopped = now >= self.deadlines.stop_working or self.stopping.is_set()
        until = [
            min(self.deadlines.end, now + 0.25) if was_stopped else self.deadlines.stop_working
        ]
        if not self._looked_back:
            until.append(max(now, self.deadlines.stop_leasing))
        if self._may_lease(now):
            if self._polls:
                until.append(self._leases.polled_at + self.options.poll_seconds)
            if self._leases.next_due_at is not None:
                until.append(self._leases.next_due_at)
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
        return bool(self.running) or self._is_last

    def _may_lease(self, now: float) -> bool:
        return (
            now < self.deadlines.stop_leasing
            and self._free_slots() > 0
            and not self.stopping.is_set()
            and bool(self.job_types)
        )

    def _should_lease(self, now: float) -> bool:
        if not self._may_lease(now):
            return False
        if self._woken or self._leases.next_due_by(now):
            return True
        return self._polls and now >= self._leases.polled_at + self.options.poll_seconds

    def _free_slots(self) -> int:
        return self.options.concurrency - len(self.running)

    # Lease ------------------------------------------------------------------------------------

    def _request(self, *, count_due: bool | None = None) -> LeaseRequest:
        """The next request for leases; with `count_due` for none, but for the size of a backlog."""
        self._woken = False
        free = self._free_slots() if self._may_lease(self.clock.monotonic()) else 0
        return self._leases.request(
            free_slots=0 if count_due else free, staying=bool(self.running), count_due=count_due
        )

    async def _lease_more(self) -> None:
        sent_at = self.clock.monotonic()
        try:
            response = await self._leases.ask(self._request())
        except QueueUnavailable as error:
            self._warn("Lease did not get through; it is repeated", "lease.unavailable", error)
            self._leases.put_off(self.options.poll_seconds)
        except QueueError as error:
            # what runs continues and is settled; only nothing new begins for a while
            self._warn("Lease was refused", "lease.refused", error)
            self._leases.refused()
        else:
            self._take(response, sent_at)

    def _take(self, response: LeaseResponse, sent_at: float, *, level: int = logging.DEBUG) -> None:
        """Start a processor for each lease."""
        now = self.clock.monotonic()
        self._leases.note_answer(response)
        if response.maintenance:
            self._maintenance.request()
        found = len(response.leases)
        logger.log(
            logging.INFO if found else level,
            "Found %d pending job(s)",
            found,
            extra=self.extra("tick.leased") | {"due": response.due},
        )
        for lease in response.leases:
            if (lease.job.id, lease.fence) in self.running:
                continue  # a repeated answer
            for attempt in self.running.values():
                if attempt.job_id == lease.job.id:
                    attempt.stop("lost")  # its lease was taken back before this one was given
            self.summary.leased += 1
            if now >= self.deadlines.stop_working:
                self._unstarted.append(
                    SettleItem(
                        job_id=lease.job.id, fence=lease.fence, outcome="released", duration_ms=0
                    )
                )
            else:
                self._start(lease, sent_at)
        if found:
            self.announce()

    def _start(self, lease: Lease, sent_at: float) -> None:
        attempt = Attempt(self, lease, sent_at=sent_at)
        self.running[attempt.key] = attempt
        logger.info(
            "Processing job %s (type: %s)",
            attempt.job_id,
            attempt.job_type,
            extra=self.extra("attempt.started")
            | attempt.names
            | {"attempt": lease.job.attempts, "queue": lease.job.queue},
        )
        if self.options.ends_blocked:
            self._set_alarm()  # it may block the loop at once
        attempt.start()

    # Settle -----------------------------------------------------------------------------------

    def attempt_ended(self, attempt: Attempt) -> None:
        """Settle it soon."""
        self._ended.append(attempt)
        self._pulse.set()

    async def _settle(self) -> None:
        """Settle what has ended and fill its slots, in one round trip."""
        await self._reporter.wait_for(self._ended, seconds=min(2.0, self.seconds_left() / 3))
        ended, self._ended = self._ended, []
        items, self._unstarted = self._unstarted, []
        for attempt in ended:
            # still renewed, like those that are being settled
            self.settling[attempt.key] = attempt
            del self.running[attempt.key]
        try:
            for attempt in ended:
                # filtering what a processor says takes time, which is not the other jobs'
                item = (
                    await asyncio.to_thread(attempt.settlement)
                    if attempt.says_why
                    else attempt.settlement()
                )
                self._runs += 1
                self.summary.busy_ms += attempt.duration_seconds * 1000
                if item is None:
                    self.summary.lost += 1
                else:
                    items.append(item)
            sent_at = self.clock.monotonic()
            lease = self._request() if self._may_lease(sent_at) else None
            answer = None
            if items:
                answer = await self._settler.settle(items, dict(self.settling), lease)
        finally:
            self.settling.clear()
        if answer is not None:
            self._take(answer, sent_at)
            await self._start_extra_workers()
        elif lease is not None:
            await self._lease_more()

    # Deadline ---------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        for attempt in list(self.running.values()):
            if attempt.stop_reason is not None:
                continue
            if self.stopping.is_set():
                attempt.stop("shutdown", grace_seconds=min(self.options.grace_seconds, 2.0))
            else:
                attempt.stop("deadline")

    def _give_up_the_rest(self) -> None:
        """The time is over: what has not ended or could not be settled runs again elsewhere."""
        if left := [attempt.job_id for attempt in self.running.values()]:
            self.summary.lost += len(left)
            self.summary.error = f"the tick's time ran out with {len(left)} job(s) unsettled"
            logger.error(
                "Time ran out before every job was settled",
                extra=self.extra("tick.overtime") | {"job_ids": left[:20]},
            )

    async def _look_back(self) -> None:
        """Lease no more: leave a backlog to extra workers instead of to the next minute."""
        if self._looked_back:
            return
        self._looked_back = True
        if self._fan_out is None or not self._leases.due or self._leases.unanswered is not None:
            return
        request = self._request(count_due=True)
        until = self.clock.monotonic() + SIDE_CALL_SECONDS
        try:
            response = await self._leases.ask(request, until=until)
        except QueueError as error:
            self._warn("Backlog could not be counted", "tick.uncounted", error)
            return
        self._leases.due = response.due
        if response.due:
            await self._start_extra_workers(at_least=1)

    async def _start_extra_workers(self, *, at_least: int = 0) -> None:
        """Start others for a backlog that this worker cannot carry; once, and `at_least` later."""
        policy, start, due = self._fan_out, self._worker.start_extra_workers, self._leases.due
        if policy is None or start is None or (self.summary.extra_workers and not at_least):
            return
        wanted = policy.extra_workers(
            due=due,
            slots=self.options.concurrency,
            seconds_left=self.deadlines.stop_leasing - self.clock.monotonic(),
            mean_seconds=self.summary.busy_ms / self._runs / 1000 if self._runs else None,
        )
        wanted = min(policy.most, max(at_least, wanted))
        if wanted < 1:
            return
        until = self.clock.monotonic() + SIDE_CALL_SECONDS
        accepted = 0
        try:
            accepted = await in_time(start(wanted), until, self.clock)
        except QueueUnavailable as error:
            self._warn("Extra workers could not be started in time", "fanout.late", error)
        self.summary.extra_workers += accepted
        logger.info(
            "Started extra workers",
            extra=self.extra("tick.fanned_out")
            | {"wanted": wanted, "accepted": accepted, "due": due},
        )

    # Beside -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _work_beside(self) -> AsyncIterator[None]:
        """Report, maintain, publish, listen, and watch the deadline; nothing of it is left."""
        loop = asyncio.get_running_loop()
        beside = [self._reporter.run(), self._maintenance.run(), self._await_stop()]
        if self.wakeups is not None:
            beside.append(self._listen(self.wakeups))
        if self.registry.publishers:
            beside.append(self._publishing.run())
        if self.options.ends_blocked:
            beside.append(self._keep_alarm())
        tasks = [loop.create_task(each) for each in beside]
        # by a timer of its own: the deadline must work while a call hangs
        deadline = None
        if not math.isinf(self.deadlines.stop_working):
            left = self.deadlines.stop_working - self.clock.monotonic()
            deadline = loop.call_later(max(0.0, left), self._deadline_reached)
        try:
            yield
        finally:
            if deadline is not None:
                deadline.cancel()
            await end_tasks(tasks)
            for attempt in list(self.running.values()):
                attempt.stop("lost")

    async def _keep_alarm(self) -> None:
        try:
            while True:
                self._set_alarm()
                await asyncio.sleep(self.ALARM_SECONDS)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _set_alarm(self) -> None:
        """End the process should its event loop be blocked until the first lease is gone.

        The stack of the processor that blocks it is then in the log. Done by a thread of C's: it
        works while a processor holds Python's lock.
        """
        held = [attempt.lease_until for attempt in self.running.values()]
        if not held:
            faulthandler.cancel_dump_traceback_later()
        else:
            left = min(held) - self.clock.monotonic()
            faulthandler.dump_traceback_later(max(2 * self.ALARM_SECONDS, left), exit=True)

    def _deadline_reached(self) -> None:
        self._stop_all()
        self._pulse.set()

    async def _listen(self, wakeups: asyncio.Event) -> None:
        while True:
            await wakeups.wait()
            wakeups.clear()
            try:
                await self._publishing.once()
            except asyncio.CancelledError:
                wakeups.set()  # this run has ended: the next one looks
                raise
            self.look_for_work()

    def look_for_work(self, is_there: bool = True) -> None:
        """There may be some: lease, or decide again whether to stay."""
        self._woken = self._woken or is_there
        self._pulse.set()

    async def _await_stop(self) -> None:
        await self.stopping.wait()
        self._pulse.set()

    async def _report_end(self) -> None:
        """Leave the summary behind, unless the tick found nothing: idle is one query."""
        now = self.clock.monotonic()
        self.summary.duration_ms = round((now - self.deadlines.start) * 1000, 1)
        self.summary.due_left = self._leases.due
        if not self.summary.is_worth_reporting:
            return
        # under the id that was last seen with free slots: enqueues count on it for two seconds more
        call = self.queue.tick_finished(
            tick_id=self._leases.lease_id,
            worker_id=self._worker.worker_id,
            summary=self.summary.as_dict(),
        )
        try:
            await in_time(call, min(now + SIDE_CALL_SECONDS, self.deadlines.end), self.clock)
        except QueueError as error:
            self._warn("Tick's summary was not stored", "tick.goodbye_failed", error)

    def _warn(self, message: str, event: str, error: QueueError) -> None:
        logger.warning(message, extra=self.extra(event) | {"error": str(error)})

    def extra(self, event: str) -> dict[str, Any]:
        """What each of its log lines carries."""
        return {"event": event, **self.names}
