"""How a tick asks for leases: under which id, and what again. When is the agenda's."""

from __future__ import annotations

import uuid

from minutehand.queue.models import LeasePool, LeaseRequest, LeaseResponse, RunEnd
from minutehand.worker.agenda import Agenda
from minutehand.worker.background import Maintenance
from minutehand.worker.deadlines import in_time
from minutehand.worker.run import LeaseId, Run
from minutehand.worker.summary import TickSummary


class LeaseRequests:
    """One tick's lease calls; what their answers say of the work to come is noted in its agenda.

    Args:
        is_woken: Others wake the tick: enqueues need not count on its looks.
    """

    #: Pause after a lease that was refused, e.g. for a key that is being rotated.
    REFUSED_PAUSE_SECONDS = 5.0
    #: Longest pause before one without an answer is repeated.
    MOST_PAUSE_SECONDS = 5.0
    #: How long lease calls go under one id: a loop under steady load is one tick without end.
    LEASE_ID_SECONDS = 60.0

    def __init__(
        self, run: Run, agenda: Agenda, maintenance: Maintenance, *, is_woken: bool
    ) -> None:
        self._run_of = run
        self._agenda = agenda
        self._maintenance = maintenance
        self._is_woken = is_woken
        self._clock = run.clock
        self._options = run.options
        self._summary = run.summary
        self._deadlines = run.deadlines
        self._is_first = True
        self._unanswered = 0
        self.id = LeaseId() if run.lease_id.is_taken else run.lease_id
        self.id.is_taken = True
        self._has_room = False
        #: Whether enqueues could count on this tick until its latest request.
        self._owes_a_look = False
        #: A request whose answer was lost: it is repeated, not replaced, so that what it leased is
        #: found again.
        self.unanswered: LeaseRequest | None = None
        #: Jobs that were due and not leased, as far as the database counted.
        self.due = 0
        #: The summary of the run should the next request find nothing; None where it lasts anyway.
        self.last: TickSummary | None = None
        #: The latest request leaves nothing out that the run serves.
        self._asks_for_all = False

    def request(
        self,
        pools: tuple[LeasePool, ...],
        *,
        is_all: bool,
        staying: bool,
        count_due: bool | None = None,
    ) -> LeaseRequest:
        """The next request, for these pools, or the one that was not answered."""
        now = self._clock.monotonic()
        self._agenda.ask(now)
        if self.unanswered is not None:
            return self.unanswered
        most = self._run_of.most
        # an admitted run is known by it
        if now - self.id.since >= self.LEASE_ID_SECONDS and (most is None or self._is_first):
            name = self._summary.tick_id if self._is_first else str(uuid.uuid4())
            self.id.name, self.id.since, self.id.calls = name, now, 0
        self.id.calls += 1
        count_due = count_due or self._is_first
        self._is_first = False
        self._summary.calls += 1
        # enqueues wake no worker while a run has room for their jobs; a run that will not ask again
        # before it ends has none, whatever slots are free
        asks_again = now + self._options.poll_seconds < self._deadlines.stop_leasing
        had_room = self._has_room
        self._has_room = staying and asks_again and not self._is_woken
        self._owes_a_look = had_room and not self._has_room
        if self._owes_a_look:
            self.last = None
        self._asks_for_all = is_all
        all_types = self._run_of.job_types
        self.unanswered = LeaseRequest(
            worker_id=self._summary.worker_id,
            tick_id=self.id.name,
            call=self.id.calls,
            limit=sum(pool.limit for pool in pools),
            job_types=all_types,
            pools=None if [pool.job_types for pool in pools] == [all_types] else pools,
            queues=self._run_of.queues,
            version=self._options.code,
            # None lets the database count what is left, on which enqueues then count; -1 takes
            # that back; 0 changes nothing, for a tick that was not counted on, or that is woken
            free_slots=None if self._has_room else -1 if self._owes_a_look else 0,
            count_due=count_due,
            most=most,
            run_seconds=None if most is None else self._run_of.seconds_left(),
            ends=None if self.last is None else self._end(self.last, now),
            suspects=self._options.suspects,
        )
        return self.unanswered

    def _end(self, last: TickSummary, now: float) -> RunEnd:
        stay = min(self._options.linger_seconds, self._deadlines.stop_leasing - now)
        return RunEnd(
            stay_ms=round(max(0.0, stay) * 1000),
            maintained=self._maintenance.is_wanted or self._maintenance.is_resting or None,
            summary=last.as_dict() if last.is_worth_reporting else None,
        )

    def end(self) -> None:
        """Leave the id of the calls to the worker's next run."""
        self.id.is_taken = False

    async def ask(self, request: LeaseRequest, *, until: float | None = None) -> LeaseResponse:
        """Lease, at most until then, or until work must stop.

        Raises:
            QueueUnavailable: No answer.
        """
        deadline = self._deadlines.stop_working if until is None else until
        return await in_time(self._run_of.queue.lease(request), deadline, self._clock)

    def note_answer(self, response: LeaseResponse) -> None:
        """Record what an answer says besides its leases."""
        self.unanswered = None
        self._unanswered = 0
        self._clock.receive(response.now)
        self.due = response.due
        due_in_ms = self._summary.next_due_in_ms = response.next_due_in_ms
        self._agenda.answer(
            self._clock.monotonic(),
            found=bool(response.leases),
            of_all=self._asks_for_all,
            due_in_seconds=None if due_in_ms is None else due_in_ms / 1000,
            owes_a_look=self._owes_a_look,
        )

    def not_answered(self) -> None:
        """No answer: the request is repeated, each time after a longer pause."""
        self._unanswered += 1
        pause = min(self.MOST_PAUSE_SECONDS, 0.5 * 2 ** min(self._unanswered - 1, 4))
        self._agenda.put_off(self._clock.monotonic(), pause, is_unanswered=True)

    def refused(self) -> None:
        """The request was refused: it is not repeated, and nothing is asked for a while."""
        self.unanswered = None
        now = self._clock.monotonic()
        self._agenda.put_off(now, self.REFUSED_PAUSE_SECONDS, is_unanswered=False)
