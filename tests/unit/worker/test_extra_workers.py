"""How many extra workers a tick starts, when, and what becomes of those that do not start."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minutehand.worker import FanOut, TickSummary
from minutehand.worker.deadlines import Deadlines
from minutehand.worker.extra_workers import SIDE_CALL_SECONDS, ExtraWorkers
from tests.support.virtual_time import LoopClock, leaping


@given(st.integers(0, 5000), st.integers(1, 100), st.floats(0, 900), st.none() | st.floats(0, 600))
def test_extra_workers_are_capped_and_only_for_a_backlog(
    due: int, slots: int, left: float, mean: float | None
) -> None:
    policy = FanOut(most=7)

    count = policy.extra_workers(due=due, slots=slots, seconds_left=left, mean_seconds=mean)

    assert 0 <= count <= 7
    assert count == 0 or due > slots


@given(st.integers(10, 5000), st.integers(1, 50), st.floats(1, 300))
def test_a_longer_backlog_never_gets_fewer_extra_workers(due: int, slots: int, left: float) -> None:
    policy = FanOut(most=50)
    assume(due < 4900)

    few = policy.extra_workers(due=due, slots=slots, seconds_left=left)
    more = policy.extra_workers(due=due + 100, slots=slots, seconds_left=left)

    assert few <= more


@pytest.mark.parametrize(
    ("due", "slots", "left", "mean", "started"),
    [
        (30, 5, 60, 0.1, 0),
        (1000, 5, 60, 1.0, 10),
        (25, 5, 60, None, 0),
        (26, 5, 60, None, 1),
        (20, 5, 1, 1.0, 3),
        (20, 5, -3, 1.0, 3),
        (25_000, 5, 60, 0.0, 0),
        (25_001, 5, 60, 0.0, 1),
        (9, 1, 60, 9, 0),
        (10, 1, 60, 9, 9),
        (10, 0, 60, 9, 0),
        (20, 5, 60, 30, 3),
        (60, 5, 0.5, 0.1, 1),
    ],
)
def test_extra_workers_take_what_one_does_not_begin_in_its_time(
    due: int, slots: int, left: float, mean: float | None, started: int
) -> None:
    policy = FanOut()

    assert started == policy.extra_workers(
        due=due, slots=slots, seconds_left=left, mean_seconds=mean
    )


class Starting:
    """Extra workers of a tick on the loop's clock: how many were asked for, and accepted."""

    def __init__(self, most: int = 7, *, accepts: int = 7, budget: float = math.inf) -> None:
        self.asked: list[int] = []
        self.takes = 0.0
        self.summary = TickSummary(worker_id="w", tick_id="t")

        async def start(count: int) -> int:
            self.asked.append(count)
            await asyncio.sleep(self.takes)
            return min(count, accepts)

        self.extra = ExtraWorkers(
            FanOut(most=most),
            start,
            summary=self.summary,
            deadlines=Deadlines.until(0, budget),
            clock=LoopClock(),
            slots=5,
        )


def test_extra_workers_start_once_and_what_is_left_at_the_end_gets_one() -> None:
    """However often a tick sees the backlog; few jobs are not left to the next minute."""

    async def story() -> Starting:
        tick = Starting()
        for due in (5000, 4000):
            await tick.extra.for_backlog(due, runs=0)
        for due in (3, 100, 0):
            await tick.extra.for_the_rest(due, runs=0)
        return tick

    tick = leaping(story())

    assert (tick.asked, tick.summary.extra_workers) == ([7, 1, 3], 11)


def test_extra_workers_are_counted_by_how_long_jobs_took_and_what_time_is_left() -> None:
    async def story() -> list[int]:
        tick = Starting(accepts=0, budget=60)
        await tick.extra.for_backlog(200, runs=0)
        tick.summary.busy_ms = 4000.0
        await tick.extra.for_backlog(200, runs=8)
        await asyncio.sleep(49)
        await tick.extra.for_backlog(200, runs=100)
        return tick.asked

    assert leaping(story()) == [7, 3, 1], "a refusal is normal: the next look asks again"


def test_extra_workers_that_do_not_start_in_time_are_given_up() -> None:
    """The tick does not depend on them; nor on those that its policy forbids."""

    async def story() -> tuple[float, int, list[int]]:
        tick, forbidden = Starting(), Starting(most=0)
        tick.takes = 100
        await tick.extra.for_the_rest(3, runs=0)
        await forbidden.extra.for_the_rest(3, runs=0)
        return asyncio.get_running_loop().time(), tick.summary.extra_workers, forbidden.asked

    assert leaping(story()) == (SIDE_CALL_SECONDS, 0, [])


@pytest.mark.parametrize("takes", [0, 100])
def test_extra_workers_are_in_the_log_with_what_they_are_for(
    takes: float, caplog: pytest.LogCaptureFixture
) -> None:
    """One job that is left at the end is enough for one."""
    caplog.set_level("INFO")

    async def story() -> None:
        tick = Starting()
        tick.takes = takes
        await tick.extra.for_the_rest(1, runs=0)

    leaping(story())

    said = [line.__dict__ for line in caplog.records]
    who = {"worker_id": "w", "tick_id": "t"}
    started = {"event": "tick.fanned_out", "wanted": 1, "accepted": 0 if takes else 1, "due": 1}
    assert said[-1] | who | started | {"levelname": "INFO"} == said[-1]
    late = [line for line in said if line["event"] == "fanout.late"]
    assert len(late) == (1 if takes else 0)
    assert all(line | who | {"levelname": "WARNING"} == line and line["error"] for line in late)


@pytest.mark.parametrize(("most", "starts"), [(2, True), (2, False), (None, True), (None, False)])
def test_without_a_policy_or_a_way_no_extra_worker_is_started(
    most: int | None, starts: bool
) -> None:
    async def story() -> tuple[bool, list[int]]:
        tick = Starting()
        tick.extra._policy = None if most is None else FanOut(most=most)
        tick.extra._start = tick.extra._start if starts else None
        await tick.extra.for_backlog(500, runs=0)
        await tick.extra.for_the_rest(500, runs=0)
        return tick.extra.can_start, tick.asked

    can_start = most is not None and starts
    assert leaping(story()) == (can_start, [2, 2] if can_start else [])
