"""One environment variable exports spans and metrics. No response waits long for the export."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from threading import Event
from typing import Any

import jwt
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.http_server import http_server
from tests.support.lambda_events import http_event

SECRET = "the-legacy-secret-of-a-made-up-project"
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class Servers:
    """A collector, and a project that rejects each call. The requests to each are recorded."""

    url: str = ""
    received: list[tuple[str, bytes]] = field(default_factory=list)
    traces: dict[str, str | None] = field(default_factory=dict)
    go_on: Event = field(default_factory=Event)
    is_slow: bool = False

    def bodies(self, part: str) -> bytes:
        return b"".join(body for path, body in self.received if part in path)

    def spans(self) -> dict[str, tuple[Span, dict[str, Any]]]:
        """Return each exported span with its attributes, by name."""
        return {
            span.name: (span, {one.key: _value(one) for one in span.attributes})
            for path, body in self.received
            if path == "/v1/traces"
            for sent in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in sent.scope_spans
            for span in scope.spans
        }


def _value(attribute: Any) -> Any:
    return getattr(attribute.value, attribute.value.WhichOneof("value"))


@pytest.fixture
def servers() -> Iterator[Servers]:
    def respond(path: str, headers: Message, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        found.received.append((path, body))
        found.traces[path] = headers.get("x-minutehand-trace")
        is_export = path.startswith("/v1/")
        if is_export and found.is_slow:
            found.go_on.wait()
        return 200 if is_export else 400, b"{}", {}

    found = Servers()
    with http_server(respond) as found.url:
        yield found
        found.go_on.set()


def answers(servers: Servers, *events: dict[str, Any], **variables: str) -> list[Any]:
    """Return the status of the process's response to each event."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.telemetry.process"],
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
    return [json.loads(line)[0] for line in done.stdout.splitlines() if line.startswith("[")]


def at(function: str, path: str, query: str = "", *, body: str | None = None) -> dict[str, Any]:
    """Return a signed-in person's request as API Gateway sends it. With a body, it is a POST."""
    claims = {"sub": "aaaaaaaa-0000-4000-8000-000000000001", "aud": "authenticated"}
    claims |= {"role": "authenticated", "exp": int(time.time()) + 600}  # type: ignore[dict-item]
    headers = {
        "authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}",
        "traceparent": CALLER,
    }
    method = "POST" if body else "GET"
    return {"function": function} | http_event(method, path, query=query, body=body, **headers)


def create_job() -> dict[str, Any]:
    body = {
        "workspace_id": "11111111-1111-4111-8111-111111111111",
        "job_type": "enrich_account",
        "payload": {"domain": "bücher.example"},
    }
    return at("jobs", "/api/jobs", body=json.dumps(body, ensure_ascii=False))


HEALTH = at("health", "/health")


def test_requests_and_attempts_are_spans_and_a_job_carries_its_own(servers: Servers) -> None:
    """Requests and attempts are exported as spans with route and parent.

    A span contains no payload, token or query.
    """
    [created, *_, worked] = answers(
        servers,
        create_job(),
        at("status", "/api/jobs/019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11", "token=hunter2"),
        at("status", "/api/session/unguessable", "limit=3"),
        HEALTH,
        {"function": "work"},
    )

    spans = servers.spans()
    request, attributes = spans["POST /api/jobs"]
    assert attributes["http.response.status_code"] == created
    assert attributes["url.path"] == attributes["http.route"] == "/api/jobs"
    trace, parent = CALLER.split("-")[1:3]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (trace, parent)
    sent = servers.traces["/rest/v1/rpc/enqueue_job"]
    assert sent == f"00-{trace}-{request.span_id.hex()}-01"
    assert spans["GET /api/jobs/{job_id}"][1]["url.query"] == "REDACTED"
    assert spans["GET /health"][1]["http.response.status_code"] == 200
    assert worked == "completed"
    assert [name for name in spans if name.startswith("process ")] != []
    payload = json.loads(servers.bodies("enqueue_job"))["p_payload"]
    for secret in ("hunter2", "unguessable", "Bearer", *map(str, payload.values())):
        assert secret.encode() not in servers.bodies("/v1/traces")


@pytest.mark.parametrize("collector", ["down", "slow"])
def test_a_collector_that_does_not_answer_fails_nothing(servers: Servers, collector: str) -> None:
    """Neither a response nor the process's end waits for an unreachable or slow collector."""
    servers.is_slow = collector == "slow"
    url = servers.url if servers.is_slow else "http://127.0.0.1:9"
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_TIMEOUT": "100000"}

    assert answers(servers, *[HEALTH] * 5, **variables) == [200] * 5
