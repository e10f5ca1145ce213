"""CloudWatch's embedded metric format: a JSON line in the log carries metrics, with no API call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

NAMESPACE: Final = "Minutehand"


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
    told = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in metrics.items()],
    }
    head = {"Timestamp": at_ms, "CloudWatchMetrics": [told]}
    values = {name: value for name, (value, _) in metrics.items()}
    body = {"_aws": head, **dimensions, **(properties or {}), **values}
    return json.dumps(body, separators=(",", ":"), default=str)
