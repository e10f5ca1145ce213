"""Readiness of a service: each part has a verdict, and only failures make it not ready."""

import asyncio
from typing import Any

import httpx
import pytest

from minutehand.functions.health import app
from minutehand.functions.health.app import build_app, check_queue
from minutehand.queue.errors import TokenRefused
from minutehand.queue.models import QueueHealth
from minutehand.tasks import end_tasks
from minutehand.web.services import Services
from tests.unit.web.conftest import SETTINGS


def health(**findings: str) -> QueueHealth:
    result = {"sentence": "It is.", "cause": None, "next": [{"words": "Mend it."}]}
    return QueueHealth(
        backlog={"jobs": 3, "detail": "3 ready to start: a"},
        oldest_due_seconds=1,
        last_tick_seconds=5,
        findings=tuple({"reason": name, "verdict": findings[name], **result} for name in findings),
    )


class Queue:
    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, 0

    async def health(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            await asyncio.Event().wait()
        return self.answer


@pytest.mark.parametrize(
    ("findings", "status", "word", "part"),
    [
        ({}, 200, "ready", ""),
        ({"no_processor": "warn"}, 200, "degraded", "queue_depth"),
        ({"overdue": "warn"}, 200, "degraded", "oldest_due"),
        ({"failing_maintenance": "warn"}, 200, "degraded", "maintenance"),
        ({"no_worker": "fail"}, 503, "not_ready", "last_tick"),
        ({"read_only": "fail"}, 503, "not_ready", "database"),
    ],
)
async def test_readiness_shows_each_part(
    findings: dict[str, str], status: int, word: str, part: str
) -> None:
    """A finding changes the verdict of its part.

    A failure makes the service not ready, and a warning does not.
    """
    queue: Any = Queue(health(**findings))
    found, body = await check_queue(queue, SETTINGS)

    assert (found, body["status"]) == (status, word)
    for verdict in findings.values():
        assert body["checks"][part]["verdict"] == verdict
        assert body["checks"][part]["detail"].endswith("Mend it.")
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
    address: str, status: int, word: str
) -> None:
    """The health route returns 200 without the database. The readiness routes return 503."""
    services = Services(SETTINGS)
    services.__dict__["operator_queue"] = Queue(ConnectionError("away"))
    transport = httpx.ASGITransport(build_app(SETTINGS, services=services))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        answer, by_head = await client.get(address), await client.head(address)
    await services.aclose()

    body = answer.json()
    assert (answer.status_code, body["status"]) == (status, word)
    assert by_head.status_code == status
    assert answer.headers.get("Retry-After") == ("5" if status == 503 else None)
    assert ("checks" in body) is (address != "/health")
    assert body["version"] == SETTINGS.version


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (None, "no answer: TimeoutError"),
        (
            TokenRefused("it was revoked", status=401),
            "the worker's key is rejected: it was revoked",
        ),
    ],
)
async def test_a_database_that_refuses_or_is_silent_fails_everything(
    answer: Any, result: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the database rejects the worker or is silent, each part fails within a bounded time."""
    monkeypatch.setattr(app, "CHECK_TIMEOUT_SECONDS", 0.05)

    async with asyncio.timeout(60):
        status, body = await check_queue(Queue(answer), SETTINGS)  # type: ignore[arg-type]

    assert (status, body["status"]) == (503, "not_ready")
    assert {check["verdict"] for check in body["checks"].values()} == {"fail"}
    assert result in caplog.text
    assert body["checks"]["database"]["detail"] == result


async def test_guests_are_counted_by_their_network_and_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Concurrent probes of guests are limited for each network and in total.

    A guest's many IPv6 addresses count as one network.
    """
    monkeypatch.setattr(app, "CHECK_TIMEOUT_SECONDS", 900)

    services, queue, probes = Services(SETTINGS), Queue(None), []
    services.__dict__["operator_queue"] = queue
    api = build_app(SETTINGS, services=services)
    for network, running in (("2001:db8::", 4), ("203.0.113.", 8), ("198.51.100.", 8)):
        for n in range(20):
            transport = httpx.ASGITransport(api, client=(f"{network}{n}", 1))
            client = httpx.AsyncClient(transport=transport, base_url="http://api")
            probes.append(asyncio.create_task(client.get("/api/health/ready")))
        for _ in range(1000):  # until each request is running or waits
            await asyncio.sleep(0)
        assert queue.asked == running
    await end_tasks(probes)
