"""What a run does next, when, and why: the one place that decides it, from facts and times alone.

It reads no clock and calls nothing. How a request for leases is made is `lease_requests.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from minutehand.worker.deadlines import Deadlines, TickOptions
from minutehand.worker.run import Vain


class Act(StrEnum):
    """What a run can do; where several fall together, the first here is done first."""

    #: Its time is over: what has not ended runs again elsewhere.
    GIVE_UP = "give up"
    #: Have what still runs end.
    STOP = "stop"
    #: Lease no more: leave a backlog to extra workers.
    LOOK_BACK = "look back"
    #: Release leases that will not begin here.
    RELEASE = "release"
    #: Begin a batch that is not full.
    BEGIN = "begin"
    #: Settle once more what someone's transaction held.
    SETTLE_AGAIN = "settle again"
    SETTLE = "settle"
    LEASE = "lease"
    #: Nothing is left for this run.
    LEAVE = "leave"
    #: Go round, so that its host sees that the loop does.
    TURN = "turn"


class Reason(StrEnum):
    """Why then."""

    #: The database said that something falls due.
    DUE = "due"
    #: What was asked for in vain, refused or not answered is asked for after a pause.
    BACKOFF = "backoff"
    NOTIFIED = "notified"
    #: Maintenance has made jobs ready, or is about to.
    MAINTENANCE = "maintenance"
    #: It looks by itself now and then.
    POLL = "poll"
    JOBS_ENDED = "jobs ended"
    #: A leased job has waited for a slot for too long.
    NO_SLOT = "no slot"
    #: A batch has waited for more jobs.
    BATCH = "batch"
    END_OF_RUN = "end of the run"


@dataclass(frozen=True, slots=True)
class Entry:
    """The next line of the agenda; `at` is on the steady clock."""

    at: float
    act: Act
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """What a run has at hand at one moment.

    Attributes:
        unstopped: Of what runs, some was not asked to end.
        to_settle: Jobs ended, or leases are to be released.
        settle_again_at: When what someone held is settled again.
        begin_at: When a batch has waited for more jobs.
        late_at: When the first lease that waits for a slot has waited for too long.
        has_room: Some pool has a free slot.
        exchanging: A settle or lease is under way.
        settles_beside: Another settle is to begin beside it.
        stopping: Its host goes down, or it has met an error that it does not know.
        maintaining: A call of maintenance is under way or about to be.
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
        """Whether the run holds a lease."""
        waits = self.late_at is not None or self.settle_again_at is not None
        return self.running or self.to_settle or self.exchanging or waits


class Agenda:
    """Of one run. Its parts note what they learn; the loop asks for the next entry."""

    #: Longest time between two turns of the loop.
    TURN_SECONDS = 10.0
    #: Answers in a row that had none of what was due at once, after which a run may leave.
    VAIN_MAX = 6
    #: After a run's room is withdrawn, one more look: an enqueue that counted on it may not have
    #: been committed when it was. Likewise after a notification.
    TRAILING_SECONDS = 0.1
    #: Longest time that a batch whose wait is over waits for the answer that may fill it.
    FILL_SECONDS = 0.5
    #: Shortest time between two settles while leased jobs wait for a slot: what ends in it is
    #: settled together, and no slot is empty for it. A quarter of what is leased ahead.
    TOGETHER_SECONDS = 0.025
    #: Shortest pause between two runs of a loop.
    LEAST_PAUSE_SECONDS = 0.005

    def __init__(self, deadlines: Deadlines, options: TickOptions, vain: Vain) -> None:
        self._deadlines = deadlines
        self._options = options
        self._vain = vain
        #: Why to lease at once, if anything.
        self._woken: Reason | None = None
        self._asked_at = -math.inf
        #: When to lease, as the latest answer had it, or the lack of one.
        self._lease: Entry | None = None
        #: The latest request waits for its answer: it is repeated, for what it may have leased.
        self._is_unanswered = False
        #: The latest answer to a request for all that the run serves had nothing, and nothing was
        #: asked for since: only then may it leave.
        self._found_nothing = False
        #: More was due at once than was leased, as where another holds it.
        self._is_due_now = False
        self._owes_a_look = False
        #: No other run is admitted beside this one: it looks for new work while it runs.
        self.is_last = False
        #: As many runs as may be are under way: this one leases nothing.
        self.is_crowded_out = False
        self.looked_back = False

    def wake(self, reason: Reason) -> None:
        """There may be something to lease."""
        self._woken = self._woken or reason

    def ask(self, now: float) -> None:
        """A request for leases is made."""
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
        """It was answered.

        Args:
            of_all: The request was for all that the run serves.
            due_in_seconds: When something falls due; 0 where another holds what is due.
            owes_a_look: An enqueue may have counted on this run, and was committed since.
        """
        self._is_unanswered = False
        self._found_nothing = of_all and not found
        self._owes_a_look = owes_a_look
        self._is_due_now = due_in_seconds == 0
        self._lease = None
        if found:
            self._vain.leases = 0
        elif self._is_due_now:
            # what is due but never comes, e.g. because its row is locked, is requested less and
            # less often
            self._vain.leases += 1
        if due_in_seconds is not None:
            pause = self._vain.lease_pause()
            waits_in_vain = self._vain.leases > 0 and due_in_seconds < pause
            reason = Reason.BACKOFF if waits_in_vain else Reason.DUE
            self._lease = Entry(now + max(due_in_seconds, pause), Act.LEASE, reason)
        if owes_a_look and (self._lease is None or self._lease.at > now + self.TRAILING_SECONDS):
            self._lease = Entry(now + self.TRAILING_SECONDS, Act.LEASE, Reason.NOTIFIED)

    def put_off(self, now: float, seconds: float, *, is_unanswered: bool) -> None:
        """The request was refused, or has no answer."""
        self._is_unanswered = is_unanswered
        self._is_due_now = self._owes_a_look = False
        self._lease = Entry(now + seconds, Act.LEASE, Reason.BACKOFF)

    def may_lease(self, now: float, hand: AtHand) -> bool:
        """Whether this run takes jobs now."""
        is_open = now < self._deadlines.stop_leasing and not hand.stopping
        return is_open and hand.has_room and not self.is_crowded_out

    def next(self, now: float, hand: AtHand) -> Entry:
        """What to do next; where nothing is planned, to go round. What is late is at `now`."""
        entry = min(self._entries(now, hand), key=lambda each: max(now, each.at))
        return entry if entry.at >= now else replace(entry, at=now)

    def _entries(self, now: float, hand: AtHand) -> Iterator[Entry]:
        """In the order of `Act`."""
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
            if hand.to_settle:  # and lease in the same call
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
            yield Entry(hand.begin_at, Act.LEASE, Reason.BATCH)  # it may be filled
        if self._lease is None:
            if not (hand.holds or self._found_nothing):
                yield Entry(now, Act.LEASE, Reason.DUE)
        elif self._is_due_now and hand.maintaining:
            # it is at what is due: at its end, or a second later
            at = max(self._lease.at, self._asked_at + self._vain.MOST_SECONDS)
            yield Entry(at, Act.LEASE, Reason.MAINTENANCE)
        else:
            yield self._lease
        if hand.running or self.is_last:
            yield Entry(self._asked_at + self._options.poll_seconds, Act.LEASE, Reason.POLL)

    def _stays(self, now: float, hand: AtHand) -> bool:
        """Whether a run without a job waits for what falls due soon, or was just announced."""
        if not self.may_lease(now, hand):
            return False
        if self._woken is not None or hand.maintaining or self._owes_a_look or self._is_unanswered:
            return True
        if self._is_due_now:
            return self._vain.leases < self.VAIN_MAX  # then another has it
        if self._lease is None:
            return not self._found_nothing
        if self._lease.at >= self._deadlines.stop_leasing:
            return False
        return self._lease.at <= now + self._options.linger_seconds

    @property
    def rest(self) -> Entry | None:
        """What a run that leaves knows of the time after it; None: only if it is notified."""
        return self._lease

    def following(self, now: float, *, look_seconds: float, was_woken: bool) -> Entry:
        """When a loop looks again after this run: by itself `look_seconds` later.

        Args:
            was_woken: By a notification, and found nothing: a commit may become visible just after.
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
