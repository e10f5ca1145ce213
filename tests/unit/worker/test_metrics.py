"""What a tick sums up, and its lines of CloudWatch's format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minutehand.worker import TickSummary
from minutehand.worker.metrics import tick_line


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


@pytest.mark.parametrize(
    ("counts", "is_worth"),
    [({"calls": 9}, False), ({"leased": 1}, True), ({"reclaimed": 1}, True), ({"error": ""}, True)],
)
def test_a_tick_that_found_nothing_is_not_worth_a_line(
    counts: dict[str, Any], is_worth: bool
) -> None:
    assert TickSummary(worker_id="w", tick_id="t", **counts).is_worth_reporting == is_worth
