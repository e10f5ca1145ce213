"""The dashboard asks for metrics that `/metrics` gives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.exposition import generate_latest

from infra.bench.scratch import scratch_settings
from minutehand.functions.metrics import registry_of, router
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.worker_client import WorkerQueue
from minutehand.version import VERSION
from minutehand.web.application import create_app
from minutehand.web.services import Services

NONE = {"p50_ms": None, "p95_ms": None, "p99_ms": None}
STATS: dict[str, Any] = {
    "live": {"queued": 1, "running": 0},
    "backlog": {"ready": {"jobs": 1}, "oldest_due_seconds": None, "stalled_seconds": None},
    "types": {
        'a"b\n': {
            **dict.fromkeys(("enqueued", "completed", "failed", "cancelled", "retried", "lost"), 2),
            "queue": NONE,
            "run": {"p50_ms": 1.0, "p95_ms": 1500.0, "p99_ms": 2000.0},
        }
    },
    "limits": [{"job_type": "a", "running": 1, "paused_at": None, "max_concurrency": 5}],
    "workers": [{"seen_at": f"2026-11-{day}T12:00:00+00:00"} for day in ("21", "22")],
}


def test_every_panel_shows_a_metric_that_is_there() -> None:
    """And what is not known is left out; a type's name may be any text."""
    text = generate_latest(registry_of(STATS, datetime(2026, 11, 22, 12, 1, tzinfo=UTC))).decode()

    assert 'minutehand_run_seconds{job_type="a\\"b\\n",quantile="0.95"} 1.5' in text
    for line in (
        f'build_info{{version="{VERSION}"}} 1.0',
        'live_jobs{state="queued"} 1.0',
        'due_jobs{cause="ready"} 1.0',
        "oldest_due_seconds 0.0",
        "stalled_seconds 0.0",
        'jobs_last_hour{job_type="a\\"b\\n",outcome="lost"} 2.0',
        'running_jobs{job_type="a"} 1.0',
        'running_jobs_limit{job_type="a"} 5.0',
        'type_paused{job_type="a"} 0.0',
        "worker_seen_seconds 60.0",
    ):
        assert f"minutehand_{line}\n" in text
    assert "minutehand_queue_seconds{" not in text


async def test_a_scrape_needs_the_secret_and_an_outage_is_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the last hour, as the metrics say; a failure is no empty page, nor a trace."""
    asked: list[int] = []

    async def stats(_: WorkerQueue, *, minutes: int) -> None:
        asked.append(minutes)
        raise QueueUnavailable("away")

    monkeypatch.setattr(WorkerQueue, "stats", stats)
    services = Services(scratch_settings("http://127.0.0.1:9"))
    app = create_app(services, [router])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://metrics"
    ) as client:
        headers: list[dict[str, Any]] = [{}, {"authorization": "Bearer worker-token"}]
        refused, answered = [await client.get("/metrics", headers=each) for each in headers]
    await services.aclose()

    assert refused.status_code == 401
    assert (answered.status_code, answered.json()["code"]) == (503, "unavailable")
    assert asked == [60]
