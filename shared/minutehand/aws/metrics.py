"""CloudWatch's embedded metric format: a JSON line in the log carries metrics, with no API call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

NAMESPACE: Final = "Minutehand"


def emf_line(
    metrics: Mapping[str, tuple[float, str]], dimensions: Mapping[str, str], *, at_ms: int
) -> str:
    """One line of embedded metrics.

    Args:
        metrics: Value and CloudWatch unit by name.
        dimensions: Keep them few: each combination is a metric that is paid for.
        at_ms: Milliseconds since 1970.
    """
    told = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in metrics.items()],
    }
    head = {"Timestamp": at_ms, "CloudWatchMetrics": [told]}
    values = {name: value for name, (value, _) in metrics.items()}
    body = {"_aws": head, **dimensions, **values}
    return json.dumps(body, separators=(",", ":"))


def log_origin(environ: Mapping[str, str]) -> dict[str, str] | None:
    """Where Lambda writes this environment's log, as CloudWatch names it."""
    names = {
        "log_group": "AWS_LAMBDA_LOG_GROUP_NAME",
        "log_stream": "AWS_LAMBDA_LOG_STREAM_NAME",
        "region": "AWS_REGION",
    }
    found = {name: environ[variable] for name, variable in names.items() if environ.get(variable)}
    return found or None
