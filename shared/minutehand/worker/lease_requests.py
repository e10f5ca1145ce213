"""How a tick asks for leases: under which id, what again, and when next.

What becomes of the leases is tick.py's.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from minutehand.queue.models import LeaseRequest, LeaseResponse
from minutehand.worker.deadlines import in_time

if TYPE_CHECKING:
    from minutehand.worker.tick import Tick


class LeaseRequests:
    """One tick's lease calls, and what their answers said about the work to come."""

    #: Pause after a lease that was refused, e.g. for a key that is being rotated.
    REFUSED_PAUSE_SECONDS = 5.0
    #: How long lease calls go under one id: a loop under steady load is one tick without end.
    LEASE_ID_SECONDS = 60.0
    #: Answers in a row that had none of what was due at once, after which a tick may leave.
    VAIN_MAX = 6
    #: After a tick's room is withdrawn, one more look: an enqueue that counted on it may not have
    #: been committed when it was.
    TRAILING_SECONDS = 0.1

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._clock = tick.clock
        self._options = tick.options
        self._summary = tick.summary
        self._deadlines = tick.deadlines
        self._call = 0
        self._vain = 0
        self._id_since = tick.clock.monotonic()
        self._has_room = False
        #: Whether enqueues could count on this tick until its latest request.
        self.owes_a_look = False
        #: The id of the calls; the tick's own at first.
        self.lease_id = tick.tick_id
        #: A request whose answer was lost: it is repeated, not replaced, so that what it leased is
        #: found again.
        self.unanswered: LeaseRequest | None = None
        #: When the queue was last asked, and when something falls due, on the steady clock.
        self.polled_at = float("-inf")
        self.next_due_at: float | None = None
        #: Jobs that were due and not leased, as far as the database counted.
        self.due = 0

    def request(
        self, *, free_slots: int, staying: bool, count_due: bool | None = None
    ) -> LeaseRequest:
        """The next request, or the one that was not answered."""
        now = self._clock.monotonic()
        self.polled_at = now
        if self.unanswered is not None:
            return self.unanswered
        if now - self._id_since >= self.LEASE_ID_SECONDS:
            self.lease_id, self._id_since, self._call = str(uuid.uuid4()), now, 0
        self._call += 1
        self._summary.calls += 1
        # enqueues wake no one for a tick with room: only one that will ask again has any
        asks_again = now + self._options.poll_seconds < self._deadlines.stop_leasing
        had_room, self._has_room = (
            self._has_room,
            staying and asks_again and self._tick.wakeups is None,
        )
        self.owes_a_look = had_room and not self._has_room
        self.unanswered = LeaseRequest(
            worker_id=self._summary.worker_id,
            tick_id=self.lease_id,
            call=self._call,
            limit=max(0, free_slots),
            job_types=self._tick.job_types,
            version=self._options.version,
            # None lets the database count what is left; 0 keeps enqueues waking someone, for a
            # tick that may be about to leave, or that is woken itself
            free_slots=None if self._has_room else 0,
            count_due=count_due,
        )
        return self.unanswered

    async def ask(self, request: LeaseRequest, *, until: float | None = None) -> LeaseResponse:
        """Lease, at most until then, or until work must stop.

        Raises:
            QueueUnavailable: No answer.
        """
        deadline = self._deadlines.stop_working if until is None else until
        return await in_time(self._tick.queue.lease(request), deadline, self._clock)

    def note_answer(self, response: LeaseResponse) -> None:
        """Record what an answer says besides its leases."""
        self.unanswered = None
        self._summary.next_due_in_ms = response.next_due_in_ms
        self.due = response.due
        self.next_due_at = None
        if response.next_due_in_ms is not None:
            # what is due but never comes, e.g. because its row is locked, is requested less and
            # less often
            self._vain = 0 if response.leases else min(8, self._vain + 1)
            self.put_off(max(response.next_due_in_ms / 1000, 0.01 * 2**self._vain))
        if self.owes_a_look:
            trailing = self._clock.monotonic() + self.TRAILING_SECONDS
            self.next_due_at = min(trailing, self.next_due_at or trailing)

    @property
    def is_due_now(self) -> bool:
        """Whether the last answer said that work is there which another held at that moment.

        False again after `VAIN_MAX` such answers, together about a second: that other one has it.
        """
        return self._summary.next_due_in_ms == 0 and self._vain < self.VAIN_MAX

    def next_due_by(self, now: float) -> bool:
        """Whether something has fallen due by `now`."""
        return self.next_due_at is not None and now >= self.next_due_at

    def refused(self) -> None:
        """The request was refused: it is not repeated, and nothing is asked for a while."""
        self.unanswered = None
        self.owes_a_look = False
        self.put_off(self.REFUSED_PAUSE_SECONDS)

    def put_off(self, seconds: float) -> None:
        """Ask again after that time."""
        self.next_due_at = self._clock.monotonic() + seconds
