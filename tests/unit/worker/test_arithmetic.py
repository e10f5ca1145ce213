"""Plain functions of the tick: its turning points, its extra workers, its metrics, its trace."""

from __future__ import annotations

import json
import math

from hypothesis import assume, given
from hypothesis import strategies as st

from minutehand.clock import SystemClock
from minutehand.worker import FanOut, TickSummary
from minutehand.worker.deadlines import Deadlines
from minutehand.worker.extra_workers import ExtraWorkers
from minutehand.worker.metrics import tick_line
from minutehand.worker.trace import child_of, parse


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
    deadlines = Deadlines.until(0, 100)
    half = deadlines.stop_working / 2

    assert deadlines.had_fair_time(half - 1)
    assert not deadlines.had_fair_time(half + 1)
    assert not deadlines.had_fair_time(0, usual_seconds=300)


def test_a_loop_without_deadline_has_none() -> None:
    deadlines = Deadlines.until(0, math.inf)

    assert math.isinf(deadlines.stop_working)
    assert deadlines.had_fair_time(1e9)


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


def test_what_one_worker_carries_in_its_time_starts_no_extra_worker() -> None:
    assert FanOut().extra_workers(due=30, slots=5, seconds_left=60, mean_seconds=0.1) == 0
    assert FanOut().extra_workers(due=1000, slots=5, seconds_left=60, mean_seconds=1.0) == 10
    assert FanOut().extra_workers(due=20, slots=5, seconds_left=60, mean_seconds=1.0) == 0
    assert FanOut().extra_workers(due=20, slots=5, seconds_left=1, mean_seconds=1.0) == 3


async def test_extra_workers_start_once_and_what_is_left_at_the_end_gets_one() -> None:
    """However often a tick sees the backlog; few jobs are not left to the next minute."""
    asked: list[int] = []

    async def start(count: int) -> int:
        asked.append(count)
        return count

    extra = ExtraWorkers(
        FanOut(most=7),
        start,
        summary=TickSummary(worker_id="w", tick_id="t"),
        deadlines=Deadlines.until(0, math.inf),
        clock=SystemClock(),
        slots=5,
    )

    await extra.for_backlog(5000, runs=0)
    await extra.for_backlog(4000, runs=0)
    await extra.for_the_rest(3, runs=0)
    await extra.for_the_rest(0, runs=0)

    assert asked == [7, 1]


def test_a_metrics_line_is_cloudwatchs_format() -> None:
    summary = TickSummary(worker_id="w", tick_id="t", leased=3, completed=2, failed=1)
    summary.duration_ms = 500.0

    line = json.loads(tick_line(summary, stage="prod", at_ms=7, wait_ms=[1.0, 2.0], memory_mb=1024))

    [directive] = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Minutehand"
    assert directive["Dimensions"] == [["stage"]]
    named = {metric["Name"] for metric in directive["Metrics"]}
    assert named >= {"Leased", "DeadLetters", "QueueWaitMs", "GigabyteSeconds"}
    assert all(name in line for name in named)
    assert (line["QueueWaitMs"], line["GigabyteSeconds"]) == ([1.0, 2.0], 0.5)


@given(st.text(max_size=80))
def test_a_broken_trace_header_begins_a_new_trace(header: str) -> None:
    assume(parse(header) is None)

    assert parse(child_of(header)) is not None


def test_a_child_span_stays_in_its_trace() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    child = child_of(parent)

    assert child != parent
    assert child.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    assert child.endswith("-01")
