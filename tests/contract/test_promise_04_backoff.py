"""A job's retries wait exponentially longer with jitter, by default from a minute to an hour.

A delay that a remote service requests replaces the computed one.
"""

from typing import Any

import pytest

from tests.contract.observed import later, seconds_until
from tests.support.engine import ERROR, Engine


@pytest.mark.parametrize(
    ("backoff", "nominal"),
    [
        ({}, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]),
        ({"first_seconds": 1000, "cap_seconds": 5000, "factor": 4}, [1000, 4000, 5000]),
    ],
)
def test_waits_double_from_a_minute_to_an_hour_or_as_a_type_says(
    engine: Engine, backoff: dict[str, float], nominal: list[int]
) -> None:
    engine.register(backoff=backoff)
    job_id = engine.enqueue(max_attempts=len(nominal) + 1)

    for expected in nominal:
        engine.settle(engine.lease_one(), "retry", error=ERROR)
        wait = seconds_until(engine, job_id)
        assert 0.8 * expected <= wait <= min(nominal[-1], 1.1 * expected)
        engine.advance(wait + 1)


@pytest.mark.parametrize("backoff", [{"first_seconds": 60}, {"first_seconds": 3600}])
def test_waits_spread(engine: Engine, backoff: dict[str, float]) -> None:
    """Twenty jobs that fail at one moment are retried at different times.

    This is also true for the longest backoff.
    """
    engine.register(backoff=backoff)
    engine.enqueue_many(20)
    leases = engine.lease(20)
    for lease in leases:
        engine.settle(lease, "retry", error=ERROR)

    spread = {round(seconds_until(engine, lease["job"]["id"]), 3) for lease in leases}
    assert len(spread) >= 18


@pytest.mark.parametrize(
    ("outcome", "asked", "seconds"),
    [
        ("retry", {"retry_after_seconds": 777}, 777),
        ("retry", {"retry_after_seconds": 1e9}, 604_800),
        ("retry", {"retry_after_seconds": -1}, 0),
        ("snoozed", {}, 60),
        ("snoozed", {"delay_seconds": 1e9}, 31_536_000),
        ("snoozed", {"delay_seconds": -1}, 1),
        ("snoozed", {"until": -7200}, 1),
        ("snoozed", {"until": 7200}, 7200),
    ],
)
def test_retry_after_wins(engine: Engine, outcome: str, asked: Any, seconds: int) -> None:
    """A retry or snooze with its own delay starts after that delay, within the allowed range."""
    engine.stop_clock()
    engine.register(backoff={"first_seconds": 1, "cap_seconds": 5})
    job_id = engine.enqueue()
    if "until" in asked:
        asked = {"until": later(engine, asked["until"])}
    engine.settle(engine.lease_one(), outcome, error=ERROR, **asked)

    assert round(seconds_until(engine, job_id)) == seconds
    if 0 < seconds < 1000:
        engine.advance(seconds - 1)
        assert engine.lease() == []
        engine.advance(1)
        engine.lease_one()
