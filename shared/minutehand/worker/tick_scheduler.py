"""Decides the next action of a run and the time of the action.

The scheduler does not read the clock and makes no calls. `lease_requests.py` builds lease requests.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from minutehand.worker.deadlines import Deadlines, TickOptions
from minutehand.worker.run import IdleBackoff


class Action(StrEnum):
    """Actions of a run. If several actions are due, the run performs the first in this list."""

    #: End the run because its time is over. Other workers run the jobs again that have not ended.
    ABANDON = "give up"
    #: Stop running jobs.
    STOP = "stop"
    #: Stop leasing, and start extra workers for the due jobs.
    FAN_OUT = "look back"
    #: Release leased jobs that will not start in this run.
    RELEASE = "release"
    #: Start a batch that is not full.
    START = "start"
    #: Settle the jobs again whose rows another transaction had locked.
    RETRY_SETTLE = "settle again"
    SETTLE = "settle"
    LEASE = "lease"
    #: End the run because it has nothing left to do.
    EXIT = "leave"
    #: Iterate without another action, so that the host sees that the run is alive.
    HEARTBEAT = "turn"


@dataclass(frozen=True)
class NextAction:
    """The next action of a run. `at` is the action's time on the monotonic clock."""

    at: float
    action: Action


@dataclass(frozen=True, kw_only=True)
class RunSnapshot:
    """State of a run at one time, from which the scheduler chooses the next action.

    Attributes:
        running: True if jobs are running.
        must_stop: True if the run has not yet stopped some of its running jobs.
        to_settle: True if jobs have ended and must be settled, or leases must be released.
        retry_settle_at: Time at which the results of jobs whose rows were locked are sent again.
        start_at: Time at which a batch starts although it is not full.
        release_at: Time at which the first waiting job is released if no slot is free.
        has_free_slot: True if a job could start now.
        exchanging: True if a settlement call or a lease call is in flight.
        needs_second_settle: True if a second settlement should start during the first settlement.
        is_stopping: True if the host shuts down, or an unexpected error has occurred.
        maintaining: True if maintenance runs now, or will start soon.
    """

    running: bool = False
    must_stop: bool = False
    to_settle: bool = False
    retry_settle_at: float | None = None
    start_at: float | None = None
    release_at: float | None = None
    has_free_slot: bool = True
    exchanging: bool = False
    needs_second_settle: bool = False
    is_stopping: bool = False
    maintaining: bool = False

    @property
    def holds(self) -> bool:
        """True if the run has leased jobs or calls in flight."""
        is_waiting = self.release_at is not None or self.retry_settle_at is not None
        return self.running or self.to_settle or self.exchanging or is_waiting


class TickScheduler:
    """The scheduler of one run.

    Other parts of the run record events in the scheduler. The loop of the run asks the scheduler
    for the next action.
    """

    #: Maximum seconds between two iterations of the run's loop.
    ITERATION_SECONDS = 10.0
    #: After this many consecutive leases that returned none of the due jobs, a run may end.
    MAX_EMPTY_LEASES = 6
    #: Seconds from the request that reports no more free slots to one more lease request. An
    #: enqueue that relied on the free slots may commit during these seconds. A loop also leases
    #: once more after a notification for which the run found no job.
    RECHECK_SECONDS = 0.1
    #: Maximum seconds that a batch waits after its start time for a lease response, which may
    #: contain more jobs for the batch.
    FILL_SECONDS = 0.5
    #: Minimum seconds between two settlements while leased jobs wait for a slot, so that more jobs
    #: are settled together. The minimum is a quarter of the time for which jobs are leased in
    #: advance, so that no slot gets empty.
    SETTLE_BATCH_SECONDS = 0.025
    #: Minimum delay between two runs of a loop.
    MIN_DELAY_SECONDS = 0.005

    def __init__(self, deadlines: Deadlines, options: TickOptions, backoff: IdleBackoff) -> None:
        self._deadlines = deadlines
        self._options = options
        self._backoff = backoff
        #: True if the run must send a lease request immediately.
        self._must_lease = False
        self._leased_at = -math.inf
        #: Time of the next lease request, which depends on the latest response or on its absence.
        self._lease_at: float | None = None
        #: True if the latest lease request got no response. The request is repeated, because the
        #: database may have leased jobs for the request.
        self._has_no_response = False
        #: True from a rejected or unanswered lease request until the next response. Then no poll
        #: for free slots shortens the pause.
        self._is_backing_off = False
        #: True if the last lease request covered every pool and returned no job, and no other
        #: request is in flight. The run may end only if the field is true.
        self._last_lease_empty = False
        #: True if the last lease request did not return all due jobs, for example because another
        #: database session has locked the jobs.
        self._has_due_jobs = False
        self._recheck_pending = False
        #: True if the database admits no other run, so that this run polls while its jobs run.
        self.is_last = False
        #: True if the maximum number of runs is reached, so that this run leases no jobs.
        self.is_at_worker_limit = False
        self.has_started_extra_workers = False

    def wake(self) -> None:
        """Record that jobs may be ready, so that the run leases immediately."""
        self._must_lease = True

    def record_request(self, now: float) -> None:
        """Record that a lease request is being sent."""
        self._must_lease = False
        self._leased_at = now
        self._has_no_response = True
        self._last_lease_empty = False

    def record_response(
        self,
        now: float,
        *,
        found: bool,
        of_all: bool,
        due_in_seconds: float | None,
        recheck_pending: bool,
    ) -> None:
        """Record the response to a lease request.

        Args:
            found: True if the response contains jobs.
            of_all: True if the lease request covered every pool.
            due_in_seconds: Seconds until a job falls due. The number is 0 if due jobs are locked.
            recheck_pending: True if an enqueue may have relied on this run's free slots and may
                commit later.
        """
        self._has_no_response = self._is_backing_off = False
        self._last_lease_empty = of_all and not found
        self._recheck_pending = recheck_pending
        self._has_due_jobs = due_in_seconds == 0
        self._lease_at = None
        if found:
            self._backoff.leases = 0
        elif self._has_due_jobs:
            # pauses grow while due jobs cannot be leased, for example because another database
            # session has locked the jobs' rows
            self._backoff.leases += 1
        if due_in_seconds is not None:
            delay = max(due_in_seconds, self._backoff.lease_backoff())
            self._lease_at = now + delay
        if recheck_pending:
            at = now + self.RECHECK_SECONDS
            self._lease_at = at if self._lease_at is None else min(at, self._lease_at)

    def back_off(self, now: float, seconds: float, *, has_no_response: bool) -> None:
        """Record that a lease request was rejected or got no response.

        The next request is delayed.
        """
        self._has_no_response = has_no_response
        self._is_backing_off = True
        self._has_due_jobs = self._recheck_pending = False
        self._lease_at = now + seconds

    def can_lease(self, now: float, snapshot: RunSnapshot) -> bool:
        """Return whether this run may lease jobs now."""
        is_open = now < self._deadlines.stop_leasing and not snapshot.is_stopping
        return is_open and snapshot.has_free_slot and not self.is_at_worker_limit

    def next(self, now: float, snapshot: RunSnapshot) -> NextAction:
        """Return the next action, by default HEARTBEAT. The time of an overdue action is `now`."""
        entry = min(self._entries(now, snapshot), key=lambda action: max(now, action.at))
        return entry if entry.at >= now else replace(entry, at=now)

    def _entries(self, now: float, snapshot: RunSnapshot) -> Iterator[NextAction]:
        """Yield the possible actions. The first action has the highest priority."""
        deadlines = self._deadlines
        yield NextAction(deadlines.end, Action.ABANDON)
        if snapshot.must_stop:
            yield NextAction(now if snapshot.is_stopping else deadlines.stop_working, Action.STOP)
        if not self.has_started_extra_workers and not snapshot.exchanging:
            yield NextAction(deadlines.stop_leasing, Action.FAN_OUT)
        if snapshot.release_at is not None:
            closes_at = now if snapshot.is_stopping else deadlines.stop_leasing
            yield NextAction(min(closes_at, snapshot.release_at), Action.RELEASE)
        if snapshot.start_at is not None:
            can_fill = self._leased_at < snapshot.start_at and self.can_lease(now, snapshot)
            delay = self.FILL_SECONDS if snapshot.exchanging or can_fill else 0.0
            yield NextAction(snapshot.start_at + delay, Action.START)
        if snapshot.retry_settle_at is not None:
            yield NextAction(snapshot.retry_settle_at, Action.RETRY_SETTLE)
        if snapshot.needs_second_settle:
            yield NextAction(now, Action.SETTLE)
        elif not snapshot.exchanging:
            if snapshot.to_settle:  # the settlement call also leases jobs
                at = (
                    now
                    if snapshot.release_at is None
                    else self._leased_at + self.SETTLE_BATCH_SECONDS
                )
                yield NextAction(at, Action.SETTLE)
            elif not (snapshot.holds or self._stays(now, snapshot)):
                yield NextAction(now, Action.EXIT)
            elif self.can_lease(now, snapshot):
                yield from self._leases(now, snapshot)
        yield NextAction(now + self.ITERATION_SECONDS, Action.HEARTBEAT)

    def _leases(self, now: float, snapshot: RunSnapshot) -> Iterator[NextAction]:
        if self._must_lease:
            yield NextAction(now, Action.LEASE)
        if snapshot.start_at is not None and self._leased_at < snapshot.start_at:
            # the lease response may contain jobs that fill the batch
            yield NextAction(snapshot.start_at, Action.LEASE)
        if self._lease_at is None:
            if not (snapshot.holds or self._last_lease_empty):
                yield NextAction(now, Action.LEASE)
        elif self._has_due_jobs and snapshot.maintaining:
            # maintenance is making the due jobs ready, so lease when maintenance ends, or after a
            # second
            at = max(self._lease_at, self._leased_at + self._backoff.MAX_SECONDS)
            yield NextAction(at, Action.LEASE)
        else:
            yield NextAction(self._lease_at, Action.LEASE)
        if (snapshot.running or self.is_last) and not self._is_backing_off:
            yield NextAction(self._leased_at + self._options.poll_seconds, Action.LEASE)

    def _stays(self, now: float, snapshot: RunSnapshot) -> bool:
        """Return whether a run without jobs must wait instead of ending.

        The run waits if a job is due soon, or if a notification announced a job.
        """
        if not self.can_lease(now, snapshot):
            return False
        if (
            self._must_lease
            or snapshot.maintaining
            or self._recheck_pending
            or self._has_no_response
        ):
            return True
        if self._has_due_jobs:
            # after several empty leases, another database session must have locked the due jobs
            return self._backoff.leases < self.MAX_EMPTY_LEASES
        if self._lease_at is None:
            return not self._last_lease_empty
        if self._lease_at >= self._deadlines.stop_leasing:
            return False
        return self._lease_at <= now + self._options.linger_seconds

    def next_poll(self, now: float, *, poll_seconds: float, was_notified: bool) -> float:
        """Return the time of the loop's next poll, at most `poll_seconds` after this run.

        Args:
            poll_seconds: The interval of the loop's polls.
            was_notified: True if a notification started this run and the run found no job. The
                commit that enqueued the announced job may become visible soon.
        """
        at = now + (self.RECHECK_SECONDS if was_notified else poll_seconds)
        if self._lease_at is None or self._lease_at >= at:
            return at
        return max(self._lease_at, now + self.MIN_DELAY_SECONDS)
