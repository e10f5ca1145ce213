"""The lease requests of a tick, and their repetition.

`tick_scheduler.py` decides when a lease request is sent.
"""

import logging
import uuid

from minutehand.queue.models import AbandonedJob, LeasePool, LeaseRequest, LeaseResponse, RunEnd
from minutehand.worker.background import Maintenance
from minutehand.worker.deadlines import in_time
from minutehand.worker.run import Run, RunIdentity
from minutehand.worker.summary import TickSummary
from minutehand.worker.tick_scheduler import TickScheduler

logger = logging.getLogger(__name__)


class LeaseRequests:
    """Sends the lease requests of a tick, and informs the scheduler about each response.

    Args:
        is_notified: True if notifications wake the run, so that the run need not poll for new jobs.
    """

    #: Pause after a rejected lease request, which may be due to the rotation of a key.
    REJECTED_BACKOFF_SECONDS = 5.0
    #: Maximum delay before a lease request without a response is repeated.
    MAX_DELAY_SECONDS = 5.0
    #: Seconds after which lease requests get a new id, because one tick of a loop under load may
    #: never end.
    LEASE_ID_SECONDS = 60.0

    def __init__(
        self, run: Run, scheduler: TickScheduler, maintenance: Maintenance, *, is_notified: bool
    ) -> None:
        self._run = run
        self._scheduler = scheduler
        self._maintenance = maintenance
        self._is_notified = is_notified
        self._clock = run.clock
        self._options = run.options
        self._summary = run.summary
        self._deadlines = run.deadlines
        self._is_first = True
        self._no_responses = 0
        self.id = RunIdentity() if run.lease_id.is_used else run.lease_id
        self.id.is_used = True
        self._has_capacity = False
        #: True if an enqueue before the tick's latest request may have relied on the tick's free
        #: slots.
        self._recheck_pending = False
        #: The last lease request, if no response arrived. The request is repeated unchanged, so
        #: that the database returns the jobs that it may already have leased for the request.
        self.pending: LeaseRequest | None = None
        #: Number of due jobs that were not leased. The database counts only up to a limit.
        self.due = 0
        #: True if the last response counted the due jobs.
        self.has_counted_due = False
        #: Summary of the run, to store if the next lease request finds no jobs. The summary is None
        #: if the run continues.
        self.last: TickSummary | None = None
        #: Abandoned jobs that the last request reported to the database. The tuple is None before
        #: the first response to a request.
        self._abandoned: tuple[AbandonedJob, ...] | None = None
        #: True if the latest request covers every pool.
        self._covers_all_pools = False

    def request(
        self,
        pools: tuple[LeasePool, ...],
        *,
        is_all: bool,
        staying: bool,
        slots: tuple[LeasePool, ...],
        count_due: bool | None = None,
    ) -> LeaseRequest:
        """Return the next lease request for these pools, or repeat an unanswered request."""
        now = self._clock.monotonic()
        self._scheduler.record_request(now)
        if self.pending is not None:
            return self.pending
        max_runs = self._run.most
        # a run that the database has admitted keeps its id, because the database counts runs by id
        if now - self.id.since >= self.LEASE_ID_SECONDS and (max_runs is None or self._is_first):
            name = self._summary.tick_id if self._is_first else str(uuid.uuid4())
            self.id.name, self.id.since, self.id.calls = name, now, 0
        self.id.calls += 1
        count_due = count_due or self._is_first
        # a run for suspects has no slots for other jobs
        slots_of_run = None if not self._is_first else () if self._options.suspects else slots
        abandoned = self._abandoned_now()
        self._is_first = False
        self._summary.calls += 1
        # enqueues wake no worker while a run reports free slots. A run that will not lease again
        # before its end reports no free slots.
        will_poll = now + self._options.poll_seconds < self._deadlines.stop_leasing
        reported_capacity = self._has_capacity
        self._has_capacity = staying and will_poll and not self._is_notified
        self._recheck_pending = reported_capacity and not self._has_capacity
        if self._recheck_pending:
            self.last = None
        self._covers_all_pools = is_all
        all_types = self._run.job_types
        self.pending = LeaseRequest(
            worker_id=self._summary.worker_id,
            tick_id=self.id.name,
            call=self.id.calls,
            limit=sum(pool.limit for pool in pools),
            job_types=all_types,
            pools=None if [pool.job_types for pool in pools] == [all_types] else pools,
            queues=self._run.queues,
            version=self._options.code,
            # While a run has free slots, an enqueue starts no other worker. If `free_slots` is
            # None, the database counts this run's free slots. If `free_slots` is -1, an enqueue no
            # longer relies on this run. If `free_slots` is 0, nothing changes, because the run had
            # reported no free slots or gets notifications.
            free_slots=None if self._has_capacity else -1 if self._recheck_pending else 0,
            slots=slots_of_run,
            abandoned=None if abandoned == self._abandoned else abandoned,
            count_due=count_due,
            most=max_runs,
            run_seconds=None if max_runs is None else self._run.seconds_left(),
            ends=None if self.last is None else self._end(self.last, now),
            suspects=self._options.suspects,
            listens=self._options.listens,
        )
        return self.pending

    def _abandoned_now(self) -> tuple[AbandonedJob, ...]:
        """Return abandoned processors that still run.

        Forget abandoned processors that have ended.
        """
        found = {job_id: find() for job_id, find in self.id.abandoned.items()}
        for job_id in [job_id for job_id, abandoned in found.items() if abandoned is None]:
            del self.id.abandoned[job_id]
            extra = {"event": "attempt.ended_late", "job_id": job_id}
            logger.warning("Abandoned processor has ended", extra=extra)
        return tuple(filter(None, found.values()))

    def _end(self, last: TickSummary, now: float) -> RunEnd:
        stay = min(self._options.linger_seconds, self._deadlines.stop_leasing - now)
        return RunEnd(
            stay_ms=round(max(0.0, stay) * 1000),
            maintained=self._maintenance.is_pending or self._maintenance.is_backing_off or None,
            summary=last.as_dict() if last.is_worth_reporting else None,
        )

    def end(self) -> None:
        """Make the id of this run's lease requests available to the worker's next run."""
        self.id.is_used = False

    async def send(self, request: LeaseRequest, *, until: float | None = None) -> LeaseResponse:
        """Send a lease request, and wait until `until` or until work must stop.

        Raises:
            QueueUnavailable: No response arrived in time.
        """
        deadline = self._deadlines.stop_working if until is None else until
        return await in_time(self._run.queue.lease(request), deadline, self._clock)

    def record_response(self, response: LeaseResponse) -> None:
        """Record the state of the queue that the response to a lease request reports."""
        if self.pending is not None and self.pending.abandoned is not None:
            self._abandoned = self.pending.abandoned
        has_ended = response.run is not None and response.run.ended
        self.has_counted_due = bool(self.pending and self.pending.count_due) or has_ended
        self.pending = None
        self._no_responses = 0
        self._clock.receive(response.now)
        self.due = response.due
        due_in_ms = self._summary.next_due_in_ms = response.next_due_in_ms
        self._scheduler.record_response(
            self._clock.monotonic(),
            found=bool(response.leases),
            of_all=self._covers_all_pools,
            due_in_seconds=None if due_in_ms is None else due_in_ms / 1000,
            recheck_pending=self._recheck_pending,
        )

    def record_no_response(self) -> None:
        """Record that a lease request got no response.

        The request is repeated after a growing delay.
        """
        self._no_responses += 1
        delay = min(self.MAX_DELAY_SECONDS, 0.5 * 2 ** min(self._no_responses - 1, 4))
        self._scheduler.back_off(self._clock.monotonic(), delay, has_no_response=True)

    def record_rejected_request(self) -> None:
        """Record that the database rejected a lease request.

        A rejected lease request is not repeated, and leasing pauses.
        """
        self.pending = None
        now = self._clock.monotonic()
        self._scheduler.back_off(now, self.REJECTED_BACKOFF_SECONDS, has_no_response=False)
