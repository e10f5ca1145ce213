"""CloudWatch's embedded metric format: one JSON line carries a tick's metrics, with no API call.

Where the line goes is the caller's choice; on Lambda, standard output is enough.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minutehand.worker.summary import TickSummary

NAMESPACE = "Minutehand"
#: What `/metrics` and OpenTelemetry call by the same names, after `minutehand_`.
RUN_SECONDS = ("run_seconds", "The processor itself")
RUNNING_JOBS = ("running_jobs", "Leased jobs by type.")
#: What CloudWatch has as `QueueWaitMs` and `DueLeft`.
QUEUE_WAIT_SECONDS = ("queue_wait_seconds", "From due to start.")
#: Takes one finished metrics line.
Sink = Callable[[str], None]


def emf_line(
    metrics: Mapping[str, tuple[float | Sequence[float], str]],
    dimensions: Mapping[str, str],
    *,
    at_ms: int,
    properties: Mapping[str, Any] | None = None,
) -> str:
    """One line of embedded metrics.

    Args:
        metrics: Value, or up to 100 values, and CloudWatch unit by name.
        dimensions: Keep them few: each combination is a metric that is paid for.
        at_ms: Milliseconds since 1970.
        properties: Searchable in the log, but no dimensions.
    """
    head = {
        "Timestamp": at_ms,
        "CloudWatchMetrics": [
            {
                "Namespace": NAMESPACE,
                "Dimensions": [list(dimensions)],
                "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in metrics.items()],
            }
        ],
    }
    body: dict[str, Any] = {"_aws": head, **dimensions, **(properties or {})}
    for name, (value, _) in metrics.items():
        body[name] = list(value)[:100] if isinstance(value, Sequence) else value
    return json.dumps(body, separators=(",", ":"), default=str)


def tick_line(
    summary: TickSummary,
    *,
    stage: str,
    at_ms: int,
    wait_ms: Sequence[float] = (),
    run_ms: Sequence[float] = (),
    oldest_due_seconds: float | None = None,
    memory_mb: int = 0,
) -> str:
    """The metrics of one tick; with `memory_mb`, what it used of Lambda's GB-seconds."""
    metrics: dict[str, tuple[float | Sequence[float], str]] = {
        "Leased": (summary.leased, "Count"),
        "Completed": (summary.completed, "Count"),
        "Retried": (summary.retried, "Count"),
        "DeadLetters": (summary.failed, "Count"),
        "LeasesLost": (summary.lost, "Count"),
        "Reclaimed": (summary.reclaimed, "Count"),
        "DueLeft": (summary.due_left, "Count"),
        "TickMs": (summary.duration_ms, "Milliseconds"),
    }
    if memory_mb:
        gigabyte_seconds = summary.duration_ms / 1000 * memory_mb / 1024
        metrics["GigabyteSeconds"] = (round(gigabyte_seconds, 4), "None")
    if wait_ms:
        metrics["QueueWaitMs"] = (wait_ms, "Milliseconds")
    if run_ms:
        metrics["RunMs"] = (run_ms, "Milliseconds")
    if oldest_due_seconds is not None:
        metrics["OldestDueSeconds"] = (oldest_due_seconds, "Seconds")
    return emf_line(
        metrics,
        {"stage": stage},
        at_ms=at_ms,
        properties={"worker_id": summary.worker_id, "tick_id": summary.tick_id},
    )
