"""The agenda of a run: its next action, the time and the reason, decided from facts alone.

It reads no clock and calls nothing. `lease_requests.py` builds requests for leases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from minutehand.worker.deadlines import Deadlines, TickOptions
from minutehand.worker.run import Vain


class Act(StrEnum):
    """Actions of a run. If several are due, the first in this list comes first."""

    #: End because the time is over. Jobs that have not ended run again elsewhere.
    GIVE_UP = "give up"
    #: Stop running jobs.
    STOP = "stop"
    #: Stop leasing, and start extra workers for a backlog.
    LOOK_BACK = "look back"
    #: Release leased jobs that will not start here.
    RELEASE = "release"
    #: Start a batch that is not full.
    BEGIN = "begin"
    #: Settle jobs again whose rows another transaction had locked.
    SETTLE_AGAIN = "settle again"
    SETTLE = "settle"
    LEASE = "lease"
    #: End because nothing is left to do.
    LEAVE = "leave"
    #: Run an iteration of the loop, so that the host sees that it is alive.
    TURN = "turn"


class Reason(StrEnum):
    """Reasons for the time of an action."""

    #: The database announced that a job falls due.
    DUE = "due"
    #: A request returned nothing, was rejected or got no response, and is repeated after a pause.
    BACKOFF = "backoff"
    NOTIFIED = "notified"
    #: Maintenance has made jobs ready, or may do so.
    MAINTENANCE = "maintenance"
    #: The worker polls at an interval.
    POLL = "poll"
    JOBS_ENDED = "jobs ended"
    #: A leased job has waited for a slot for too long.
    NO_SLOT = "no slot"
    #: A batch has waited for more jobs.
    BATCH = "batch"
    END_OF_RUN = "end of the run"


@dataclass(frozen=True, slots=True)
class Entry:
    """The next action. `at` is on the monotonic clock."""

    at: float
    act: Act
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """State of a run at one moment.

    Attributes:
        running: Whether jobs run.
        unstopped: Whether some running jobs were not yet stopped.
        to_settle: Whether jobs have ended, or leases are to be released.
        settle_again_at: Time to settle jobs again whose rows were locked.
        begin_at: Time at which a batch that is not full starts.
        late_at: Time at which the first lease has waited too long for a slot.
        has_room: Whether some pool has a free slot.
        exchanging: Whether a settle or lease call is in flight.
        settles_beside: Whether a second settle should start.
        stopping: Whether the host shuts down, or the run met an unexpected error.
        maintaining: Whether maintenance runs or is about to run.
    """

    running: bool = False
    unstopped: bool = False
    to_settle: bool = False
    settle_again_at: float | None = None
    begin_at: float | None = None
    late_at: float | None = None
    has_room: bool = True
    exchanging: bool = False
    settles_beside: bool = False
    stopping: bool = False
    maintaining: bool = False

    @property
    def holds(self) -> bool:
        """Whether the run has a lease."""
        waits = self.late_at is not None or self.settle_again_at is not None
        return self.running or self.to_settle or self.exchanging or waits


class Agenda:
    """The agenda of one run. Its parts record events, and the loop gets the next action."""

    #: Maximum time between two iterations of the loop.
    TURN_SECONDS = 10.0
    #: Number of consecutive empty leases, although jobs are due, after which a run may end.
    VAIN_MAX = 6
    #: Time until one more lease after a run's free slots are withdrawn, because an enqueue that
    #: counted on them may commit later. Also after a notification.
    TRAILING_SECONDS = 0.1
    #: Maximum time that a due batch waits for a lease response that may fill it.
    FILL_SECONDS = 0.5
    #: Minimum time between two settles while leased jobs wait for a slot, so that jobs are settled
    #: together and no slot is empty meanwhile. A quarter of the time that is leased ahead.
    TOGETHER_SECONDS = 0.025
    #: Minimum pause between two runs of a loop.
    LEAST_PAUSE_SECONDS = 0.005

    def __init__(self, deadlines: Deadlines, options: TickOptions, vain: Vain) -> None:
        self._deadlines = deadlines
        self._options = options
        self._vain = vain
        #: Reason to lease immediately, or None.
        self._woken: Reason | None = None
        self._asked_at = -math.inf
        #: The next lease according to the latest response, or to its failure.
        self._lease: Entry | None = None
        #: Whether the latest request got no response. It is repeated, as it may have leased jobs.
        self._is_unanswered = False
        #: Whether the last lease covered every pool and returned nothing, and none is pending. Only
        #: then may the run end.
        self._found_nothing = False
        #: Whether due jobs remain that the last lease did not return, e.g. because another session
        #: has them locked.
        self._is_due_now = False
        self._owes_a_look = False
        #: Whether no other run is admitted, so that this one polls while jobs run.
        self.is_last = False
        #: Whether the maximum of runs is reached, so that this one leases nothing.
        self.is_crowded_out = False
        self.looked_back = False

    def wake(self, reason: Reason) -> None:
        """Record that there may be jobs to lease."""
        self._woken = self._woken or reason

    def ask(self, now: float) -> None:
        """Record that a lease is requested."""
        self._woken = None
        self._asked_at = now
        self._is_unanswered = True
        self._found_nothing = False

    def answer(
        self,
        now: float,
        *,
        found: bool,
        of_all: bool,
        due_in_seconds: float | None,
        owes_a_look: bool,
    ) -> None:
        """Record the response of a lease.

        Args:
            found: Whether it returned jobs.
            of_all: Whether the request covered every pool.
            due_in_seconds: Time until a job falls due. 0 if due jobs are locked.
            owes_a_look: Whether an enqueue may have counted on this run and committed since.
        """
        self._is_unanswered = False
        self._found_nothing = of_all and not found
        self._owes_a_look = owes_a_look
        self._is_due_now = due_in_seconds == 0
        self._lease = None
        if found:
            self._vain.leases = 0
        elif self._is_due_now:
            # due jobs that are never leased, e.g. because their rows are locked, are requested less
            # and less often
            self._vain.leases += 1
        if due_in_seconds is not None:
            pause = self._vain.lease_pause()
            waits_in_vain = self._vain.leases > 0 and due_in_seconds < pause
            reason = Reason.BACKOFF if waits_in_vain else Reason.DUE
            self._lease = Entry(now + max(due_in_seconds, pause), Act.LEASE, reason)
        if owes_a_look and (self._lease is None or self._lease.at > now + self.TRAILING_SECONDS):
            self._lease = Entry(now + self.TRAILING_SECONDS, Act.LEASE, Reason.NOTIFIED)

    def put_off(self, now: float, seconds: float, *, is_unanswered: bool) -> None:
        """Record that a lease was rejected or got no response, and back off."""
        self._is_unanswered = is_unanswered
        self._is_due_now = self._owes_a_look = False
        self._lease = Entry(now + seconds, Act.LEASE, Reason.BACKOFF)

    def may_lease(self, now: float, hand: AtHand) -> bool:
        """Return whether this run may lease now."""
        is_open = now < self._deadlines.stop_leasing and not hand.stopping
        return is_open and hand.has_room and not self.is_crowded_out

    def next(self, now: float, hand: AtHand) -> Entry:
        """Return the next action, by default an iteration. An overdue action has the time `now`."""
        entry = min(self._entries(now, hand), key=lambda each: max(now, each.at))
        return entry if entry.at >= now else replace(entry, at=now)

    def _entries(self, now: float, hand: AtHand) -> Iterator[Entry]:
        """Yield possible actions in the order of their priority."""
        times, end = self._deadlines, Reason.END_OF_RUN
        yield Entry(times.end, Act.GIVE_UP, end)
        if hand.unstopped:
            yield Entry(now if hand.stopping else times.stop_working, Act.STOP, end)
        if not self.looked_back and not hand.exchanging:
            yield Entry(times.stop_leasing, Act.LOOK_BACK, end)
        if hand.late_at is not None:
            closes_at = now if hand.stopping else times.stop_leasing
            closes = Entry(closes_at, Act.RELEASE, end)
            yield min(closes, Entry(hand.late_at, Act.RELEASE, Reason.NO_SLOT), key=_at)
        if hand.begin_at is not None:
            asks = self._asked_at < hand.begin_at and self.may_lease(now, hand)
            answered_at = self.FILL_SECONDS if hand.exchanging or asks else 0.0
            yield Entry(hand.begin_at + answered_at, Act.BEGIN, Reason.BATCH)
        if hand.settle_again_at is not None:
            yield Entry(hand.settle_again_at, Act.SETTLE_AGAIN, Reason.BACKOFF)
        if hand.settles_beside:
            yield Entry(now, Act.SETTLE, Reason.JOBS_ENDED)
        elif not hand.exchanging:
            if hand.to_settle:  # the same call also leases
                at = now if hand.late_at is None else self._asked_at + self.TOGETHER_SECONDS
                yield Entry(at, Act.SETTLE, Reason.JOBS_ENDED)
            elif not (hand.holds or self._stays(now, hand)):
                yield Entry(now, Act.LEAVE, end)
            elif self.may_lease(now, hand):
                yield from self._leases(now, hand)
        yield Entry(now + self.TURN_SECONDS, Act.TURN, Reason.POLL)

    def _leases(self, now: float, hand: AtHand) -> Iterator[Entry]:
        if self._woken is not None:
            yield Entry(now, Act.LEASE, self._woken)
        if hand.begin_at is not None and self._asked_at < hand.begin_at:
            yield Entry(hand.begin_at, Act.LEASE, Reason.BATCH)  # it may fill the batch
        if self._lease is None:
            if not (hand.holds or self._found_nothing):
                yield Entry(now, Act.LEASE, Reason.DUE)
        elif self._is_due_now and hand.maintaining:
            # maintenance is working on the due jobs, so lease at its end or a second later
            at = max(self._lease.at, self._asked_at + self._vain.MOST_SECONDS)
            yield Entry(at, Act.LEASE, Reason.MAINTENANCE)
        else:
            yield self._lease
        if hand.running or self.is_last:
            yield Entry(self._asked_at + self._options.poll_seconds, Act.LEASE, Reason.POLL)

    def _stays(self, now: float, hand: AtHand) -> bool:
        """Return whether a run without a job waits for a job that is due soon or just announced."""
        if not self.may_lease(now, hand):
            return False
        if self._woken is not None or hand.maintaining or self._owes_a_look or self._is_unanswered:
            return True
        if self._is_due_now:
            return self._vain.leases < self.VAIN_MAX  # otherwise another session has the jobs
        if self._lease is None:
            return not self._found_nothing
        if self._lease.at >= self._deadlines.stop_leasing:
            return False
        return self._lease.at <= now + self._options.linger_seconds

    @property
    def rest(self) -> Entry | None:
        """The next lease after this run has ended. None if only a notification causes one."""
        return self._lease

    def following(self, now: float, *, look_seconds: float, was_woken: bool) -> Entry:
        """Return the next poll of a loop after this run, `look_seconds` later at most.

        Args:
            look_seconds: The poll interval.
            was_woken: Whether a notification started the run and it found nothing. The commit may
                become visible just afterwards.
        """
        looks = Entry(now + look_seconds, Act.LEASE, Reason.POLL)
        if was_woken:
            looks = Entry(now + self.TRAILING_SECONDS, Act.LEASE, Reason.NOTIFIED)
        if self._lease is None or self._lease.at >= looks.at:
            return looks
        at = max(self._lease.at, now + self.LEAST_PAUSE_SECONDS)
        return Entry(at, Act.LEASE, self._lease.reason)


def _at(entry: Entry) -> float:
    return entry.at
