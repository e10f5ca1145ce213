"""What a tick says of its room, and when it asks again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infra.bench.scratch import WORKSPACE
from minutehand.clock import Clock, SystemClock
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.models import Lease, LeasedJob, LeaseRequest, LeaseResponse
from minutehand.worker import TickOptions, metrics
from minutehand.worker.deadlines import Deadlines
from minutehand.worker.lease_requests import LeaseRequests
from minutehand.worker.summary import TickSummary
from tests.support.queue_model import ModelQueue
from tests.support.virtual_time import LoopClock, leaping


class Standing(SystemClock):
    """A clock that is set by hand."""

    at = 0.0

    def monotonic(self) -> float:
        """The time it was set to."""
        return self.at


def requests(clock: Clock, **changes: Any) -> LeaseRequests:
    """Of a tick that leases for 50 of its 60 seconds, and asks every half second."""
    fields: dict[str, Any] = {
        "options": TickOptions(),
        "job_types": ["work"],
        "queues": None,
        "is_woken": False,
    }
    return LeaseRequests(
        ModelQueue(),
        TickSummary(worker_id="w", tick_id="t"),
        Deadlines.until(0.0, 60.0),
        clock=clock,
        **fields | changes,
    )


def test_a_request_says_what_its_tick_can_take() -> None:
    """The first of a run has no bound of time, whenever it is made, and carries the origin."""
    clock = Standing()
    origin = {"commit": "c"}
    options = TickOptions(lease_seconds=33, version="v", origin=origin)
    asking = requests(clock, options=options, queues=["mail"])
    assert (asking.owes_a_look, asking.due, asking.next_due_at) == (False, 0, None)

    clock.at = 20.0
    first = asking.request(free_slots=-1, staying=False)
    asking.note_answer(LeaseResponse(due=3, next_due_in_ms=1500))
    told = (asking.due, asking._summary.next_due_in_ms, asking.next_due_at)
    clock.at = 30.0
    second = asking.request(free_slots=4, staying=True, count_due=True)

    assert first == LeaseRequest(
        worker_id="w", tick_id="t", call=1, limit=0, job_types=("work",), queues=("mail",),
        lease_seconds=33, version="v", origin=origin, free_slots=0,
    )  # fmt: skip
    assert told == (3, 1500, 21.5)
    assert second == first.model_copy(
        update={
            "call": 2, "limit": 4, "budget_ms": 27_000, "origin": None, "free_slots": None,
            "count_due": True,
        }
    )  # fmt: skip
    assert asking._summary.calls == 2
    asking.note_answer(LeaseResponse())
    clock.at = 58.0
    assert asking.request(free_slots=4, staying=True).budget_ms == 0

    short = requests(Standing(), options=TickOptions(usual_seconds=600))
    assert short.request(free_slots=4, staying=False).budget_ms == 57_000, "others have more"


def test_a_request_without_an_answer_is_repeated_as_it_was() -> None:
    """What it leased is found again, however many slots are free by then."""
    clock = Standing()
    asking = requests(clock)
    first = asking.request(free_slots=4, staying=True)
    clock.at = 70.0

    assert asking.request(free_slots=9, staying=False) is first
    assert (asking.polled_at, asking._summary.calls) == (70.0, 1)


def test_a_tick_that_is_woken_promises_no_room() -> None:
    """Enqueues go on to wake it."""
    asking = requests(Standing(), is_woken=True)

    assert asking.request(free_slots=4, staying=True).free_slots == 0
    assert not asking.owes_a_look


def test_what_is_left_is_observed_where_the_database_has_counted_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the first call and where it was asked for; the others say nothing of it."""
    seen: list[int] = []
    monkeypatch.setattr(metrics, "on_due_counted", [seen.append])

    async def story() -> None:
        asking = requests(LoopClock())
        monkeypatch.setattr(asking._queue, "lease", count)
        for count_due in (None, None, True):
            request = asking.request(free_slots=4, staying=True, count_due=count_due)
            asking.note_answer(await asking.ask(request))

    async def count(request: LeaseRequest) -> LeaseResponse:
        return LeaseResponse(due=request.call)

    leaping(story())

    assert seen == [1, 3]


@pytest.mark.parametrize(("until", "given_up"), [(None, 57.0), (3.0, 3.0)])
def test_a_call_that_hangs_is_given_up_when_work_must_stop_or_before(
    monkeypatch: pytest.MonkeyPatch, until: float | None, given_up: float
) -> None:
    async def story() -> float:
        clock = LoopClock()
        asking = requests(clock)
        monkeypatch.setattr(asking._queue, "lease", lambda request: asyncio.sleep(1000))
        with pytest.raises(QueueUnavailable):
            await asking.ask(asking.request(free_slots=4, staying=True), until=until)
        return clock.monotonic()

    assert leaping(story()) == given_up


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
    asking.note_answer(LeaseResponse(next_due_in_ms=50))
    assert asking.next_due_at == clock.at + 0.05
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

    pauses, stays = [], []
    for _ in range(10):
        asking.request(free_slots=4, staying=True)
        asking.note_answer(due)
        pauses.append(asking.next_due_at)
        stays.append(asking.is_due_now)

    assert pauses == [0.01 * 2 ** min(count, 8) for count in range(1, 11)]
    assert stays == [True] * 5 + [False] * 5, "after six such answers a tick may leave"
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
    asking.note_answer(LeaseResponse())
    asking.request(free_slots=4, staying=False)
    assert asking.owes_a_look
    assert not asking.next_due_by(1e9)
    clock.at = 1.0

    asking.refused()

    assert not asking.owes_a_look, "one that is refused leaves"

    assert asking.next_due_at == 1.0 + LeaseRequests.REFUSED_PAUSE_SECONDS
    assert (asking.next_due_by(5.9), asking.next_due_by(6.0)) == (False, True)
    assert asking.request(free_slots=4, staying=True).call == 3
