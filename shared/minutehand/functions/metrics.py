"""`GET /metrics`, which returns the metrics of the whole queue to Prometheus, as OpenMetrics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response

from minutehand.functions.tokens import token_matches
from minutehand.version import VERSION
from minutehand.web.auth import OperatorCredentials
from minutehand.web.errors import unauthorized
from minutehand.web.services import Provided

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

#: Period of the counts and percentiles, in minutes. The counts are gauges, because the database
#: stores no totals since the start.
MINUTES = 60
_OUTCOMES = ("enqueued", "completed", "failed", "cancelled", "retried", "lost")
_QUANTILES = {"0.5": "p50_ms", "0.95": "p95_ms", "0.99": "p99_ms"}

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
async def metrics(services: Provided, secret: OperatorCredentials) -> Response:
    """Return the metrics. Prometheus must send the worker's secret as `Authorization: Bearer`."""
    # import prometheus_client at the first request, because the import takes 5 % of the API's start
    # time
    from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

    offered = secret.credentials if secret else ""
    if not token_matches(offered, services.settings.worker_secret_tokens):
        raise unauthorized("the worker's secret is needed", presented=bool(offered))
    queue = services.operator_queue
    stats = {**await queue.stats(minutes=MINUTES), **await queue.explain()}
    body = generate_latest(registry_of(stats, datetime.now(UTC)))
    return Response(body, media_type=CONTENT_TYPE_LATEST)


def registry_of(stats: dict[str, Any], now: datetime) -> CollectorRegistry:
    """Build the metrics from the result of `queue_stats` over all workspaces.

    Durations are in seconds. Counts of jobs by state, and counts of due jobs, stop at 10,000.
    """
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry(auto_describe=False)

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"minutehand_{name}", text, labels, registry=registry)

    gauge("build_info", "Version of this server.", "version").labels(VERSION).set(1)
    live = gauge("live_jobs", "Jobs that have not ended, by state.", "state")
    for state, jobs in stats["live"].items():
        if isinstance(jobs, int):
            live.labels(state).set(jobs)
    backlog = stats["backlog"]
    due = gauge("due_jobs", "Due jobs, by the reason why they have not started.", "cause")
    for cause, part in backlog.items():
        if isinstance(part, dict) and "jobs" in part:
            due.labels(cause).set(part["jobs"])
    age = gauge("oldest_due_seconds", "Age of the oldest due job that could start.")
    age.set(float(backlog["oldest_due_seconds"] or 0))

    hour = f"in the last {MINUTES} minutes"
    ended = gauge("jobs_last_hour", f"Jobs by type and outcome {hour}.", "job_type", "outcome")
    crashes = gauge(
        "process_deaths",
        f"Attempts that lost their worker, unless another job ended it, {hour}.",
        "job_type",
    )
    spans = {
        "queue": gauge("queue_seconds", f"Time from due to start {hour}.", "job_type", "quantile"),
        "run": gauge("run_seconds", f"Duration of attempts {hour}.", "job_type", "quantile"),
    }
    for job_type, line in stats["types"].items():
        for outcome in _OUTCOMES:
            ended.labels(job_type, outcome).set(line[outcome])
        crashes.labels(job_type).set(line["lost"])
        for measure, span in spans.items():
            for quantile, name in _QUANTILES.items():
                if line[measure][name] is not None:
                    span.labels(job_type, quantile).set(line[measure][name] / 1000)
    paused = gauge("paused", "1 for each pause of a type, a queue or a workspace.", "kind", "name")
    for entry in stats["pauses"]:
        paused.labels(entry["kind"], entry["name"]).set(1)

    labels = ("verdict", "reason", "key", "next")
    reasons = gauge("finding", "A finding of explain_queue: start in Unix time, or 1.", *labels)
    for entry in stats.get("findings", ()):
        [step] = entry["next"][:1] or [{}]
        started = entry["since"] and datetime.fromisoformat(entry["since"]).timestamp()
        values = (entry["verdict"], entry["reason"], entry["key"], step.get("words", ""))
        reasons.labels(*values).set(started or 1)

    seen = [datetime.fromisoformat(tick["seen_at"]) for tick in stats["workers"]]
    if seen:
        gauge("worker_seen_seconds", "Seconds since a worker was last seen.").set(
            max(0.0, (now - max(seen)).total_seconds())
        )
    return registry
