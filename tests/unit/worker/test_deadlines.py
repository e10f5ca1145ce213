"""The turning points of a tick: until when it begins, works and settles."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.queue.errors import QueueUnavailable
from minutehand.worker.deadlines import Deadlines, TickOptions, in_time
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
