"""Plain functions of the tick: its turning points, its extra workers, its metrics."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minutehand.queue.errors import QueueUnavailable
from minutehand.worker import FanOut, TickSummary
from minutehand.worker.deadlines import Deadlines, TickOptions, in_time
from minutehand.worker.extra_workers import SIDE_CALL_SECONDS, ExtraWorkers
from minutehand.worker.metrics import database_line, tick_line
from tests.support.virtual_time import LoopClock, leaping


@given(st.floats(0, 1e6), st.floats(0.5, 900))
def test_the_deadlines_of_a_tick_come_in_order_and_leave_time_to_settle(
    start: float, budget: float
) -> None:
    """Leasing ends before working, working before settling, settling before the kill."""
    deadlines = Deadlines.until(start, budget)

    assert start < deadlines.stop_leasing < deadlines.stop_working < deadlines.end <= start + budget
    assert deadlines.stop_leasing - start >= 0.49 * budget


def test_half_of_a_whole_tick_is_a_fair_time() -> None:
    """What begins later and is cut off costs no attempt; nor in a tick shorter than usual."""
    start = 1000.0
    deadlines = Deadlines.until(start, 100)
    half = (deadlines.stop_working - start) / 2

    assert deadlines.had_fair_time(start + half)
    assert not deadlines.had_fair_time(start + half + 1)
    assert not deadlines.had_fair_time(start, usual_seconds=300)


@pytest.mark.parametrize(
    ("budget", "moments"),
    [
        (900, (890, 897, 899.7)),
        (60, (50, 57, 59.7)),
        (10, (8, 9, 9.7)),
        (4, (3, 3.5, 3.8)),
        (1, (0.5, 0.7, 0.95)),
    ],
)
def test_a_longer_tick_keeps_more_of_its_time_to_settle(
    budget: float, moments: tuple[float, float, float]
) -> None:
    made = Deadlines.until(0, budget)

    assert (made.stop_leasing, made.stop_working, made.end) == pytest.approx(moments)


@pytest.mark.parametrize(
    ("now", "usual", "is_fresh"),
    [(9.6, None, True), (9.8, None, False), (9.6, 50, True), (0, 108, False), (0, 107, True)],
)
def test_a_tick_is_fresh_while_nine_tenths_of_a_usual_one_are_left(
    now: float, usual: float | None, is_fresh: bool
) -> None:
    """What takes longer than a whole run would otherwise never start."""
    assert Deadlines.until(1000, 100).is_fresh(1000 + now, usual) == is_fresh


def test_a_tick_is_as_the_lambda_function_needs_it_unless_it_says_otherwise() -> None:
    options = TickOptions()

    assert (options.concurrency, options.poll_seconds, options.linger_seconds) == (5, 0.5, 55)
    assert (options.grace_seconds, options.renew_outside_seconds) == (5, 10)
    assert (options.report_seconds, options.usd_per_second, options.quiet) == (0.25, 0, False)
    assert (options.lease_seconds, options.usual_seconds, options.origin) == (None, None, None)


@pytest.mark.parametrize(
    ("takes", "until", "ended_at"),
    [(9, 10, 9), (9, 3, None), (0.2, -5, 0.2), (0.4, -5, None), (1e6, math.inf, 1e6)],
)
def test_a_call_is_given_up_at_its_deadline_and_has_a_moment_in_any_case(
    takes: float, until: float, ended_at: float | None
) -> None:
    async def story() -> float:
        clock = LoopClock()
        await in_time(asyncio.sleep(takes), until, clock)
        return clock.monotonic()

    if ended_at is None:
        with pytest.raises(QueueUnavailable):
            leaping(story())
    else:
        assert leaping(story()) == ended_at


def test_a_loop_without_deadline_has_none() -> None:
    deadlines = Deadlines.until(5, math.inf)

    assert (deadlines.start, deadlines.stop_working) == (5, math.inf)
    assert deadlines.had_fair_time(1e9)
    assert deadlines.is_fresh(1e9)


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


def test_a_metrics_line_is_cloudwatchs_format() -> None:
    summary = TickSummary(
        worker_id="w", tick_id="t", leased=9, completed=8, retried=7, failed=6, lost=5,
        reclaimed=4, due_left=3, duration_ms=500.0,
    )  # fmt: skip

    bare = json.loads(tick_line(summary, stage="prod", at_ms=7))
    whole = json.loads(
        tick_line(
            summary, stage="prod", at_ms=7, wait_ms=[1.0] * 101, run_ms=[2.0],
            oldest_due_seconds=0, memory_mb=1024,
        )
    )  # fmt: skip

    counts = {
        "Leased": 9, "Completed": 8, "Retried": 7, "DeadLetters": 6, "LeasesLost": 5,
        "Reclaimed": 4, "DueLeft": 3,
    }  # fmt: skip
    more = {
        "GigabyteSeconds": 0.5, "QueueWaitMs": [1.0] * 100, "RunMs": [2.0], "OldestDueSeconds": 0,
    }  # fmt: skip
    units = {"TickMs": "Milliseconds", "QueueWaitMs": "Milliseconds", "RunMs": "Milliseconds"} | {
        "GigabyteSeconds": "None", "OldestDueSeconds": "Seconds",
    }  # fmt: skip
    for line, metrics in ((bare, {}), (whole, more)):
        told = counts | {"TickMs": 500.0} | metrics
        named = [{"Name": name, "Unit": units.get(name, "Count")} for name in told]
        about = {"Namespace": "Minutehand", "Dimensions": [["stage"]], "Metrics": named}
        head = {"_aws": {"Timestamp": 7, "CloudWatchMetrics": [about]}}
        assert line == head | told | {"stage": "prod", "worker_id": "w", "tick_id": "t"}


def test_the_database_s_size_is_a_metric_of_its_stage() -> None:
    line = json.loads(database_line(5, stage="prod", at_ms=7))
    [about] = line["_aws"]["CloudWatchMetrics"]

    assert (line["stage"], line["DatabaseBytes"]) == ("prod", 5)
    assert about["Metrics"] == [{"Name": "DatabaseBytes", "Unit": "Bytes"}]


@pytest.mark.parametrize(
    ("counts", "is_worth"),
    [({"calls": 9}, False), ({"leased": 1}, True), ({"reclaimed": 1}, True), ({"error": ""}, True)],
)
def test_a_tick_that_found_nothing_is_not_worth_a_line(
    counts: dict[str, Any], is_worth: bool
) -> None:
    assert TickSummary(worker_id="w", tick_id="t", **counts).is_worth_reporting == is_worth
