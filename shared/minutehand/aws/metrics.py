"""CloudWatch's embedded metric format: a JSON line in the log carries metrics, with no API call."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from minutehand.config import Settings
from minutehand.queue.errors import QueueError
from minutehand.queue.keys import days_left
from minutehand.queue.worker_client import WorkerQueue

logger = logging.getLogger(__name__)

NAMESPACE: Final = "Minutehand"
Metrics = dict[str, tuple[float, str]]


class JobMetrics:
    """What the alarms of infra/aws/alarms.yml read; the other numbers of jobs are in `/metrics`."""

    def __init__(self, settings: Settings, queue: WorkerQueue) -> None:
        self._settings = settings
        self._queue = queue

    def count_dead_letters(self, count: int) -> None:
        """Write how many jobs a tick gave up."""
        if count:
            self._write({"DeadLetters": (count, "Count")})

    async def report_oldest_due(self, due_left: int) -> None:
        """Write the one metric that notices jobs which no tick takes; idle costs no query."""
        oldest = 0.0
        if due_left:
            try:
                oldest = (await self._queue.health()).oldest_due_seconds or 0.0
            except QueueError as error:
                logger.warning(
                    "The oldest due job's age is unknown",
                    extra={"event": "metrics.incomplete", "error": str(error)},
                )
                return
        gauges: Metrics = {"OldestDueSeconds": (oldest, "Seconds")}
        key_days = days_left(self._settings.supabase_worker_key, datetime.now(UTC))
        if key_days is not None:
            gauges["WorkerKeyDays"] = (round(key_days, 2), "None")
        self._write(gauges)

    def _write(self, metrics: Metrics) -> None:
        # two projects of an account may have stages of one name
        worker = self._settings.worker_function_name or self._settings.stage
        stack, at_ms = {"stack": worker.removesuffix("-worker")}, int(time.time() * 1000)
        sys.stdout.write(emf_line(metrics, stack, at_ms=at_ms) + "\n")


def emf_line(metrics: Metrics, dimensions: Mapping[str, str], *, at_ms: int) -> str:
    """One line of embedded metrics.

    Args:
        metrics: Value and CloudWatch unit by name.
        dimensions: Keep them few: each combination is a metric that is paid for.
        at_ms: Milliseconds since 1970.
    """
    said = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in metrics.items()],
    }
    head = {"Timestamp": at_ms, "CloudWatchMetrics": [said]}
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
