"""Calls of maintenance beside a tick: when, how often, and what a failure costs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.models import MaintenanceResponse
from minutehand.worker.deadlines import Deadlines
from minutehand.worker.maintenance import Maintenance
from minutehand.worker.summary import TickSummary
from tests.support.queue_model import ModelQueue
from tests.support.virtual_time import LoopClock, leaping


class Answering(ModelQueue):
    """Answers each call of maintenance alike, after a while."""

    def __init__(self, answer: MaintenanceResponse | None) -> None:
        super().__init__()
        self.answer = answer
        self.began: list[float] = []
        self.ask: Callable[[], None] = lambda: None
        self.asks: tuple[int, ...] = ()

    async def maintain(self, *, budget_seconds: float = 1.0) -> MaintenanceResponse:
        """The answer; none is an outage."""
        self.began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.3)
        if len(self.began) in self.asks:
            self.ask()
        if self.answer is None:
            raise QueueUnavailable("away")
        return self.answer


def calls(
    queue: Answering, *, busy: bool, asked: bool, again: bool = True, budget: float = math.inf
) -> tuple[list[float], list[bool]]:
    """Pauses between the calls of half a minute, and what each said of ready jobs.

    Asked for at the start, and after each call `again`.
    """
    moved: list[bool] = []

    async def story() -> None:
        def done(has_moved: bool) -> None:
            moved.append(has_moved)
            if asked and again:
                maintenance.request()

        clock = LoopClock()
        maintenance = Maintenance(
            queue,
            TickSummary(worker_id="w", tick_id="t"),
            Deadlines.until(clock.monotonic(), budget),
            clock=clock,
            is_busy=lambda: busy,
            on_done=done,
        )
        queue.ask = maintenance.request
        if asked:
            maintenance.request()
        running = asyncio.create_task(maintenance.run())
        await asyncio.wait({running}, timeout=30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    leaping(story())
    pairs = zip(queue.began, queue.began[1:], strict=False)
    return [round(late - early - 0.3, 3) for early, late in pairs], moved


@pytest.mark.parametrize(
    ("answer", "pause", "has_moved", "goes_on"),
    [
        (None, 5.0, True, False),
        (MaintenanceResponse(), 0.0, True, False),
        (MaintenanceResponse(busy=True), 0.1, True, False),
        (MaintenanceResponse(done={"messages": 1}), 0.5, False, True),
        (MaintenanceResponse(done={"retention": 9}, more=True), 0.3, True, True),
    ],
)
def test_what_is_asked_for_again_waits_as_the_answer_says(
    answer: MaintenanceResponse | None, pause: float, has_moved: bool, goes_on: bool
) -> None:
    """An outage five seconds; a large clean-up as long as it took, so that jobs get half."""
    pauses, moved = calls(Answering(answer), busy=False, asked=True)
    unasked, _ = calls(Answering(answer), busy=False, asked=True, again=False)

    assert set(pauses) == {pause}
    assert set(moved) == {has_moved}
    assert set(unasked) == ({pause} if goes_on else set()), "what is left needs no request"


def test_a_busy_tick_calls_every_second_and_an_idle_one_never_unasked() -> None:
    """Else a tick whose slots are always full would leave maintenance to no one."""
    pauses, moved = calls(Answering(MaintenanceResponse()), busy=True, asked=False)

    assert set(pauses) == {1.0}
    assert set(moved) == {False}
    assert calls(Answering(MaintenanceResponse()), busy=False, asked=False) == ([], [])


def test_what_is_asked_for_during_a_call_is_done_by_the_next() -> None:
    """It may have become due after that call looked."""
    queue = Answering(MaintenanceResponse())
    queue.asks = (1, 3)
    pauses, _ = calls(queue, busy=True, asked=False)

    assert pauses[:4] == [0.0, 1.0, 0.0, 1.0]


def test_nothing_is_begun_when_work_must_stop() -> None:
    """What it locks, the last settles need."""
    queue = Answering(MaintenanceResponse())
    calls(queue, busy=True, asked=True, budget=10)

    assert queue.began
    assert queue.began[-1] < queue.began[0] + Deadlines.until(0, 10).stop_working


def test_what_is_parked_is_logged_once_although_another_maintains_in_between(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its answer counts nothing: one line for each call would bury what is new."""

    class InTurns(Answering):
        async def maintain(self, *, budget_seconds: float = 1.0) -> MaintenanceResponse:
            is_busy = len(self.began) % 2 == 1
            self.answer = MaintenanceResponse(busy=is_busy, parked=0 if is_busy else 2)
            return await super().maintain(budget_seconds=budget_seconds)

    calls(InTurns(None), busy=False, asked=True)

    assert len([line for line in caplog.messages if "are parked" in line]) == 1


class Once(Answering):
    """Maintains after so many seconds."""

    def __init__(self, answer: MaintenanceResponse | None, takes: float = 0.3) -> None:
        super().__init__(answer)
        self.takes = takes

    async def maintain(self, *, budget_seconds: float = 1.0) -> MaintenanceResponse:
        """The answer, that late."""
        await asyncio.sleep(self.takes)
        if self.answer is None:
            raise QueueUnavailable("away")
        return self.answer


def one_call(
    queue: Once, *, budget: float = math.inf
) -> tuple[list[bool], TickSummary, list[float], list[bool]]:
    """Whether one is wanted before, once asked for, during and after it; what it came to, when."""
    summary, at = TickSummary(worker_id="w", tick_id="t", reclaimed=1, promoted=1), list[float]()
    wanted, moved = list[bool](), list[bool]()

    async def story() -> None:
        clock = LoopClock()

        def done(has_moved: bool) -> None:
            at.append(clock.monotonic())
            moved.append(has_moved)

        maintenance = Maintenance(
            queue, summary, Deadlines.until(0, budget), clock=clock, is_busy=lambda: False,
            on_done=done,
        )  # fmt: skip
        wanted.append(maintenance.is_wanted)
        maintenance.request()
        wanted.append(maintenance.is_wanted)
        running = asyncio.create_task(maintenance.run())
        await asyncio.sleep(0.1)
        wanted.append(maintenance.is_wanted)
        await asyncio.sleep(30)
        wanted.append(maintenance.is_wanted)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    leaping(story())
    return wanted, summary, at, moved


@pytest.mark.parametrize("answer", [None, MaintenanceResponse()])
def test_a_call_is_wanted_from_its_request_to_its_answer(
    answer: MaintenanceResponse | None,
) -> None:
    """Until then a tick does not leave: what is made ready would wait for the next."""
    wanted, *_ = one_call(Once(answer))

    assert wanted == [False, True, True, False]


@pytest.mark.parametrize(("budget", "given_up"), [(math.inf, 10), (10, 9), (900, 10)])
def test_an_answer_is_waited_for_ten_seconds_or_until_work_must_stop(
    budget: float, given_up: float, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, at, moved = one_call(Once(MaintenanceResponse(), takes=20), budget=budget)

    assert (at[0], moved[0]) == (given_up, True)
    [line, *_] = caplog.records
    assert (line.levelname, line.__dict__["event"]) == ("WARNING", "maintenance.failed")
    assert line.__dict__["worker_id"] == "w"
    assert "did not answer" in line.__dict__["error"]


def test_what_was_done_is_counted_and_what_failed_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A person should look at each task that is parked, and at the first of the items."""
    done = MaintenanceResponse(done={"reclaim": 2, "promotion": 3}, failed=("retention",), parked=1)

    _, summary, _, moved = one_call(Once(done))
    _, nothing, *_ = one_call(Once(MaintenanceResponse()))

    assert (summary.reclaimed, summary.promoted, moved) == (3, 4, [True])
    assert (nothing.reclaimed, nothing.promoted) == (1, 1)
    said = [(each.levelname, each.__dict__["event"], each.__dict__["worker_id"], each.message)
            for each in caplog.records]  # fmt: skip
    assert said == [
        ("ERROR", "maintenance.parked", "w", "Maintenance task retention failed and is parked"),
        ("ERROR", "maintenance.parked", "w", "1 items of maintenance are parked, see queue_health"),
    ]


def test_a_busy_tick_that_made_jobs_ready_unasked_says_so() -> None:
    """And it maintains also when it leases no more."""
    queue = Answering(MaintenanceResponse(done={"reclaim": 1}))
    _, moved = calls(queue, busy=True, asked=False, budget=10)

    assert set(moved) == {True}
    assert queue.began[-1] > Deadlines.until(0, 10).stop_leasing
