"""What a tick says of its room, and when it asks again."""

from __future__ import annotations

from infra.bench.scratch import WORKSPACE
from minutehand.clock import SystemClock
from minutehand.config import Settings
from minutehand.queue import WorkerQueue
from minutehand.queue.models import Lease, LeasedJob, LeaseResponse
from minutehand.worker import TickOptions
from minutehand.worker.deadlines import Deadlines
from minutehand.worker.lease_requests import LeaseRequests
from minutehand.worker.summary import TickSummary


class Standing(SystemClock):
    """A clock that is set by hand."""

    at = 0.0

    def monotonic(self) -> float:
        """The time it was set to."""
        return self.at


def requests(clock: Standing) -> LeaseRequests:
    """Of a tick that leases for 48 of its 60 seconds, and asks every half second."""
    settings = Settings.from_env(
        {
            "SUPABASE_URL": "http://127.0.0.1:1",
            "SUPABASE_PUBLISHABLE_KEY": "of no one",
            "SUPABASE_WORKER_KEY": "of no one",
        }
    )
    return LeaseRequests(
        WorkerQueue(settings),
        TickSummary(worker_id="w", tick_id="t"),
        Deadlines.until(0.0, 60.0),
        options=TickOptions(),
        clock=clock,
        job_types=["work"],
        queues=None,
        is_woken=False,
    )


def test_only_a_tick_that_will_ask_again_has_room() -> None:
    """Else its last poll promised room for two seconds more, and a job waited for the minute."""
    clock = Standing()
    asking = requests(clock)
    nothing = LeaseResponse(leases=[], maintenance=False, due=0, next_due_in_ms=None)

    assert asking.request(free_slots=4, staying=True).free_slots is None
    asking.note_answer(nothing)
    clock.at = Deadlines.until(0.0, 60.0).stop_leasing - 0.4
    assert asking.request(free_slots=4, staying=True).free_slots == 0
    asking.note_answer(nothing)

    assert asking.owes_a_look
    assert asking.next_due_at == clock.at + LeaseRequests.TRAILING_SECONDS
    asking.request(free_slots=4, staying=True)
    asking.note_answer(nothing)
    after: tuple[bool, float | None] = (asking.owes_a_look, asking.next_due_at)
    assert after == (False, None)


def test_a_new_id_of_calls_begins_with_its_first() -> None:
    """With which the database sees the worker, and its types and queues."""
    clock = Standing()
    asking = requests(clock)
    asked = []
    for clock.at in (0.0, 59.0, 60.0):
        asked.append(asking.request(free_slots=4, staying=True))
        asking.note_answer(LeaseResponse())

    assert [each.call for each in asked] == [1, 2, 1]
    assert asked[0].tick_id == asked[1].tick_id != asked[2].tick_id


def test_what_is_due_and_never_comes_is_asked_for_less_and_less_often() -> None:
    """Its row is locked by another: pauses double to about three seconds, until a lease comes."""
    asking = requests(Standing())
    due = LeaseResponse(next_due_in_ms=0)

    pauses = []
    for _ in range(10):
        asking.request(free_slots=4, staying=True)
        asking.note_answer(due)
        pauses.append(asking.next_due_at)

    assert pauses == [0.01 * 2 ** min(count, 8) for count in range(1, 11)]
    assert not asking.is_due_now, "after six such answers a tick may leave"
    lease = Lease(
        job=LeasedJob(
            id="01a200a6-7884-7030-864b-60cc70f7392f",
            workspace_id=WORKSPACE,
            job_type="work",
            created_at=asking._clock.now(),
        ),
        fence=1,
    )
    asking.note_answer(LeaseResponse(leases=(lease,), next_due_in_ms=0))
    assert asking.is_due_now
    assert asking.next_due_at == 0.01


def test_a_request_that_was_refused_is_replaced_after_a_rest() -> None:
    """A key that is being rotated, or a version that is too old: asking at once changes nothing."""
    clock = Standing()
    asking = requests(clock)
    asking.request(free_slots=4, staying=True)
    clock.at = 1.0

    asking.refused()

    assert asking.next_due_at == 1.0 + LeaseRequests.REFUSED_PAUSE_SECONDS
    assert not asking.next_due_by(5.9)
    assert asking.request(free_slots=4, staying=True).call == 2
