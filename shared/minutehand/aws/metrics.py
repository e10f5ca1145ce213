"""Metrics in CloudWatch's embedded format, which are JSON lines in the log instead of API calls."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from minutehand.config import Settings
from minutehand.queue.credentials import days_left
from minutehand.queue.errors import QueueError
from minutehand.queue.worker_client import WorkerQueue

logger = logging.getLogger(__name__)

NAMESPACE = "Minutehand"
Metrics = dict[str, tuple[float, str]]


class JobMetrics:
    """Writes the metrics for the alarms of infra/aws/alarms.yml.

    The route `/metrics` returns all other metrics.
    """

    def __init__(self, settings: Settings, queue: WorkerQueue) -> None:
        self._settings = settings
        self._queue = queue

    def count_dead_letters(self, count: int) -> None:
        """Write the number of jobs that became dead letters in a worker run."""
        if count:
            self._write({"DeadLetters": (count, "Count")})

    async def report_oldest_due(self, due_left: int) -> None:
        """Write the age of the oldest due job, and the days until the worker's key expires.

        No other metric shows due jobs that no worker run leases.

        If no job is due, write the age 0 without a query.
        """
        age_seconds = 0.0
        if due_left:
            try:
                age_seconds = (await self._queue.health()).oldest_due_seconds or 0.0
            except QueueError as error:
                logger.warning(
                    "The oldest due job's age is unknown",
                    extra={"event": "metrics.incomplete", "error": str(error)},
                )
                return
        gauges: Metrics = {"OldestDueSeconds": (age_seconds, "Seconds")}
        key_days = days_left(self._settings.supabase_worker_key, datetime.now(UTC))
        if key_days is not None:
            gauges["WorkerKeyDays"] = (round(key_days, 2), "None")
        self._write(gauges)

    def _write(self, metrics: Metrics) -> None:
        # name the stack, not the stage, because two projects in an account may have equal stage
        # names
        function_name = self._settings.worker_function_name or self._settings.stage
        stack, at_ms = {"stack": function_name.removesuffix("-worker")}, int(time.time() * 1000)
        sys.stdout.write(emf_line(metrics, stack, at_ms=at_ms) + "\n")


def emf_line(metrics: Metrics, dimensions: Mapping[str, str], *, at_ms: int) -> str:
    """Format metrics as a log line in the embedded format.

    Args:
        metrics: Value and CloudWatch unit of each metric, by the metric's name.
        dimensions: Dimensions by name. Use few dimensions, because AWS charges for each combination
            of values.
        at_ms: Milliseconds since 1970.
    """
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in metrics.items()],
    }
    head = {"Timestamp": at_ms, "CloudWatchMetrics": [directive]}
    values = {name: value for name, (value, _) in metrics.items()}
    body = {"_aws": head, **dimensions, **values}
    return json.dumps(body, separators=(",", ":"))


def log_origin(environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return the log group, log stream and region of this process on Lambda, or None elsewhere."""
    names = {
        "log_group": "AWS_LAMBDA_LOG_GROUP_NAME",
        "log_stream": "AWS_LAMBDA_LOG_STREAM_NAME",
        "region": "AWS_REGION",
    }
    origin = {name: environ[variable] for name, variable in names.items() if environ.get(variable)}
    return origin or None
