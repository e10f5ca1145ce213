"""Rates and windows by a clock of the test's own."""

from __future__ import annotations

import dataclasses

import pytest

from supabase_local.realtime.limits import PLANS, CallWindow, Limits, MessageRate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_messages_are_counted_as_hosted_does() -> None:
    """Short after the start the mean is of few buckets, and a burst of seconds is enough."""
    clock = Clock()
    rate = MessageRate(per_second=100, tick=5, clock=clock)

    rate.add(999)
    clock.now += 5
    assert not rate.exceeded()  # 999 in two buckets of five seconds
    rate.add(501)
    clock.now += 5
    assert rate.exceeded()  # 1,500 in three
    assert rate.rolling == 100
    assert (rate.allows(0), rate.allows(1)) == (True, False)
    clock.now += 5
    assert rate.rolling < 100  # whoever asks, without a message
    assert not rate.exceeded()


def test_a_steady_rate_below_the_limit_is_never_too_much() -> None:
    """Whatever the phase of the ticks."""
    clock = Clock()
    rate = MessageRate(per_second=100, tick=5, clock=clock)
    for _ in range(300):
        rate.add(99)
        clock.now += 1
        assert not rate.exceeded()


def test_after_minutes_of_silence_counting_begins_again() -> None:
    """The long window of zeros does not make up for a burst."""
    clock = Clock()
    rate = MessageRate(per_second=100, tick=5, clock=clock)
    clock.now += 600
    rate.add(1_000)
    clock.now += 5

    assert rate.exceeded()


def test_a_plan_sets_all_its_limits() -> None:
    """Pro is the default, and one variable more names an exception."""
    assert Limits.from_env({}).messages_per_second == 500
    free = Limits.from_env({"REALTIME_PLAN": "free", "REALTIME_CONNECTIONS": "7"})
    assert (free.messages_per_second, free.payload_bytes, free.connections) == (100, 256_500, 7)
    for plan in PLANS:
        Limits.from_env({"REALTIME_PLAN": plan})
    with pytest.raises(ValueError, match="REALTIME_PLAN must be one of free, pro"):
        Limits.from_env({"REALTIME_PLAN": "team"})


def test_calls_are_counted_in_a_sliding_window() -> None:
    """Five in thirty seconds, wherever the thirty seconds begin."""
    clock = Clock()
    window = CallWindow(5, 30, clock)

    allowed = [window.allow() for _ in range(6)]
    clock.now += 30

    assert allowed == [True] * 5 + [False]
    assert window.allow()


def test_every_limit_can_be_set_from_the_environment() -> None:
    """By its own name."""
    environ = {f"REALTIME_{f.name.upper()}": "1" for f in dataclasses.fields(Limits)}

    limits = Limits.from_env(environ)

    assert all(getattr(limits, f.name) == 1 for f in dataclasses.fields(Limits))
    assert limits.private_only is True
    assert Limits.from_env({"REALTIME_PRIVATE_ONLY": "false"}).private_only is False


def test_a_bad_value_is_named() -> None:
    """The launcher's user must see which variable it is."""
    with pytest.raises(ValueError, match="REALTIME_CONNECTIONS='many'"):
        Limits.from_env({"REALTIME_CONNECTIONS": "many"})
