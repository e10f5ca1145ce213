"""Readiness: each part has its own verdict, and only failures make a service not ready."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand.functions.health import apps, checks, handler
from minutehand.functions.health.app import CachedReadiness, build_app
from minutehand.functions.health.checks import in_words, judge, judge_key, readiness
from minutehand.queue.models import StorageState
from minutehand.web.errors import ApiError
from minutehand.web.services import Services
from tests.support.virtual_time import leaping


def health(
    oldest: float | None = None,
    tick: float | None = 5.0,
    stalled: float | None = None,
    storage: StorageState | None = None,
    backlog: str = "pass",
) -> Any:
    return SimpleNamespace(
        backlog={"verdict": backlog, "jobs": 3, "detail": "3 wait: no worker serves a"},
        oldest_due_seconds=oldest,
        last_tick_seconds=tick,
        stalled_seconds=stalled,
        storage=storage or StorageState(),
    )


class Queue:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    async def health(self) -> Any:
        self.asked += 1
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
        (health(oldest=121), 200, "degraded", {"oldest_due": "warn"}),
        (health(oldest=9_000, stalled=2), 200, "degraded", {"oldest_due": "warn"}),
        (health(oldest=899, stalled=899), 200, "degraded", {"oldest_due": "warn"}),
        (health(oldest=901, stalled=901), 503, "not_ready", {"oldest_due": "fail"}),
        (health(tick=91), 200, "degraded", {"last_tick": "warn"}),
        (health(tick=201), 503, "not_ready", {"last_tick": "fail"}),
        (health(tick=None), 200, "degraded", {"last_tick": "warn"}),
        (health(backlog="warn", oldest=1, tick=201), 503, "not_ready", {"last_tick": "fail"}),
        (health(storage=StorageState(read_only=True)), 503, "not_ready", {"storage": "fail"}),
    ],
)
async def test_readiness_shows_each_part(
    queue: Any, status: int, word: str, verdicts: dict[str, str]
) -> None:
    """A backlog is work, a dead schedule is a failure."""
    found, body = await readiness(Queue(queue))

    assert (found, body["status"]) == (status, word)
    for name, verdict in verdicts.items():
        assert body["checks"][name]["verdict"] == verdict
    assert set(body["checks"]) == {"database", "queue_depth", "oldest_due", "last_tick", "storage"}


@pytest.mark.parametrize(
    ("days", "word", "verdict"), [(31, "ready", "pass"), (29, "degraded", "warn")]
)
async def test_readiness_warns_before_the_workers_key_expires(
    days: float, word: str, verdict: str
) -> None:
    """On that day every worker is refused at once."""
    status, body = await readiness(Queue(health()), key_days=days)

    assert (status, body["status"]) == (200, word)
    assert body["checks"]["worker_key"]["verdict"] == verdict
    assert body["checks"]["worker_key"]["value"] == days


@pytest.mark.parametrize(
    ("known", "age", "word"),
    [
        (None, 0.0, "unknown"),
        ("ready", 1.0, "healthy"),
        ("ready", 2.1, "unknown"),
        ("degraded", 2.1, "unknown"),
        ("not_ready", 99.0, "down"),
    ],
)
def test_health_is_never_well_without_knowing_it(known: str | None, age: float, word: str) -> None:
    """A frozen database hangs every read: the last good state says nothing about now."""
    told = in_words(None if known is None else {"status": known, "checks": {}}, age, 2.0)

    assert told["status"] == word
    assert told["checked_seconds_ago"] == (None if known is None else age)


async def test_what_is_known_is_refreshed_by_each_probe_that_finds_it_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One look at the start of a process would say for ever how the database was then."""
    monkeypatch.setattr(CachedReadiness, "FRESH_SECONDS", -1.0)
    monkeypatch.setattr(CachedReadiness, "PATIENCE_SECONDS", 60.0)
    queue = Queue(health())
    settings = SimpleNamespace(apps=(), supabase_worker_key=None)
    known = CachedReadiness(SimpleNamespace(operator_queue=queue, settings=settings))  # type: ignore[arg-type]

    before = await known.last()
    queue.answer = ConnectionError("away")
    after = await known.last()

    assert [before["status"], after["status"]] == ["unknown", "down"]


def known_of(services: Any, monkeypatch: pytest.MonkeyPatch) -> CachedReadiness:
    """By the time of the loop that runs."""
    clock = SimpleNamespace(monotonic=asyncio.get_running_loop().time)
    monkeypatch.setattr("minutehand.functions.health.app.time", clock)
    services.settings = SimpleNamespace(apps=(), supabase_worker_key=None)
    return CachedReadiness(services)


def test_a_probe_waits_a_moment_for_a_database_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One read is under way, however many probes come; its own patience makes it a failure."""
    queue = Queue(None)
    said: list[tuple[float, str]] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        known = known_of(SimpleNamespace(operator_queue=queue), monkeypatch)
        for _ in range(2):
            status = (await known.last())["status"]
            said.append((loop.time(), status))
        await asyncio.sleep(4)
        said.append((loop.time(), (await known.last())["status"]))
        await asyncio.sleep(3)
        await known.last()
        ends = loop.time()
        await known.aclose()
        assert loop.time() == ends

    leaping(story())

    assert said == [(0.5, "unknown"), (1.0, "unknown"), (5.0, "down")]
    assert queue.asked == 2


async def test_a_deployment_that_may_not_read_it_knows_nothing_of_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even what it knew while it had a key."""
    services = SimpleNamespace(operator_queue=Queue(ConnectionError("away")))
    known = known_of(services, monkeypatch)
    monkeypatch.setattr(known, "FRESH_SECONDS", -1.0)
    assert (await known.last())["status"] == "down"

    class Keyless(SimpleNamespace):
        @property
        def operator_queue(self) -> Any:
            raise ApiError(503, "not_configured", "no key")

    known._services = Keyless(settings=services.settings)  # type: ignore[assignment]

    assert (await known.last())["status"] == "unknown"


@pytest.mark.parametrize(
    ("address", "status", "word"),
    [
        ("/health", 200, "down"),
        ("/health?deep=", 200, "down"),
        ("/health?deep=0", 200, "healthy"),
        ("/health?deep=1", 503, "not_ready"),
        ("/api/health/ready", 503, "not_ready"),
        ("/api/v1/health", 503, "down"),
        ("/api/v1/health?deep=0", 200, "healthy"),
        ("/api/v1/health?deep=1", 503, "not_ready"),
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
        answer = await client.get(address)
    await services.aclose()

    body = answer.json()
    assert (answer.status_code, body["status"]) == (status, word)
    assert answer.headers.get("Retry-After") == ("5" if status == 503 else None)
    assert ("checks" in body) is ("deep=0" not in address)
    assert body["version"] == settings.version


async def test_apps_add_lines_and_a_failing_app_is_distinguished() -> None:
    """What an app says stands beside the engine's own checks, and never replaces them."""

    async def extra() -> Any:
        line = {"verdict": "warn", "value": 1, "unit": "x", "detail": "late"}
        return {"outbox": line, "database": line}

    status, body = await readiness(Queue(health()), extra)

    assert (status, body["status"]) == (200, "degraded")
    assert body["checks"]["outbox"]["detail"] == "late"
    assert body["checks"]["database"]["verdict"] == "pass"


async def test_an_app_that_cannot_say_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails, and one that never answers; each is asked with the process's settings."""

    async def fails(_: object) -> Any:
        raise RuntimeError("10.0.0.7")

    async def hangs(_: object) -> Any:
        await asyncio.Event().wait()

    async def answers(settings: Any) -> Any:
        return {"outbox": {"verdict": "pass", "detail": settings.stage}}

    found = {"a": fails, "b": hangs, "c": answers}
    modules = [(name, SimpleNamespace(checks=each)) for name, each in found.items()]
    monkeypatch.setattr(apps, "_modules", lambda _: modules)
    monkeypatch.setattr(apps, "PATIENCE", 0.01)
    lines = await asyncio.wait_for(apps.checks_of_apps(SimpleNamespace(stage="dev"))(), 60)  # type: ignore[arg-type]

    assert {name: (line["verdict"], line.get("detail")) for name, line in lines.items()} == {
        "a": ("warn", "no answer: RuntimeError"),
        "b": ("warn", "no answer: TimeoutError"),
        "outbox": ("pass", "dev"),
    }


async def test_an_app_that_is_not_here_has_no_line(settings: Settings) -> None:
    """The function's zip holds only those that have checks."""
    elsewhere = settings.model_copy(update={"apps": ("not_in_this_zip",)})

    assert await apps.checks_of_apps(elsewhere)() == {}


@pytest.mark.parametrize("answer", [ConnectionError("10.0.0.7 refused"), None])
async def test_a_database_that_is_unavailable_or_silent_fails_everything(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a bound, and without telling its address."""
    monkeypatch.setattr(checks, "PATIENCE", 0.05)

    async def extra() -> Any:
        await asyncio.Event().wait()

    async with asyncio.timeout(60):
        status, body = await readiness(Queue(answer), extra)

    assert (status, body["status"]) == (503, "not_ready")
    assert {check["verdict"] for check in body["checks"].values()} == {"fail"}
    assert "10.0.0.7" not in str(body)


def test_each_verdict_says_what_was_found() -> None:
    """An operator reads this line and nothing else."""
    found = judge(health(oldest=130.4, stalled=125, tick=7))
    young = judge(health(stalled=120, oldest=121, tick=None, storage=StorageState()))

    said = {name: (line["value"], line["unit"], line["detail"]) for name, line in found.items()}
    assert said == {
        "queue_depth": (3, "jobs", "3 wait: no worker serves a"),
        "oldest_due": (130.4, "s", "has waited 130 s; nothing was leased for 125 s"),
        "last_tick": (7, "s", "ended 7 s ago"),
        "storage": (None, "", "takes writes"),
    }  # fmt: skip
    assert [young[name]["detail"] for name in ("oldest_due", "last_tick", "storage")] == [
        "has waited 121 s", "no tick seen yet", "takes writes",
    ]  # fmt: skip
    assert judge(health())["oldest_due"]["detail"] == "nothing is due"
    assert judge_key(29.4)["detail"] == "expires in 29 days; `minutehand rotate`"
    assert judge_key(30.0)["detail"] == "expires in 30 days"


AWS_CONTEXT = SimpleNamespace(aws_request_id="of-lambda")


def probe(path: str, **event: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
    answer = handler.handler({"rawPath": path, **event}, AWS_CONTEXT)
    return answer["statusCode"], json.loads(answer["body"]), answer["headers"]


@pytest.mark.parametrize(
    ("path", "event", "status", "word"),
    [
        ("/health", {}, 200, "down"),
        ("/dev/health", {"routeKey": "GET /health"}, 200, "down"),
        ("/health", {"queryStringParameters": {"deep": "0"}}, 200, "healthy"),
        ("/health", {"queryStringParameters": {"deep": ""}}, 200, "down"),
        ("/api/v1/health", {"queryStringParameters": {"deep": "false"}}, 200, "healthy"),
        ("/healthz", {}, 404, None),
        ("/health", {"requestContext": {"http": {"method": "POST"}}}, 405, None),
    ],
)
def test_a_shallow_probe_says_what_was_last_found(
    monkeypatch: pytest.MonkeyPatch, path: str, event: Any, status: int, word: str | None
) -> None:
    """It waits for nothing; with `deep=0` it speaks of the process alone."""
    monkeypatch.setattr(handler, "_known", ({"status": "not_ready", "checks": {}}, 0.0))

    found, body, headers = probe(path, **event)

    assert (found, body.get("status")) == (status, word)
    assert ("checks" in body) is (word == "down")
    assert headers.get("allow") == ("GET" if status == 405 else None)


@pytest.mark.parametrize(
    ("event", "request_id"),
    [
        ({"headers": {"x-request-id": "order-4711"}}, "order-4711"),
        ({"headers": {"x-request-id": "bad"}, "requestContext": {"requestId": "gate"}}, "gate"),
        ({}, "of-lambda"),
    ],
)
def test_a_probe_is_named_by_its_sender_the_gateway_or_lambda(event: Any, request_id: str) -> None:
    """By whichever is sane."""
    _, body, headers = probe("/nothing", **event)

    assert (body["request_id"], headers["x-request-id"]) == (request_id, request_id)


@pytest.mark.parametrize(
    ("path", "event", "word"),
    [
        ("/health", {"queryStringParameters": {"deep": "1"}}, "not_ready"),
        ("/api/health/ready", {}, "not_ready"),
        ("/api/v1/health", {}, "down"),
    ],
)
def test_a_deep_probe_of_a_database_that_is_unavailable_fails(
    monkeypatch: pytest.MonkeyPatch, path: str, event: Any, word: str
) -> None:
    """The next one begins again: the key may have been rotated."""
    monkeypatch.setattr(checks, "PATIENCE", 0.05)
    for name in ("URL", "PUBLISHABLE_KEY", "WORKER_KEY"):
        monkeypatch.setenv(f"SUPABASE_{name}", "http://127.0.0.1:1")

    status, body, headers = probe(path, **event)

    assert (status, body["status"], headers["retry-after"]) == (503, word, "5")
    assert probe("/health")[1]["status"] == "unknown"


def test_verdicts_grow_worse_with_age() -> None:
    """Never better the longer something has been dead."""
    order = {"pass": 0, "warn": 1, "fail": 2}
    ages = [0.0, 60.0, 119.0, 121.0, 500.0, 901.0, 10_000.0]

    oldest = [
        order[judge(health(oldest=age, stalled=age))["oldest_due"]["verdict"]] for age in ages
    ]
    ticks = [order[judge(health(tick=age))["last_tick"]["verdict"]] for age in ages]

    assert oldest == sorted(oldest)
    assert ticks == sorted(ticks)


def test_a_shallow_probe_imports_no_framework() -> None:
    """A probe that waits for FastAPI's import measures FastAPI."""
    script = (
        "import sys; import minutehand.functions.health.handler as h\n"
        "h.handler({'rawPath': '/health', 'requestContext': {'http': {'method': 'GET'}, "
        "'requestId': 'request-1'}}, None)\n"
        "print(','.join(sorted({n.split('.')[0] for n in sys.modules})))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    loaded = set(done.stdout.strip().split(","))
    heavy = {"fastapi", "starlette", "mangum", "pydantic", "httpx", "boto3", "asyncio", "ssl"}
    assert not heavy & loaded


@pytest.mark.parametrize("function", ["jobs", "status"])
def test_a_cold_start_leaves_out_what_only_some_requests_need(function: str) -> None:
    """boto3 is for wake-ups, cryptography for tokens, websockets for streams: each at first use."""
    script = (
        f"import sys; import functions.{function}.handler\n"
        "print(','.join(sorted({n.split('.')[0] for n in sys.modules})))"
    )
    environ = {"SUPABASE_URL": "http://x.test", "SUPABASE_PUBLISHABLE_KEY": "k"}

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environ
    )

    loaded = set(done.stdout.strip().split(","))
    assert not {"boto3", "botocore", "jwt", "cryptography", "websockets", "supabase"} & loaded
