"""Backoff is arithmetic: it grows, and it is capped; its limits are the database's."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.worker import Backoff

policies = st.builds(
    Backoff,
    first=st.floats(0, 3600),
    cap=st.floats(3600, 604_800),
    factor=st.floats(1, 10),
)


@given(policies, st.integers(1, 200))
def test_it_never_shrinks_and_never_passes_its_cap(policy: Backoff, attempt: int) -> None:
    delay, following = policy.delay(attempt), policy.delay(attempt + 1)

    assert 0 <= delay <= following <= float(policy.cap)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (Backoff(), [60, 120, 240, 3600, 3600]),
        (Backoff(first=0), [0, 0, 0, 0, 0]),
        (Backoff(first=timedelta(seconds=7), factor=1), [7, 7, 7, 7, 7]),
        (Backoff(first=1, factor=10, cap=1e5), [1, 10, 100, 1e5, 1e5]),
    ],
)
def test_each_wait_is_the_last_times_the_factor(policy: Backoff, delays: list[float]) -> None:
    assert [policy.delay(n) for n in (1, 2, 3, 7, 5000)] == delays


def test_the_database_applies_the_policy_as_it_was_given() -> None:
    policy = Backoff(first=timedelta(minutes=1), cap=timedelta(days=7), factor=10)

    assert policy.wire().model_dump() == {
        "first_seconds": 60, "cap_seconds": 604_800, "factor": 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": -1},
        {"first": timedelta(seconds=86_401), "cap": 604_800},
        {"first": 10, "cap": 5},
        {"factor": 0.99},
        {"factor": 10.1},
        {"cap": 604_801},
    ],
)
def test_a_policy_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be from"):
        Backoff(**wrong)
