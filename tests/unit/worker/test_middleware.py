"""What runs around processors: its order, what it sees, spans and error reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextvars import ContextVar
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread, current_thread, main_thread
from typing import Any

import pytest
import sentry_sdk
from opentelemetry import trace
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from minutehand.worker import Call, Fail, Job, JobContext, Snooze, trace_headers
from minutehand.worker.middleware import is_async
from minutehand.worker.otel import metrics, spans
from minutehand.worker.sentry import report_errors
from minutehand.worker.testing import ProcessorTest
from tests.support.payloads import Nothing

REQUEST = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


TENANT = ContextVar("tenant", default="none")


def checked(run: Any, *around: Any, **fields: Any) -> ProcessorTest[Nothing]:
    return ProcessorTest(run, Nothing(), around=around, **fields)


@pytest.mark.parametrize(
    ("kind", "in_thread"),
    [("async", False), ("object", False), ("plain", True), ("plain for async", False)],
)
async def test_a_processor_sees_what_was_set_around_it(kind: str, in_thread: bool) -> None:
    """A tenant, a database's session, a trace; a plain one also in a thread of its own."""

    async def around(job: Job[Any], ctx: JobContext, call: Call) -> Any:
        TENANT.set("acme")
        return await call()

    def run(job: Job[Nothing], ctx: JobContext) -> list[Any]:
        return [TENANT.get(), current_thread() is not main_thread()]

    async def run_async(job: Job[Nothing], ctx: JobContext) -> list[Any]:
        return run(job, ctx)

    class Processor:
        async def __call__(self, job: Job[Nothing], ctx: JobContext) -> list[Any]:
            return run(job, ctx)

    runs = {
        "async": run_async,
        "object": Processor(),
        "plain": run,
        "plain for async": lambda job, ctx: run_async(job, ctx),
    }
    assert (await checked(runs[kind], around).run()).result == ["acme", in_thread]
    assert is_async(runs[kind]) == (kind in {"async", "object"})


@pytest.mark.parametrize("plain", [False, True])
async def test_the_first_is_outermost_and_each_may_change_the_outcome(plain: bool) -> None:
    order: list[str] = []

    async def outer(job: Job[Any], ctx: JobContext, call: Call) -> Any:
        order.append("outer")
        returned = await call()
        order.append("end")
        return {"seen": returned}

    async def inner(job: Job[Any], ctx: JobContext, call: Call) -> Any:
        order.append("inner")
        return await call()

    def run(job: Job[Nothing], ctx: JobContext) -> int:
        order.append("run")
        return 7

    async def run_async(job: Job[Nothing], ctx: JobContext) -> int:
        return run(job, ctx)

    result = await checked(run if plain else run_async, outer, inner).run()

    assert result.result == {"seen": 7}
    assert order == ["outer", "inner", "run", "end"]


async def test_a_wait_is_no_exception_to_middleware() -> None:
    seen: list[BaseException] = []

    async def careful(job: Job[Any], ctx: JobContext, call: Call) -> Any:
        try:
            return await call()
        except Exception as error:
            seen.append(error)
            raise

    async def run(job: Job[Nothing], ctx: JobContext) -> None:
        await ctx.sleep(60)

    assert (await checked(run, careful).run()).outcome == "waiting"
    assert seen == []


async def test_what_middleware_raises_is_the_attempts_failure() -> None:
    async def full(job: Job[Any], ctx: JobContext, call: Call) -> Any:
        raise ConnectionError("no connection left")

    async def run(job: Job[Nothing], ctx: JobContext) -> None:
        raise AssertionError("the processor was run")

    result = await checked(run, full).run()

    assert result.outcome == "retry"
    assert result.error is not None
    assert result.error.type == "ConnectionError"


# OpenTelemetry ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provider() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(made)
    return exporter


async def test_an_attempt_and_its_steps_are_spans_of_the_requests_trace(
    provider: InMemorySpanExporter,
) -> None:
    carried: list[str] = []

    async def charge() -> int:
        carried.append(trace_headers()["traceparent"])
        return 1

    async def run(job: Job[Nothing], ctx: JobContext) -> None:
        await ctx.step("charge", charge)
        await ctx.step("refuse", refuse)

    async def refuse() -> None:
        raise ValueError("no such card")

    async def gives_up(job: Job[Nothing], ctx: JobContext) -> Fail:
        return Fail("gave up")

    provider.clear()
    test = checked(run, spans, traceparent=REQUEST, job_type="order")
    await test.run()

    charged, refused, attempt = provider.get_finished_spans()
    assert [s.name for s in (charged, refused, attempt)] == [
        "step charge",
        "step refuse",
        "process order",
    ]
    context = attempt.get_span_context()
    assert attempt.parent is not None
    assert context is not None
    assert f"{attempt.parent.span_id:016x}" == REQUEST.split("-")[2]
    assert charged.parent == refused.parent == context
    assert carried[0].split("-")[2] == f"{context.span_id:016x}"
    assert (refused.status.description, attempt.status.description) == (
        "ValueError: no such card",
        "ValueError: no such card",
    )
    assert attempt.attributes is not None
    assert attempt.attributes["messaging.message.id"] == test.job_id

    provider.clear()
    await checked(gives_up, spans, job_type="order").run()
    [planned] = provider.get_finished_spans()
    assert (planned.status.status_code, planned.status.description) == (StatusCode.ERROR, "gave up")

    provider.clear()
    await test.run()
    again = [span.name for span in provider.get_finished_spans()]
    assert again == ["step refuse", "process order"]  # the other step is read, and does not run


async def test_attempts_are_counted_by_outcome_and_timed() -> None:
    """By the names of /metrics; a failure of the last attempt is one, an earlier one a retry."""
    reader = InMemoryMetricReader()
    set_meter_provider(MeterProvider([reader]))

    async def fails(job: Job[Nothing], ctx: JobContext) -> None:
        raise ValueError("no such card")

    async def waits(job: Job[Nothing], ctx: JobContext) -> None:
        await ctx.sleep(86_400)

    async def works(job: Job[Nothing], ctx: JobContext) -> Snooze | None:
        return None if job.attempt == 1 else Snooze(after=5)

    for run, attempt in ((fails, 1), (fails, 5), (waits, 1), (works, 1), (works, 2)):
        await checked(run, metrics, job_type="order", attempt=attempt, max_attempts=5).run()

    data = reader.get_metrics_data()
    assert data is not None
    found = {one.name: one for one in data.resource_metrics[0].scope_metrics[0].metrics}
    attempts = {
        (point.attributes or {})["outcome"]: point.value
        for point in found["minutehand_attempts"].data.data_points
        if isinstance(point, NumberDataPoint)
    }
    assert attempts == {"retry": 1, "failed": 1, "waiting": 1, "completed": 1, "snoozed": 1}
    assert len(found["minutehand_run_seconds"].data.data_points) == 5
    [waited] = found["minutehand_queue_wait_seconds"].data.data_points
    assert isinstance(waited, HistogramDataPoint)
    assert waited.count == 5
    [running] = found["minutehand_running_jobs"].data.data_points
    assert isinstance(running, NumberDataPoint)
    assert (running.value, dict(running.attributes or {})) == (0, {"job_type": "order"})


# Sentry -------------------------------------------------------------------------------------------


@pytest.fixture
def reports() -> Iterator[list[dict[str, Any]]]:
    """What Sentry's own client sends to a server that takes its envelopes."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.extend(json.loads(line) for line in body.splitlines() if b'"event_id"' in line)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    sentry_sdk.init(
        f"http://key@127.0.0.1:{server.server_port}/1",
        default_integrations=False,
        _experiments={"transport_compression_level": 0},
    )
    try:
        yield received
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.init()
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_failed_attempt_is_reported_with_its_job_and_no_payload(
    reports: list[dict[str, Any]],
) -> None:
    async def run(job: Job[Nothing], ctx: JobContext) -> Any:
        if job.attempt == 1:
            return Snooze(after=60)
        if job.attempt == 2:
            raise ValueError("no such card")
        return Fail("gives up")

    for attempt in (1, 2, 3):
        test = checked(run, report_errors, attempt=attempt, max_attempts=3, job_type="order")
        await test.run()
    sentry_sdk.flush(60)

    events = [each for each in reports if "level" in each]
    assert [(e["level"], e["tags"]["job_type"], e["transaction"]) for e in events] == [
        ("warning", "order", "order"),
        ("error", "order", "order"),
    ]
    assert events[0]["exception"]["values"][0]["type"] == "ValueError"
    assert events[0]["contexts"]["job"]["attempt"] == 2
    assert events[1]["message"] == "gives up"
    assert all("payload" not in event["contexts"]["job"] for event in events)
