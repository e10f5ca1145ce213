"""Nearest-rank percentiles, columns of samples, verdicts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.apps.beacon.statistics import (
    Sample,
    from_columns,
    judge,
    judge_run,
    percentile,
    statistics,
    to_columns,
)


@pytest.mark.parametrize(
    ("per_cent", "value"), [(5, 15), (30, 20), (40, 20), (50, 35), (90, 50), (100, 50)]
)
def test_the_textbook_example(per_cent: int, value: int) -> None:
    """https://en.wikipedia.org/wiki/Percentile#The_nearest-rank_method."""
    assert percentile([15, 20, 35, 40, 50], per_cent) == value


@given(st.lists(st.integers(0, 10**7), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(
    values: list[int], per_cent: int
) -> None:
    """The definition, counted out."""
    ordered = sorted(values)

    found = percentile(ordered, per_cent)

    def share(limit: int) -> int:
        return sum(value <= limit for value in ordered) * 100

    assert share(found) >= per_cent * len(ordered)
    assert all(share(value) < per_cent * len(ordered) for value in ordered if value < found)


SAMPLES = st.lists(
    st.builds(
        Sample,
        st.integers(0, 10**6),
        st.integers(0, 3 * 10**7),
        st.sampled_from(["ok:200", "ok:204", "timeout", "rate_limited:429", "server_error:500"]),
    ),
    max_size=30,
)


@given(SAMPLES)
def test_columns_hold_every_sample(samples: list[Sample]) -> None:
    """Whatever order they came in, the same columns: so the digest is that of the samples."""
    columns = to_columns(samples)

    assert sorted(from_columns(columns), key=str) == sorted(samples, key=str)
    assert statistics(from_columns(columns)) == statistics(samples)
    assert statistics(samples)["count"] == len(samples)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"codes": ["ok:200"], "outcome": [0], "started_ms": [1], "latency_us": []},
        {"codes": ["ok:200"], "outcome": [1], "started_ms": [1], "latency_us": [1]},
        {"codes": ["ok:200"], "outcome": [0], "started_ms": [1], "latency_us": ["1"]},
        {"codes": [1], "outcome": [0], "started_ms": [1], "latency_us": [1]},
        {"codes": None, "outcome": [0], "started_ms": [1], "latency_us": [True]},
    ],
)
def test_other_columns_are_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no columns of samples"):
        from_columns(columns)


def test_errors_have_no_part_in_the_latency() -> None:
    """A refusal within a millisecond would flatter the service."""
    samples = [Sample(0, 1, "connect"), Sample(0, 90, "ok:200"), Sample(0, 100, "ok:204")]

    assert statistics(samples) == {
        "count": 3,
        "errors": 1,
        "outcomes": {"connect": 1, "ok:200": 1, "ok:204": 1},
        "latency_us": {
            "min": 90, "mean": 95, "max": 100,
            "p50": 90, "p75": 100, "p90": 100, "p95": 100, "p99": 100,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("thresholds", "verdict"),
    [
        ({"p95_ms": None, "error_rate": None}, "none"),
        ({"p95_ms": 100, "error_rate": None}, "passed"),
        ({"p95_ms": 99, "error_rate": None}, "failed"),
        ({"p95_ms": None, "error_rate": 0.1}, "passed"),
        ({"p95_ms": None, "error_rate": 0.09}, "failed"),
        ({"p95_ms": 100, "error_rate": 0.09}, "failed"),
    ],
)
def test_a_threshold_is_kept_up_to_its_very_value(thresholds: dict[str, Any], verdict: str) -> None:
    measured = {"count": 10, "errors": 1, "latency_us": {"p95": 100_000}}

    assert judge(measured, thresholds) == verdict


def test_a_p95_that_nothing_reached_is_not_kept() -> None:
    measured = {"count": 10, "errors": 10, "latency_us": None}

    assert judge(measured, {"p95_ms": 60000, "error_rate": None}) == "failed"


def test_a_run_fails_with_a_region_or_without_one() -> None:
    assert judge_run(["passed", "passed"], whole=True) == "passed"
    assert judge_run(["passed", "failed"], whole=True) == "failed"
    assert judge_run(["passed"], whole=False) == "failed"
    assert judge_run(["none", "none"], whole=True) == "none"
    assert judge_run([], whole=False) == "none"
