"""One variable: spans of requests and attempts, metrics, and no answer that waits for long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import jwt
import pytest

from minutehand import telemetry
from tests.support.lambda_events import load_event

SECRET = "the-legacy-secret-of-a-made-up-project"
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class Servers:
    """A collector, and a project that refuses each call; both keep what they got."""

    url: str
    received: list[tuple[str, str]] = field(default_factory=list)
    go_on: Event = field(default_factory=Event)
    is_slow: bool = False

    def of(self, part: str) -> list[Any]:
        return [json.loads(body) for path, body in self.received if part in path]

    def spans(self) -> list[dict[str, Any]]:
        return [span for batch in self.of("/v1/traces") for span in batch]


@pytest.fixture
def servers() -> Iterator[Servers]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            found.received.append((self.path, body))
            is_export = self.path.startswith("/v1/")
            if is_export and found.is_slow:
                found.go_on.wait(20)
            self.send_response(200 if is_export else 400)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Servers(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield found
    found.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def answers(
    tmp_path: Path, servers: Servers, *events: dict[str, Any], **variables: str
) -> list[tuple[Any, float]]:
    """What a process that has the exporter said to `events`: status and seconds of each."""
    announced = tmp_path / "exporter-1.dist-info"
    announced.mkdir()
    (announced / "METADATA").write_text("Metadata-Version: 2.1\nName: exporter\nVersion: 1\n")
    (announced / "entry_points.txt").write_text(
        "[opentelemetry_traces_exporter]\notlp_proto_http = tests.unit.telemetry.exporter:Spans\n"
        "[opentelemetry_metrics_exporter]\n"
        "otlp_proto_http = tests.unit.telemetry.exporter:Metrics\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.telemetry.process"],
        input="\n".join(map(json.dumps, events)),
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(tmp_path)]),
            "SUPABASE_URL": servers.url,
            "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
            "SUPABASE_SECRET_KEY": "sb_secret_x",
            "SUPABASE_JWT_SECRET": SECRET,
            "WORKER_SECRET_TOKEN": "x",
            "OTEL_EXPORTER_OTLP_ENDPOINT": servers.url,
            **variables,
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = (line for line in done.stdout.splitlines() if line.startswith("["))
    return [(status, seconds) for status, seconds in map(json.loads, lines)]


def create_job() -> dict[str, Any]:
    """A request of a signed-in person, as API Gateway passes it on."""
    now = int(time.time())
    claims = {"sub": "aaaaaaaa-0000-4000-8000-000000000001", "aud": "authenticated"}
    claims |= {"role": "authenticated", "exp": now + 600}  # type: ignore[dict-item]
    event = load_event("http_create_job", token=jwt.encode(claims, SECRET, "HS256"))
    event["headers"]["traceparent"] = CALLER
    return {**event, "function": "jobs"}


def at(function: str, path: str, query: str = "") -> dict[str, Any]:
    event = create_job() | {"function": function, "rawPath": path, "rawQueryString": query}
    event |= {"routeKey": "$default", "body": None}
    http = {**event["requestContext"]["http"], "path": path, "method": "GET"}
    event["requestContext"] = {**event["requestContext"], "http": http, "routeKey": "$default"}
    return event


def test_each_functions_requests_are_spans_and_a_job_carries_its_own(
    tmp_path: Path, servers: Servers
) -> None:
    """By route, below the caller's; no payload, no token, no query."""
    job_id = "019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11"
    [created, *_] = answers(
        tmp_path,
        servers,
        create_job(),
        at("status", f"/api/jobs/{job_id}", "token=hunter2"),
        at("status", "/api/session/unguessable", "limit=3"),
        at("health", "/health", "deep=0"),
    )

    spans = {span["name"]: span for span in servers.spans()}
    assert "POST /api/jobs" in spans
    request = spans["POST /api/jobs"]
    attributes = request["attributes"]
    assert attributes["http.request.method"] == "POST"
    assert attributes["http.response.status_code"] == created[0]
    assert attributes["url.path"] == attributes["http.route"] == "/api/jobs"
    assert request["kind"] == "SpanKind.SERVER"
    assert (request["context"]["trace_id"], request["parent_id"]) == (
        f"0x{CALLER.split('-')[1]}",
        f"0x{CALLER.split('-')[2]}",
    )
    [sent] = servers.of("enqueue_job")
    assert sent["p_options"]["traceparent"] == "-".join(
        ("00", CALLER.split("-")[1], request["context"]["span_id"][2:], "01")
    )
    assert spans["GET /api/jobs/{job_id}"]["attributes"]["url.path"] == f"/api/jobs/{job_id}"
    assert spans["GET /health"]["attributes"]["http.response.status_code"] == 200
    assert request["resource"]["attributes"]["service.name"] == "minutehand"
    exported = json.dumps(servers.spans())
    for secret in ("hunter2", "unguessable", "Bearer", *map(str, sent["p_payload"].values())):
        assert secret not in exported


def test_a_workers_attempts_are_spans_with_queue_time_and_depth(
    tmp_path: Path, servers: Servers
) -> None:
    """Without a line of the application's; sent by the process's end."""
    [(outcome, _)] = answers(tmp_path, servers, {"function": "work"})

    assert outcome == "completed"
    [attempt] = servers.spans()
    assert attempt["name"].startswith("process ")
    [sent] = servers.of("/v1/metrics")
    found = {
        metric["name"]: metric["data"]["data_points"]
        for scope in sent["resource_metrics"][0]["scope_metrics"]
        for metric in scope["metrics"]
    }
    assert found["minutehand_due_left"][0]["value"] == 7
    [waited] = found["minutehand_queue_wait_seconds"]
    assert waited["attributes"] == {"job_type": attempt["attributes"]["minutehand.job.type"]}
    assert found["minutehand_attempts"][0]["value"] == 1


@pytest.mark.parametrize("collector", ["down", "slow"])
def test_a_collector_that_does_not_answer_delays_one_answer_by_half_a_second(
    tmp_path: Path, servers: Servers, collector: str
) -> None:
    """And none fails; the process's end waits no longer."""
    servers.is_slow = collector == "slow"
    url = servers.url if servers.is_slow else "http://127.0.0.1:9"
    health = at("health", "/health", "deep=0")

    began = time.monotonic()
    said = answers(tmp_path, servers, *[health] * 5, OTEL_EXPORTER_OTLP_ENDPOINT=url)

    assert [status for status, _ in said] == [200] * 5
    # beside the first, which imports the SDK
    assert max(seconds for _, seconds in said[1:]) < telemetry.FLUSH_SECONDS + 0.3
    assert sum(seconds for _, seconds in said[1:]) < 2 * telemetry.FLUSH_SECONDS + 0.5
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},  # whose exporter is not installed
    ],
    ids=["unset", "disabled", "none", "not-installed"],
)
def test_requests_are_answered_without_an_exporter(
    tmp_path: Path, servers: Servers, variables: dict[str, str]
) -> None:
    said = answers(tmp_path, servers, at("health", "/health", "deep=0"), **variables)

    assert [status for status, _ in said] == [200]
    assert servers.received == []
