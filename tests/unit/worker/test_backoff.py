"""Backoff is arithmetic: it grows, and it is capped."""

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


def test_the_default_waits_a_minute_then_doubles_up_to_an_hour() -> None:
    assert [Backoff().delay(n) for n in (1, 2, 3, 7, 20)] == [60, 120, 240, 3600, 3600]


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": -1},
        {"first": 10, "cap": 5},
        {"factor": 0.5},
        {"factor": 11},
        {"cap": timedelta(days=8)},
        {"first": timedelta(days=2), "cap": timedelta(days=3)},
    ],
)
def test_a_policy_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be from"):
        Backoff(**wrong)
