"""Readiness: each part has its own verdict, and only failures make a service not ready."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand.functions.health import app
from minutehand.functions.health.app import build_app, readiness
from minutehand.web.services import Services


def health(
    oldest: float | None = None,
    tick: float | None = 5.0,
    backlog: str = "pass",
    *,
    read_only: bool = False,
    refused: str = "pass",
) -> Any:
    return SimpleNamespace(
        backlog={"verdict": backlog, "jobs": 3, "detail": "3 wait: no worker serves a"},
        oldest_due_seconds=oldest,
        last_tick_seconds=tick,
        read_only=read_only,
        maintenance={"verdict": refused, "detail": "retention passes over job 1: no"},
        transactions={"verdict": "pass", "detail": "none is open for long"},
    )


class Queue:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def health(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            await asyncio.Event().wait()
        return self.answer


@pytest.mark.parametrize(
    ("queue", "status", "word", "verdicts"),
    [
        (health(), 200, "ready", {}),
        (health(backlog="warn", oldest=1), 200, "degraded", {"queue_depth": "warn"}),
        (health(oldest=9_000), 200, "degraded", {"oldest_due": "warn"}),
        (health(oldest=901, tick=None), 503, "not_ready", {"oldest_due": "fail"}),
        (health(refused="warn"), 200, "degraded", {"maintenance": "warn"}),
        (health(tick=201), 503, "not_ready", {"last_tick": "fail"}),
        (health(read_only=True), 503, "not_ready", {"database": "fail"}),
    ],
)
async def test_readiness_shows_each_part(
    settings: Settings, queue: Any, status: int, word: str, verdicts: dict[str, str]
) -> None:
    """A backlog is work, a dead schedule is a failure."""
    found, body = await readiness(Queue(queue), settings)  # type: ignore[arg-type]

    assert (found, body["status"]) == (status, word)
    for name, verdict in verdicts.items():
        assert body["checks"][name]["verdict"] == verdict
    assert set(body["checks"]) == {
        "database",
        "queue_depth",
        "oldest_due",
        "last_tick",
        "maintenance",
        "transactions",
    }


@pytest.mark.parametrize(
    ("address", "status", "word"),
    [
        ("/health", 200, "healthy"),
        ("/api/health/ready", 503, "not_ready"),
        ("/api/v1/health", 503, "down"),
    ],
)
async def test_each_address_says_what_its_probe_asks_for(
    settings: Settings, address: str, status: int, word: str
) -> None:
    """A balancer takes a host out by 503 alone, and comes back when it is told to."""
    services = Services(settings)
    services.__dict__["operator_queue"] = Queue(ConnectionError("away"))
    transport = httpx.ASGITransport(build_app(settings, services=services))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        answer, by_head = await client.get(address), await client.head(address)
    await services.aclose()

    body = answer.json()
    assert (answer.status_code, body["status"]) == (status, word)
    assert by_head.status_code == status
    assert answer.headers.get("Retry-After") == ("5" if status == 503 else None)
    assert ("checks" in body) is (address != "/health")
    assert body["version"] == settings.version


@pytest.mark.parametrize("answer", [ConnectionError("10.0.0.7 refused"), None])
async def test_a_database_that_is_unavailable_or_silent_fails_everything(
    settings: Settings, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a bound, and without telling its address."""
    monkeypatch.setattr(app, "PATIENCE", 0.05)

    async with asyncio.timeout(60):
        status, body = await readiness(Queue(answer), settings)  # type: ignore[arg-type]

    assert (status, body["status"]) == (503, "not_ready")
    assert {check["verdict"] for check in body["checks"].values()} == {"fail"}
    assert "10.0.0.7" not in str(body)
