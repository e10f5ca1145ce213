"""Readiness: each part has its own verdict, and only failures make a service not ready."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand.functions.health import app
from minutehand.functions.health.app import build_app, readiness
from minutehand.queue.errors import TokenRefused
from minutehand.queue.models import QueueHealth
from minutehand.web.services import Services


def health(**findings: str) -> QueueHealth:
    return QueueHealth(
        backlog={"jobs": 3, "detail": "3 start next: a"},
        oldest_due_seconds=1,
        last_tick_seconds=5,
        findings=tuple(
            {
                "verdict": verdict,
                "reason": reason,
                "sentence": f"It is {reason}.",
                "cause": None,
                "next": [{"words": "Mend it."}],
            }
            for reason, verdict in findings.items()
        ),
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
        (health(no_processor="warn"), 200, "degraded", {"queue_depth": "warn"}),
        (health(overdue="warn"), 200, "degraded", {"oldest_due": "warn"}),
        (health(failing_maintenance="warn"), 200, "degraded", {"maintenance": "warn"}),
        (health(no_worker="fail"), 503, "not_ready", {"last_tick": "fail"}),
        (health(read_only="fail"), 503, "not_ready", {"database": "fail"}),
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
        assert body["checks"][name]["detail"].endswith("Mend it.")
    parts = {"database", "queue_depth", "oldest_due", "last_tick", "maintenance", "transactions"}
    assert set(body["checks"]) == parts


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
    """A balancer takes a host out by 503 alone, and takes it back by 200."""
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


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ConnectionError("10.0.0.7 refused"), "no answer: ConnectionError"),
        (None, "no answer: TimeoutError"),
        (TokenRefused("it was revoked", status=401), "the worker's key is refused: it was revoked"),
    ],
)
async def test_a_database_that_refuses_or_is_silent_fails_everything(
    settings: Settings, answer: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a bound, without telling its address; a revoked key is not called silence."""
    monkeypatch.setattr(app, "PATIENCE", 0.05)

    async with asyncio.timeout(60):
        status, body = await readiness(Queue(answer), settings)  # type: ignore[arg-type]

    assert (status, body["status"]) == (503, "not_ready")
    assert {check["verdict"] for check in body["checks"].values()} == {"fail"}
    assert body["checks"]["database"]["detail"] == said
