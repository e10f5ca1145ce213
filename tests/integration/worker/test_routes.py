"""The worker's HTTP routes, on the local host and behind API Gateway, and its Lambda events."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from infra.bench.scratch import scratch_settings
from minutehand import telemetry
from minutehand.config import Settings
from minutehand.functions.worker import invocations
from minutehand.functions.worker.app import build_app
from minutehand.functions.worker.invocations import LambdaWorker
from minutehand.functions.worker.routes import Reply, Request, WorkerRoutes
from minutehand.queue import EnqueueOptions, UserQueue
from minutehand.queue.errors import (
    DatabaseReadOnly,
    QueueError,
    QueueUnavailable,
    TokenRefused,
)
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.summary import TickSummary
from tests.support.lambda_events import LambdaContext
from tests.support.payloads import Nothing, nothing
from tests.support.project import ACME, Gateway, Project


@pytest.fixture
async def http(project: Project, worker: Worker) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the ASGI app over this test's worker."""
    app = build_app(WorkerRoutes(project.settings, worker))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://worker",
    ) as client:
        yield client


WORKER = {"Authorization": "Bearer worker-token"}
BACKGROUND = {"Authorization": "Bearer background-token"}


async def test_a_tick_by_http_says_what_it_did(
    registry: Registry, worker: Worker, ada: UserQueue, http: httpx.AsyncClient
) -> None:
    """At once, whatever falls due later."""
    worker.options = replace(worker.options, linger_seconds=55)
    registry.processor("noop", payload=Nothing)(nothing)
    await worker.register()
    await ada.enqueue(ACME, "noop")
    await ada.enqueue(ACME, "noop", options=EnqueueOptions(delay_seconds=30))

    response = await http.post("/api/jobs/worker", headers=WORKER)

    assert response.status_code == 200
    body = response.json()
    assert (body["success"], body["leased"], body["completed"], body["failed"]) == (True, 1, 1, 0)
    assert body["worker_id"] == worker.worker_id
    assert body["timestamp"].endswith("Z")
    assert isinstance(body["duration_ms"], int)


async def test_the_workers_health_names_it_and_its_place(
    worker: Worker, http: httpx.AsyncClient, registry: Registry
) -> None:
    registry.processor("noop", payload=Nothing)(lambda job, ctx: None)

    response = await http.get("/api/jobs/worker", headers=WORKER)

    body = response.json()
    assert body.pop("timestamp")
    assert body == {
        "status": "healthy",
        "worker_exists": True,
        "worker_id": worker.worker_id,
        "environment": {"region": "us-east-1", "env": "local"},
    }


async def test_process_runs_only_the_types_it_is_given(
    registry: Registry, worker: Worker, ada: UserQueue, http: httpx.AsyncClient
) -> None:
    ran: list[str] = []

    async def note(job: Job[Nothing], ctx: JobContext) -> None:
        ran.append(job.job_type)

    registry.processor("a", payload=Nothing)(note)
    registry.processor("b", payload=Nothing)(note)
    await worker.register()
    await ada.enqueue(ACME, "a")
    await ada.enqueue(ACME, "b")

    response = await http.post("/api/jobs/process", headers=BACKGROUND, json={"jobTypes": ["b"]})

    assert (response.json()["completed"], ran) == (1, ["b"])


async def test_a_type_runs_with_its_parts(
    http: httpx.AsyncClient, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A job that waits for its parts would never end in a run over its own type."""
    ran: list[str] = []

    async def note(job: Job[Nothing], ctx: JobContext) -> None:
        ran.append(job.job_type)

    registry.processor("whole", payload=Nothing)(note)
    registry.processor("part", payload=Nothing, part_of="whole")(note)
    registry.processor("other", payload=Nothing)(note)
    await worker.register()
    for name in ("whole", "part", "other"):
        await ada.enqueue(ACME, name)

    await http.post("/api/jobs/process", headers=BACKGROUND, json={"jobTypes": ["whole"]})
    unknown = await http.post(
        "/api/jobs/process", headers=BACKGROUND, json={"jobTypes": ["whole", "hole"]}
    )

    assert sorted(ran) == ["part", "whole"]
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_job_type")
    assert unknown.json()["detail"] == {
        "field": "jobTypes", "unknown": ["hole"], "known": ["other", "whole"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("POST", "/api/jobs/worker", {}, 401, "unauthorized"),
        ("GET", "/api/jobs/worker", {}, 401, "unauthorized"),
        ("POST", "/api/jobs/worker", BACKGROUND, 401, "unauthorized"),
        ("POST", "/api/jobs/process", WORKER, 401, "unauthorized"),
        ("POST", "/api/jobs/worker", {"Authorization": "worker-token"}, 401, "unauthorized"),
        ("POST", "/api/jobs/worker", {"Authorization": "Basic worker-token"}, 401, "unauthorized"),
        ("POST", "/api/jobs/worker", {"Authorization": "Bearer "}, 401, "unauthorized"),
        ("DELETE", "/api/jobs/worker", WORKER, 405, "method_not_allowed"),
        ("GET", "/api/jobs/process", BACKGROUND, 405, "method_not_allowed"),
        ("GET", "/api/jobs/other", WORKER, 404, "route_not_found"),
    ],
)
async def test_a_caller_without_the_right_gets_the_common_error(
    http: httpx.AsyncClient,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    response = await http.request(method, path, headers={**headers, "X-Request-Id": "r-1"})

    body = response.json()
    assert (response.status_code, body["code"], body["request_id"]) == (status, code, "r-1")
    assert set(body) == {"error", "code", "detail", "request_id"}
    if status == 401:
        assert body["error"] == "Unauthorized"
        assert response.headers["WWW-Authenticate"] == "Bearer"
    if status == 405:
        assert response.headers["Allow"] == ("GET, POST" if path.endswith("worker") else "POST")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_argument"),
        (b'{"jobTypes": "a"}', 400, "invalid_argument"),
        (b'{"jobTypes": [1]}', 400, "invalid_argument"),
        (b'{"jobTypes": [""]}', 400, "invalid_argument"),
        (json.dumps({"jobTypes": ["a"] * 201}).encode(), 400, "invalid_argument"),
        (json.dumps({"jobTypes": ["a" * 101]}).encode(), 400, "invalid_argument"),
        (b"x" * 20_000, 413, "body_too_large"),
    ],
)
async def test_a_bad_body_is_the_callers_mistake(
    http: httpx.AsyncClient, content: bytes, status: int, code: str
) -> None:
    response = await http.post("/api/jobs/process", headers=BACKGROUND, content=content)

    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_a_body_is_read_no_further_than_any_route_takes(http: httpx.AsyncClient) -> None:
    """And no token is asked for before: a stranger's would fill the worker's memory."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100:
            sent += 1
            yield b" " * 8192

    async with asyncio.timeout(60):
        response = await http.post("/api/jobs/process", headers=BACKGROUND, content=endless())

    assert (response.status_code, sent) == (413, 3)


async def test_without_the_queue_it_asks_to_come_back(
    http: httpx.AsyncClient, gateway: Gateway
) -> None:
    gateway.stop()

    response = await http.post("/api/jobs/worker", headers=WORKER)

    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.json()["code"] == "unavailable"


FULL = DatabaseReadOnly("the plan is full", status=400, code="25006")
REVOKED = TokenRefused("no", status=403, code="PT403", hint="key_revoked")


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (FULL, 503, "database_read_only", None),
        (QueueUnavailable("hung"), 503, "unavailable", "5"),
        (
            TokenRefused("no", status=403, code="PT403", hint="key_revoked"),
            502,
            "key_revoked",
            None,
        ),
        (QueueError("no", status=400, code="22023"), 502, "refused", None),
    ],
)
async def test_what_keeps_the_queue_from_a_tick_is_said(
    error: QueueError, status: int, code: str, retry_after: str | None
) -> None:
    """By a word that an alarm can tell from an outage; the rest stays in the log."""
    asked: list[TickOptions] = []

    class Refused(Worker):
        async def tick(self, *, options: TickOptions | None = None, **_: Any) -> TickSummary:
            assert options is not None
            asked.append(options)
            raise error

    settings = scratch_settings("http://127.0.0.1:9")
    worker = Refused(settings, registry=Registry(), options=TickOptions(linger_seconds=9))
    routes = WorkerRoutes(settings, worker)
    request = Request("POST", "/api/jobs/worker", {"authorization": WORKER["Authorization"]})

    reply = await routes.answer(request, usual_seconds=300)
    await worker.aclose()

    assert (reply.status, reply.body["code"]) == (status, code)
    assert reply.headers.get("Retry-After") == retry_after
    assert [(each.linger_seconds, each.usual_seconds) for each in asked] == [(0, 300)]


# AWS Lambda --------------------------------------------------------------------------------------

INVOKE = """
import json, sys
from minutehand.functions.worker.handler import handler

class Context:
    aws_request_id = "r-lambda"
    def get_remaining_time_in_millis(self):
        return 20000

answers = [handler(event, Context()) for event in json.load(sys.stdin)]
print("ANSWERS" + json.dumps(answers))
"""


def invoke(project: Project, *events: Any, **variables: str) -> list[Any]:
    """Run the real handler in a process of its own, once per event, and return its answers."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", INVOKE],
        cwd=Path(__file__).resolve().parents[3],
        env={
            "SUPABASE_URL": project.settings.supabase_url,
            "SUPABASE_PUBLISHABLE_KEY": project.settings.supabase_publishable_key,
            "SUPABASE_JWT_SECRET": project.settings.supabase_jwt_secret or "",
            "WORKER_SECRET_TOKEN": "worker-token",
            "BACKGROUND_JOB_TOKEN": "background-token",
            "USE_MOCK_APOLLO": "true",
            "MINUTEHAND_APPS": "minutehand_apps.*",
            "MINUTEHAND_SCHEMA": project.settings.schema_name,
            **variables,
        },
        input=json.dumps(events),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS")]
    answers: list[Any] = json.loads(line.removeprefix("ANSWERS"))
    return answers


def http_event(method: str, path: str, token: str | None = None, **extra: Any) -> dict[str, Any]:
    """An API Gateway HTTP API event, version 2.0."""
    return {
        "version": "2.0",
        "rawPath": path,
        "headers": {} if token is None else {"authorization": f"Bearer {token}"},
        "requestContext": {
            "requestId": "r-http",
            "stage": "$default",
            "http": {"method": method, "path": path},
        },
        "isBase64Encoded": False,
        **extra,
    }


def test_every_event_of_lambda_is_answered(project: Project) -> None:
    """The schedule, a wake-up, an extra worker, and each HTTP route, in one environment."""
    schedule = {"version": "0", "source": "aws.scheduler", "detail-type": "Scheduled Event"}
    process = http_event(
        "POST", "/api/jobs/process", "background-token", body='{"jobTypes":["enrich_account"]}'
    )

    answers = invoke(
        project,
        schedule,
        {"source": "minutehand.wake"},
        {"source": "minutehand.extra_worker"},
        http_event("GET", "/api/jobs/worker", "worker-token"),
        http_event("POST", "/api/jobs/worker", "worker-token"),
        http_event("POST", "/api/jobs/worker"),
        http_event("PUT", "/api/jobs/worker", "worker-token"),
        process,
    )

    assert [answer["leased"] for answer in answers[:3]] == [0, 0, 0]
    assert [answer["statusCode"] for answer in answers[3:]] == [200, 200, 401, 405, 200]
    assert json.loads(answers[3]["body"])["worker_exists"] is True
    assert json.loads(answers[5]["body"]) == {
        "error": "Unauthorized",
        "code": "unauthorized",
        "detail": None,
        "request_id": "r-http",
    }


def test_an_extra_worker_starts_none_and_one_that_is_refused_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a backlog invokes functions without end, or waits for workers that never came."""
    fans_out: list[bool] = []

    async def tick(_: Worker, *, fan_out: bool, **__: Any) -> TickSummary:
        fans_out.append(fan_out)
        return TickSummary(worker_id="w", tick_id="t")

    invoked: list[dict[str, Any]] = []

    class Lambda:
        def invoke(self, **arguments: Any) -> None:
            invoked.append(arguments)
            if len(invoked) == 2:
                raise ConnectionError("429")

    monkeypatch.setattr(Worker, "tick", tick)
    monkeypatch.setattr(invocations, "client", lambda *_, **__: Lambda())
    worker = lambda_worker(worker_function_name="w")

    started = asyncio.run(worker._start_extra_workers(3))
    for event in ({"source": "minutehand.wake"}, json.loads(invoked[0]["Payload"])):
        worker(event, LambdaContext("worker"))
    worker.close()

    assert started == 2
    assert fans_out == [True, False]


def lambda_worker(**settings: Any) -> LambdaWorker:
    return LambdaWorker(
        Settings(
            supabase_url="http://x.test",
            supabase_publishable_key="k",
            supabase_jwt_secret="s",
            **settings,
        )
    )


@pytest.mark.parametrize("error", [None, "the plan is full"])
async def test_a_tick_takes_what_it_is_given_and_says_how_it_ended(error: str | None) -> None:
    """A list of no types runs none, and a tick that failed midway is no success."""
    asked: list[tuple[float, list[str] | None]] = []

    class Ended(Worker):
        async def tick(
            self, *, budget_seconds: float = 0, job_types: Any = None, **_: Any
        ) -> TickSummary:
            asked.append((budget_seconds, job_types))
            return TickSummary(worker_id="w", tick_id="t", error=error, duration_ms=7.6)

    settings = scratch_settings("http://127.0.0.1:9")
    worker = Ended(settings, registry=Registry())
    request = Request(
        "POST", "/api/jobs/process", {"authorization": BACKGROUND["Authorization"]},
        body=b'{"jobTypes": []}',
    )  # fmt: skip

    reply = await WorkerRoutes(settings, worker).answer(request, budget_seconds=20)
    await worker.aclose()

    assert asked == [(20, [])]
    assert (reply.status, reply.body["success"], reply.body["duration_ms"]) == (200, not error, 8)
    assert reply.body.get("error") == error
    assert reply.body["worker_id"] == worker.worker_id


def test_a_function_works_as_its_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a small account's limits, or what a job costs, would be another's."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(invocations, "Worker", lambda _, **given: made.append(given))

    settings = scratch_settings("http://127.0.0.1:9").model_copy(
        update={"worker_concurrency": 3, "extra_workers": 2, "workers_at_once": 4}
    )
    LambdaWorker(settings, memory_mb=2048)._loop.close()

    [given] = made
    assert (given["options"].concurrency, given["fan_out"].most, given["most"]) == (3, 2, 4)
    assert given["options"].usd_per_second == pytest.approx(2 * 0.0000133334)
    assert given["options"].version == settings.version


def test_lambda_gets_a_reply_with_its_headers_and_reads_any_case() -> None:
    """Else no client would know when to come back, nor a token be found."""
    answer = invocations._response(Reply(503, {}, {"Retry-After": "5"}))
    request = invocations._request({"requestContext": {}, "headers": {"Authorization": "Bearer t"}})

    assert answer["headers"] == {"Content-Type": "application/json", "Retry-After": "5"}
    assert request.headers == {"authorization": "Bearer t"}


@pytest.mark.parametrize(
    ("source", "due_left", "fails", "written"),
    [
        ("minutehand.tick", 0, False, [0.0]),
        ("minutehand.tick", 3, False, [71.5]),
        ("minutehand.tick", 3, True, []),  # nothing known is no zero
        ("minutehand.wake", 3, False, []),
    ],
)
def test_each_minute_says_how_long_the_oldest_due_job_has_waited(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    due_left: int,
    fails: bool,
    written: list[float],
) -> None:
    """The alarm that no worker's own failure can silence reads it."""

    async def tick(_: Worker, **__: Any) -> TickSummary:
        return TickSummary(worker_id="w", tick_id="t", due_left=due_left)

    async def health(_: WorkerQueue) -> Any:
        if fails:
            raise QueueUnavailable("away")
        return SimpleNamespace(oldest_due_seconds=71.5)

    monkeypatch.setattr(Worker, "tick", tick)
    monkeypatch.setattr(WorkerQueue, "health", health)
    worker = lambda_worker(stage="prod")

    worker({"source": source}, LambdaContext("worker"))
    worker.close()

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert [line["OldestDueSeconds"] for line in lines] == written
    assert all(line["stage"] == "prod" for line in lines)


def test_a_function_says_where_its_log_is_and_sends_its_telemetry_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lambda freezes it right after the answer."""
    flushed: list[str] = []

    async def tick(worker: Worker, **_: Any) -> TickSummary:
        flushed.append(f"tick of {(worker.options.origin or {})['log_group']}")
        raise QueueUnavailable("away")

    monkeypatch.setenv("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/worker")
    monkeypatch.setattr(Worker, "tick", tick)
    monkeypatch.setattr(telemetry, "flush", lambda: flushed.append("flush"))
    worker = lambda_worker()

    with pytest.raises(QueueUnavailable):
        worker({"source": "minutehand.tick"}, LambdaContext("worker"))
    worker.close()

    assert flushed == ["tick of /aws/lambda/worker", "flush"]


def test_a_body_in_base64_is_read() -> None:
    """So API Gateway sends what it does not take for text."""
    event = {"requestContext": {}, "body": base64.b64encode(b"{}").decode()}

    assert invocations._request({**event, "isBase64Encoded": True}).body == b"{}"


def test_a_tick_by_http_answers_before_its_gateway_gives_up(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However long the function may run; what it has to stop for that is not charged."""
    monkeypatch.setattr(invocations, "HTTP_SECONDS", 2.0)
    monkeypatch.setenv("SLOW_APP_GATE", str(tmp_path / "never"))
    apps = {"apps": ("tests.integration.worker.slow_app",)}
    worker = LambdaWorker(project.settings.model_copy(update=apps))
    worker({"source": "minutehand.wake"}, LambdaContext("worker"))  # publishes the type
    [job] = project.rows(
        "insert into public.jobs (workspace_id, job_type) values (%s, 'hold') returning id", ACME
    )
    event = http_event("POST", "/api/jobs/worker", "worker-token")

    answer = worker(event, LambdaContext("worker"))
    worker.close()

    body = json.loads(answer["body"])
    assert (body["leased"], body["released"], body["failed"]) == (1, 1, 0), body
    row = project.row(job["id"])
    assert (row["status"], row["attempts"]) == ("pending", 0)


def test_the_handler_publishes_the_types_of_every_app(project: Project) -> None:
    invoke(project, {"source": "minutehand.wake"})

    types = {row["job_type"] for row in project.rows("select job_type from queue.job_types")}
    assert "enrich_account" in types


def test_a_named_stage_is_taken_off_the_path(project: Project) -> None:
    """So is the key under which a custom domain mounts the API."""
    of_a_stage = http_event("GET", "/dev/api/jobs/worker", "worker-token")
    of_a_stage["requestContext"]["stage"] = "dev"
    of_a_domain = http_event("GET", "/background/api/jobs/worker", "worker-token")
    for event in (of_a_stage, of_a_domain):
        event["routeKey"] = "GET /api/jobs/worker"

    answers = invoke(project, of_a_stage, of_a_domain)

    assert [answer["statusCode"] for answer in answers] == [200, 200]


def test_either_token_is_valid_during_a_rotation(project: Project) -> None:
    answers = invoke(
        project,
        *(http_event("GET", "/api/jobs/worker", token) for token in ("new", "old", "older")),
        WORKER_SECRET_TOKEN="new,old",
    )

    assert [answer["statusCode"] for answer in answers] == [200, 200, 401]
