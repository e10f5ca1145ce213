"""One run of the worker (tick), which leases, runs and settles jobs, and ends in time.

Read `Tick.run` first. `Worker` in loop.py starts runs and wakes them.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from minutehand.queue.errors import QueueError, QueueUnavailable
from minutehand.queue.models import JobId, Lease, LeaseRequest, LeaseResponse, RunState, SettleItem
from minutehand.tasks import end_tasks
from minutehand.worker.alarm import MAX_JOBS, Watchdog
from minutehand.worker.attempt import Attempt, AttemptEnvironment
from minutehand.worker.background import Maintenance, OutboxPublisher
from minutehand.worker.batch import Batch
from minutehand.worker.deadlines import SIDE_CALL_SECONDS, FanOut, StartExtraWorkers, in_time
from minutehand.worker.in_flight import InFlight
from minutehand.worker.lease_requests import LeaseRequests
from minutehand.worker.reporter import Reporter
from minutehand.worker.run import Run
from minutehand.worker.settler import Settler
from minutehand.worker.slots import Slots
from minutehand.worker.summary import TickSummary
from minutehand.worker.tick_scheduler import Action, NextAction, RunSnapshot, TickScheduler

logger = logging.getLogger(__name__)

#: A run that has leased more than this number of jobs logs leases and starts of jobs at DEBUG.
MAX_INFO_LOGS = 100


class Tick:
    """One run of a worker. Create a Tick, `run` it once, and read its summary.

    Args:
        fan_out: Policy for extra workers. A `fan_out` of None starts no extra workers.
        start_extra_workers: Starts extra workers.
        wakeups: Event that makes the run lease immediately when another task sets it.
        on_iteration: Function that is called in each iteration of the run's loop.
    """

    #: Seconds before jobs whose rows were locked are settled again.
    BUSY_SECONDS = 1.0
    #: If this number of jobs have ended while a settlement is in flight, a second settlement
    #: starts, so that the database and the worker work at the same time. Fewer ended jobs wait,
    #: because a settlement costs as much as fifty jobs.
    SECOND_SETTLE_AT = 200
    #: Maximum jobs that start in one event loop iteration, so that a due call is not delayed.
    STARTS_PER_ITERATION = 50

    def __init__(
        self,
        run: Run,
        *,
        fan_out: FanOut | None = None,
        start_extra_workers: StartExtraWorkers | None = None,
        wakeups: asyncio.Event | None = None,
        on_iteration: Callable[[], None] = lambda: None,
    ) -> None:
        self.summary = run.summary
        self._run = run
        self._clock = run.clock
        self._options = run.options
        self._deadlines = run.deadlines
        self._fan_out = fan_out
        self._start_extra = start_extra_workers
        #: True if the run has requested extra workers, even if AWS accepted no request.
        self._has_started_extra_workers = False
        #: Number of extra workers needed for jobs that wait because this run may lease only
        #: suspects.
        self._queued = 0
        self._wakeups = wakeups
        #: The summary that the database stored when a lease request or a separate call ended the
        #: run.
        self._final_summary: TickSummary | None = None
        self._on_iteration = on_iteration
        self._run_count = 0
        #: Log level of the run's start and of an empty lease. After the first leased job, the level
        #: is DEBUG.
        self._level = logging.DEBUG if run.options.quiet else logging.INFO
        #: Items that release the leases of jobs that never started.
        self._to_release: list[SettleItem] = []
        self._busy_until = 0.0
        #: Event that makes the loop ask the scheduler for its next action.
        self._wakeup = asyncio.Event()
        #: True if free slots will get jobs in this event loop iteration.
        self._fill_scheduled = False
        #: Unexpected error that the run raises after it has released its jobs.
        self._broken: BaseException | None = None
        self._in_flight = InFlight()
        self._slots = Slots(run)
        #: Settlement calls and lease calls in flight. At most two calls are in flight, and only one
        #: of them leases jobs.
        self._calls_in_flight: list[asyncio.Task[None]] = []
        self._lease_in_flight = False
        self._has_asked_last = False
        self._reporter = Reporter(run, self._in_flight)
        self._settler = Settler(run)
        #: Decides the next action in each iteration of the loop.
        self.scheduler = TickScheduler(run.deadlines, run.options, run.backoff)
        self._entry = NextAction(run.deadlines.start, Action.LEASE)
        self._maintenance = Maintenance(run, self._in_flight, on_done=self._request_lease)
        self._leases = LeaseRequests(
            run, self.scheduler, self._maintenance, is_notified=wakeups is not None
        )
        self._publishing = OutboxPublisher(run, on_jobs=self._request_lease)
        self._watchdog = Watchdog(run, self._in_flight) if run.options.ends_blocked else None
        self._environment = AttemptEnvironment(
            run,
            on_updates=self._reporter.notify_updates,
            on_end=self._attempt_ended,
            beside=self._running_job_ids,
        )

    async def run(self) -> TickSummary:
        """Run the tick and return its summary.

        Raises:
            QueueUnavailable: The database did not respond to the first call. No job was started.
            Exception: An unexpected error, raised after the running jobs were released or settled.
        """
        level = self._level
        logger.log(level, "Starting job execution", extra=self._run.extra("tick.started"))
        try:
            async with self._background_tasks():
                await self._publishing.run_once()
                sent_at = self._clock.monotonic()
                request = self._request()
                try:
                    response = await self._leases.send(request)
                except QueueError:
                    # the database may have admitted the run although it did not respond
                    await self._finish()
                    raise
                self._accept_leases(response, sent_at)
                while not await self._is_over():
                    try:
                        await self._run_iteration()
                    except Exception as error:
                        self._break(error)
        finally:
            self._leases.end()
        self._settler.log_summary()
        logger.log(
            logging.INFO if self.summary.is_worth_reporting else level,
            "Execution completed in %d ms",
            round(self.summary.duration_ms),
            extra=self._run.extra("tick.completed") | {"summary": self.summary.as_dict()},
        )
        if self._broken is not None:
            raise self._broken
        return self.summary

    async def _run_iteration(self) -> None:
        """Wait until the next action is due or an event occurs. Perform the action if it is due."""
        self._on_iteration()
        queued, self._queued = self._queued, 0
        await self._start_extra_workers(at_least=queued)
        entry, now = self._entry, self._clock.monotonic()
        if entry.at > now and not await self._wait(entry.at - now):
            return  # an event occurred before, and may change the next action
        match entry.action:
            case Action.STOP:
                self._stop_all()
            case Action.FAN_OUT:
                await self._count_backlog()
            case Action.RELEASE:
                now = self._clock.monotonic()
                is_over = self._is_stopping or now >= self._deadlines.stop_leasing
                removed = self._slots.remove_waiting(now, all_=is_over)
                self._to_release += map(_release_item, removed)
            case Action.START:
                self._start_jobs()
            case Action.RETRY_SETTLE:
                self._to_release += self._settler.busy
                self._settler.busy = []
            case Action.SETTLE:
                # wait for one event loop iteration, so that jobs that end together are settled
                # together
                await asyncio.sleep(0)
                self._start_call(self._settle())
            case Action.LEASE:
                self._start_call(self._lease_more())
            case Action.HEARTBEAT | Action.EXIT | Action.ABANDON:
                pass  # the next iteration handles the event

    async def _is_over(self) -> bool:
        """Ask the scheduler for the next action. Return whether the run has ended."""
        now = self._clock.monotonic()
        for exchange in [call for call in self._calls_in_flight if call.done()]:
            self._calls_in_flight.remove(exchange)
            try:
                exchange.result()  # raise the call's error
            except Exception as error:
                self._break(error)
        self._entry = self.scheduler.next(now, self._snapshot(now))
        if self._entry.at > now or self._entry.action not in {Action.EXIT, Action.ABANDON}:
            return False
        if self._entry.action is Action.ABANDON:
            self._abandon_rest()
        return not await self._finish()

    def _snapshot(self, now: float) -> RunSnapshot:
        running, should_stop = self._in_flight.running, self._is_stopping
        if should_stop or now >= self._deadlines.stop_working:
            must_stop = any(attempt.stop_reason is None for attempt in running.values())
        else:
            must_stop = bool(running)
        return RunSnapshot(
            running=bool(running),
            must_stop=must_stop,
            to_settle=bool(self._in_flight.ended or self._to_release),
            retry_settle_at=self._busy_until if self._settler.busy else None,
            start_at=self._slots.next_start_at,
            release_at=self._slots.next_release_at,
            has_free_slot=bool(self._slots.free_capacity()),
            exchanging=bool(self._calls_in_flight),
            needs_second_settle=self._needs_second_settle,
            is_stopping=should_stop,
            maintaining=self._maintenance.is_pending,
        )

    async def _wait(self, seconds: float) -> bool:
        """Wait up to `seconds`. Return False if an event ended the wait."""
        try:
            async with asyncio.timeout(seconds):
                await self._wakeup.wait()
        except TimeoutError:
            return True
        self._wakeup.clear()
        return False

    def _start_call(self, call: Coroutine[Any, Any, None]) -> None:
        exchange = asyncio.get_running_loop().create_task(call)
        exchange.add_done_callback(lambda _: self._wakeup.set())
        self._calls_in_flight.append(exchange)

    @property
    def _needs_second_settle(self) -> bool:
        """True if enough jobs have ended during a settlement to start a second settlement."""
        return (
            len(self._calls_in_flight) == 1 and len(self._in_flight.ended) >= self.SECOND_SETTLE_AT
        )

    @property
    def _is_stopping(self) -> bool:
        return self._run.stop_event.is_set() or self._broken is not None

    def _can_lease(self, now: float) -> bool:
        return self.scheduler.can_lease(now, self._snapshot(now))

    def _request(
        self, items: Sequence[SettleItem] = (), *, count_due: bool | None = None
    ) -> LeaseRequest:
        """Build the next lease request.

        With `count_due` the request counts due jobs and leases none.
        """
        will_lease = not count_due and self._can_lease(self._clock.monotonic())
        pools = self._slots.free_capacity() if will_lease else ()
        is_all = self._slots.is_all(pools)
        staying = bool(self._in_flight.running)
        if self._leases.pending is None:
            self._leases.last = self._last(items) if is_all else None
        return self._leases.request(
            pools, is_all=is_all, staying=staying, slots=self._slots.pools, count_due=count_due
        )

    def _last(self, items: Sequence[SettleItem]) -> TickSummary | None:
        """Return the summary if the run ends when these items are settled, otherwise None."""
        holds = (
            self._in_flight.running
            or self._in_flight.ended
            or self._to_release
            or self._settler.busy
        )
        if holds or len(self._calls_in_flight) > 1 or self._slots.next_release_at is not None:
            return None
        self._measure()
        last = replace(self.summary, calls=self.summary.calls + 1)
        for item in items:
            last.count(item.outcome)
        return last

    def _measure(self) -> None:
        seconds = self._clock.monotonic() - self._deadlines.start
        self.summary.duration_ms = round(seconds * 1000, 1)
        self.summary.due_left = self._leases.due
        self.summary.clock_skew_seconds = self._clock.skew_seconds

    async def _lease_more(self) -> None:
        sent_at = self._clock.monotonic()
        request = self._request()
        self._lease_in_flight = True
        try:
            response = await self._leases.send(request)
        except QueueUnavailable as error:
            self._warn("A lease call failed; it is repeated", "lease.unavailable", error)
            self._leases.record_no_response()
        except QueueError as error:
            # running jobs continue and are settled, but the run leases no job until the pause is
            # over
            self._warn("The queue rejected a lease request", "lease.refused", error)
            self._leases.record_rejected_request()
        else:
            self._accept_leases(response, sent_at)
        finally:
            self._lease_in_flight = False

    def _accept_leases(self, response: LeaseResponse, sent_at: float) -> None:
        self._leases.record_response(response)
        if response.run is not None:
            self._apply_run_state(response.run)
        if response.maintenance:
            self._maintenance.request()
        self._run.on_response(response)
        if response.alone and response.leases:
            self._queued = (response.suspects or 0) + (response.due > 0)
        found = len(response.leases)
        level = logging.INFO if found and self.summary.leased < MAX_INFO_LOGS else self._level
        self._level = logging.DEBUG
        if logger.isEnabledFor(level):
            extra = self._run.extra("tick.leased") | {"due": response.due}
            logger.log(level, "Found %d pending job(s)", found, extra=extra)
        if self._in_flight.running:
            ids = {lease.job.id for lease in response.leases}
            for attempt in self._in_flight.running.values():
                if attempt.job_id in ids:
                    attempt.stop("lost")  # the job was reclaimed before it was leased again
        self.summary.leased += found
        self._slots.add(response.leases, sent_at, size=response.size)
        self._start_jobs()

    def _apply_run_state(self, run: RunState) -> None:
        """Apply a lease response's facts about this run and about the number of runs."""
        if run.ended:
            self._final_summary = self._leases.last
            self._request_lease(run.refused)
        elif run.free is None:
            self.scheduler.is_at_worker_limit = True
            self.summary.crowded_out = not self.summary.leased
            logger.info(
                "The maximum number of workers is running; they lease the waiting jobs",
                extra=self._run.extra("tick.crowded_out") | {"most": self._run.most},
            )
        else:
            self._final_summary = None
            self.scheduler.is_last = run.free == 0
            if self._fan_out is not None:
                self._fan_out = replace(self._fan_out, most=min(self._fan_out.most, run.free))

    def _start_jobs(self) -> None:
        if self._clock.monotonic() >= self._deadlines.stop_working or self._is_stopping:
            return
        started: list[Attempt] = []
        for batch_type, leased in self._slots.begin():
            batch = None
            if batch_type is not None:
                ids = [lease.job.id for lease, _ in leased]
                batch = Batch(batch_type.run, ids, in_thread=not batch_type.is_async)
            for lease, sent_at in leased:
                started.append(self._start(lease, sent_at, batch))
            if len(started) >= self.STARTS_PER_ITERATION:
                self._schedule_fill()
                break
        if started:
            if self._watchdog is not None:
                self._watchdog.begin(min([attempt.lease_until for attempt in started]))
            self._reporter.begin(min([attempt.report_due_at() for attempt in started]))

    def _start(self, lease: Lease, sent_at: float, batch: Batch | None) -> Attempt:
        attempt = Attempt(self._environment, lease, sent_at=sent_at, batch=batch)
        self._in_flight.running[attempt.key] = attempt
        level = logging.INFO if self.summary.leased <= MAX_INFO_LOGS else logging.DEBUG
        if logger.isEnabledFor(level):
            logger.log(
                level,
                "Processing job %s (type: %s)",
                attempt.job_id,
                attempt.job_type,
                extra=self._run.extra("attempt.started")
                | attempt.names
                | {"attempt": lease.job.attempts, "queue": lease.job.queue},
            )
        attempt.start()
        return attempt

    def _running_job_ids(self) -> list[JobId]:
        return [attempt.job_id for attempt in self._in_flight.running.values()][:MAX_JOBS]

    def _attempt_ended(self, attempt: Attempt) -> None:
        """Add the attempt to the attempts to settle, and fill its slot."""
        del self._in_flight.running[attempt.key]
        self._slots.ended(attempt)
        self._in_flight.ended.append(attempt)
        self._schedule_fill()

    def _schedule_fill(self) -> None:
        if not self._fill_scheduled:  # fill the slots once for all jobs that end together
            self._fill_scheduled = True
            self._environment.loop.call_soon(self._fill_slots)

    def _fill_slots(self) -> None:
        """Start jobs in free slots, and wake the loop if its next action may change.

        The next action does not change while a call is in flight, or while a settlement waits for
        more jobs. A fill that changes no action does not wake the loop, because otherwise each
        short job would cause an iteration.
        """
        self._fill_scheduled = False
        self._start_jobs()
        slots = self._slots
        settles_later = self._entry.action is Action.SETTLE and slots.next_release_at is not None
        is_deferred = self._calls_in_flight or settles_later
        if slots.next_start_at is not None or self._needs_second_settle or not is_deferred:
            self._wakeup.set()

    async def _settle(self) -> None:
        """Settle ended jobs, and lease jobs for their slots in the same call."""
        in_flight = self._in_flight
        await self._reporter.wait_for(
            in_flight.ended, seconds=min(2.0, self._run.seconds_left() / 3)
        )
        ended, in_flight.ended = in_flight.ended, []
        to_release, self._to_release = self._to_release, []
        items = [*to_release]
        for attempt in ended:
            in_flight.settling[attempt.key] = attempt
        lease = response = None
        try:
            for attempt in ended:
                item = (
                    await self._settler.redacted_item(attempt)
                    if attempt.has_user_text
                    else self._settler.build_item(attempt)
                )
                self._run_count += 1
                self.summary.busy_ms += attempt.duration_seconds * 1000
                if item is None:
                    self.summary.lost += 1
                else:
                    items.append(item)
            sent_at = self._clock.monotonic()
            if not self._lease_in_flight and self._can_lease(sent_at):
                lease, self._lease_in_flight = self._request(items), True
            if items:
                response = await self._settler.settle(items, in_flight.settling, lease)
        finally:
            if lease is not None:
                self._lease_in_flight = False
            self._busy_until = self._clock.monotonic() + self.BUSY_SECONDS
            busy = {(item.job_id, item.fence) for item in self._settler.busy}
            keys = [attempt.key for attempt in ended]
            for key in (*keys, *[(item.job_id, item.fence) for item in to_release]):
                if key not in busy:
                    in_flight.settling.pop(key, None)
        if response is not None and lease is not None:
            self._accept_leases(response, sent_at)
        elif lease is not None:
            await self._lease_more()

    def _stop_all(self) -> None:
        for attempt in list(self._in_flight.running.values()):
            if attempt.stop_reason is not None:
                continue
            if self._is_stopping:
                attempt.stop("shutdown", grace_seconds=min(self._options.grace_seconds, 2.0))
            else:
                attempt.stop("deadline")

    def _abandon_rest(self) -> None:
        """Count the unsettled jobs as lost, because the run's time is over.

        Other workers will run the released jobs again.
        """
        if left := self._running_job_ids():
            self.summary.lost += len(self._in_flight.running)
            self.summary.error = (
                f"the tick's time ran out with {len(self._in_flight.running)} job(s) unsettled"
            )
            logger.error(
                "Time ran out before every job was settled",
                extra=self._run.extra("tick.overtime") | {"job_ids": left[:20]},
            )

    def _break(self, error: BaseException) -> None:
        """Record an unexpected error.

        After an unexpected error, the run releases and settles its jobs, and raises the error.

        Raises:
            Exception: An error was recorded before, which is raised again.
        """
        if self._broken is not None:
            raise self._broken
        self._broken = error
        self.summary.error = f"{type(error).__name__}: {error}"
        logger.critical(
            "The run releases its jobs and ends after an unexpected error",
            exc_info=error,
            extra=self._run.extra("tick.broken"),
        )
        self._wakeup.set()

    async def _count_backlog(self) -> None:
        """Stop leasing, and count the due jobs to start extra workers for them."""
        self.scheduler.has_started_extra_workers = True
        if self._leases.pending is not None:
            return
        has_more = self._leases.due > 0  # more jobs are due than this run has slots
        request = self._request(count_due=True)
        until = self._clock.monotonic() + SIDE_CALL_SECONDS
        try:
            response = await self._leases.send(request, until=until)
        except QueueError as error:
            self._warn("Backlog could not be counted", "tick.uncounted", error)
            return
        self._leases.due = response.due
        if has_more and response.due:
            await self._start_extra_workers(at_least=1)

    async def _start_extra_workers(self, *, at_least: int = 0) -> None:
        """Start extra workers if more jobs are due than this run can run.

        A run starts extra workers only once, or again if `at_least` requires some.
        """
        policy, start, due = self._fan_out, self._start_extra, self._leases.due
        if policy is None or start is None or (self._has_started_extra_workers and not at_least):
            return
        requested = policy.extra_workers(
            due=due,
            slots=self._slots.total,
            seconds_left=self._deadlines.stop_leasing - self._clock.monotonic(),
            average_seconds=self.summary.busy_ms / self._run_count / 1000
            if self._run_count
            else None,
        )
        requested = min(policy.most, max(at_least, requested))
        if requested < 1:
            return
        self._has_started_extra_workers = True
        until = self._clock.monotonic() + SIDE_CALL_SECONDS
        accepted = 0
        try:
            accepted = await in_time(start(requested), until, self._clock)
        except QueueUnavailable as error:
            self._warn("Extra workers could not be started in time", "fanout.late", error)
        self.summary.extra_workers += accepted
        logger.info(
            "Started extra workers",
            extra=self._run.extra("tick.fanned_out")
            | {"wanted": requested, "accepted": accepted, "due": due},
        )

    @asynccontextmanager
    async def _background_tasks(self) -> AsyncIterator[None]:
        """Run the background tasks of the run until the block ends."""
        loop = asyncio.get_running_loop()
        background = [
            self._reporter.report(),
            self._reporter.renew(),
            self._maintenance.run(),
            self._await_stop(),
        ]
        if self._wakeups is not None:
            background.append(self._listen(self._wakeups))
        if self._run.registry.publishers:
            background.append(self._publishing.run())
        if self._watchdog is not None:
            background.append(self._watchdog.run())
        tasks = [loop.create_task(task) for task in background]
        for task in tasks:
            task.add_done_callback(self._on_background_done)
        # use a timer, so that running jobs are stopped at the deadline even while a call hangs
        deadline = None
        if not math.isinf(self._deadlines.stop_working):
            left = self._deadlines.stop_working - self._clock.monotonic()
            deadline = loop.call_later(max(0.0, left), self._deadline_reached)
        try:
            yield
        finally:
            if deadline is not None:
                deadline.cancel()
            await end_tasks([*tasks, *self._calls_in_flight])
            for attempt in list(self._in_flight.running.values()):
                attempt.stop("lost")

    def _on_background_done(self, task: asyncio.Task[None]) -> None:
        """Make the run fail if a background task raised an error."""
        error = None if task.cancelled() else task.exception()
        if error is not None and self._broken is None:
            self._break(error)

    def _deadline_reached(self) -> None:
        self._stop_all()
        self._wakeup.set()

    async def _listen(self, wakeups: asyncio.Event) -> None:
        while True:
            await wakeups.wait()
            wakeups.clear()
            try:
                await self._publishing.run_once()
            except asyncio.CancelledError:
                wakeups.set()  # keep the wake-up for the worker's next run
                raise
            self._request_lease()

    def _request_lease(self, has_new_jobs: bool = True) -> None:
        """Wake the loop, which leases if jobs may be ready, or checks whether the run ends."""
        if has_new_jobs:
            self.scheduler.wake()
        self._wakeup.set()

    async def _await_stop(self) -> None:
        await self._run.stop_event.wait()
        self._wakeup.set()

    async def _finish(self) -> bool:
        """Store the end of the run in the database, if needed.

        Return True if the run must continue.

        The run continues if another run was rejected, because the other run may have been started
        for a job that was committed after this run's last lease request.
        """
        self._measure()
        is_counted = self._run.most is not None and not self.scheduler.is_at_worker_limit
        must_store = self.summary.is_worth_reporting or (is_counted and self._final_summary is None)
        if self._final_summary == self.summary or not must_store:
            return False
        can_ask = self._leases.pending is None and self._can_lease(self._clock.monotonic())
        must_ask = not (self._leases.has_counted_due or self._has_asked_last)
        if must_ask and can_ask and self._last(()) is not None:
            # a last lease request counts the due jobs, and stores the end in the same call
            self._has_asked_last = True
            self._request_lease()
            return True
        summary = self.summary.as_dict() if self.summary.is_worth_reporting else None
        # pass the id of the last lease request, because enqueues may rely on the run's free slots
        # for two seconds after the request
        call = self._run.queue.tick_finished(self._leases.id.name, summary=summary)
        until = min(self._clock.monotonic() + SIDE_CALL_SECONDS, self._deadlines.end)
        self._final_summary = replace(self.summary)
        try:
            refused = await in_time(call, until, self._clock)
        except QueueError as error:
            self._warn("The end of the run was not stored", "tick.goodbye_failed", error)
            return False
        self._request_lease(refused)
        return refused and self._can_lease(self._clock.monotonic())

    def _warn(self, message: str, event: str, error: QueueError) -> None:
        logger.warning(message, extra=self._run.extra(event) | {"error": str(error)})


def _release_item(lease: Lease) -> SettleItem:
    """Return an item that releases a job that never started.

    The attempt of the job does not count.
    """
    return SettleItem(job_id=lease.job.id, fence=lease.fence, outcome="released", duration_ms=0)
