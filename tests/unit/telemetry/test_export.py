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
from threading import Event, Thread
from typing import Any

import jwt
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.lambda_events import load_event

SECRET = "the-legacy-secret-of-a-made-up-project"
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class Servers:
    """A collector, and a project that refuses each call; both keep what they got."""

    url: str
    received: list[tuple[str, bytes]] = field(default_factory=list)
    traces: dict[str, str | None] = field(default_factory=dict)
    go_on: Event = field(default_factory=Event)
    is_slow: bool = False

    def bodies(self, part: str) -> list[bytes]:
        return [body for path, body in self.received if part in path]

    def spans(self) -> dict[str, dict[str, Any]]:
        """By name; ids in hexadecimal."""
        return {
            span.name: {
                "trace": span.trace_id.hex(),
                "id": span.span_id.hex(),
                "parent": span.parent_span_id.hex(),
                "kind": span.kind,
                "attributes": values(span.attributes),
                "resource": values(sent.resource.attributes),
            }
            for body in self.bodies("/v1/traces")
            for sent in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in sent.scope_spans
            for span in scope.spans
        }

    def metrics(self) -> dict[str, list[dict[str, Any]]]:
        """The points of each, by name."""
        return {
            metric.name: [
                {"value": getattr(point, "as_int", None), "attributes": values(point.attributes)}
                for point in getattr(metric, metric.WhichOneof("data")).data_points
            ]
            for body in self.bodies("/v1/metrics")
            for sent in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for scope in sent.scope_metrics
            for metric in scope.metrics
        }


def values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@pytest.fixture
def servers() -> Iterator[Servers]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found.received.append((self.path, body))
            found.traces[self.path] = self.headers.get("x-minutehand-trace")
            is_export = self.path.startswith("/v1/")
            if is_export and found.is_slow:
                found.go_on.wait()
            self.send_response(200 if is_export else 400)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Servers(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield found
    found.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def answers(servers: Servers, *events: dict[str, Any], **variables: str) -> list[Any]:
    """What a process said to `events`: the status of each."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.telemetry.process"],
        input="\n".join(map(json.dumps, events)),
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
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
        timeout=200,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


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


def test_each_functions_requests_are_spans_and_a_job_carries_its_own(servers: Servers) -> None:
    """By route, below the caller's; no payload, no token, no query."""
    job_id = "019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11"
    [[created], *_] = answers(
        servers,
        create_job(),
        at("status", f"/api/jobs/{job_id}", "token=hunter2"),
        at("status", "/api/session/unguessable", "limit=3"),
        at("health", "/health", "deep=0"),
    )

    spans = servers.spans()
    request = spans["POST /api/jobs"]
    attributes = request["attributes"]
    assert attributes["http.request.method"] == "POST"
    assert attributes["http.response.status_code"] == created
    assert attributes["url.path"] == attributes["http.route"] == "/api/jobs"
    assert request["kind"] == Span.SPAN_KIND_SERVER
    assert [request["trace"], request["parent"]] == CALLER.split("-")[1:3]
    [enqueued] = map(json.loads, servers.bodies("enqueue_job"))
    sent = f"00-{request['trace']}-{request['id']}-01"
    assert servers.traces["/rest/v1/rpc/enqueue_job"] == sent
    assert spans["GET /api/jobs/{job_id}"]["attributes"]["url.path"] == f"/api/jobs/{job_id}"
    assert spans["GET /health"]["attributes"]["http.response.status_code"] == 200
    assert request["resource"]["service.name"] == "minutehand"
    exported = b"".join(servers.bodies("/v1/traces"))
    for secret in ("hunter2", "unguessable", "Bearer", *map(str, enqueued["p_payload"].values())):
        assert secret.encode() not in exported


def test_a_workers_attempts_are_spans_with_queue_time_and_depth(servers: Servers) -> None:
    """Without a line of the application's; sent by the process's end."""
    assert answers(servers, {"function": "work"}) == [["completed"]]

    [(name, attempt)] = servers.spans().items()
    assert name.startswith("process ")
    found = servers.metrics()
    [waited] = found["minutehand_queue_wait_seconds"]
    assert waited["attributes"] == {"job_type": attempt["attributes"]["minutehand.job.type"]}
    assert found["minutehand_attempts"][0]["value"] == 1


@pytest.mark.parametrize("collector", ["down", "slow"])
def test_a_collector_that_does_not_answer_fails_nothing(servers: Servers, collector: str) -> None:
    """Neither an answer nor the process's end waits for it, however long the exporter does."""
    servers.is_slow = collector == "slow"
    url = servers.url if servers.is_slow else "http://127.0.0.1:9"
    health = at("health", "/health", "deep=0")

    said = answers(
        servers,
        *[health] * 5,
        OTEL_EXPORTER_OTLP_ENDPOINT=url,
        OTEL_EXPORTER_OTLP_TIMEOUT="100000",
    )

    assert said == [[200]] * 5


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
    servers: Servers, variables: dict[str, str]
) -> None:
    assert answers(servers, at("health", "/health", "deep=0"), **variables) == [[200]]

    assert servers.received == []
