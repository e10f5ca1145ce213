"""Spans and metrics for OpenTelemetry: `around(spans)`, `around(metrics)`. Needs the extra `otel`.

`OTEL_EXPORTER_OTLP_ENDPOINT` adds both to every type, see `minutehand.telemetry`. Otherwise the
exporter is the application's: a `TracerProvider` and a `MeterProvider` set as OpenTelemetry
documents it.

References:
    https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from opentelemetry import trace
from opentelemetry.metrics import get_meter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from minutehand.version import VERSION
from minutehand.worker.context import JobContext, StepCall, Suspended, TurnEnded
from minutehand.worker.job import Job
from minutehand.worker.middleware import Call
from minutehand.worker.outcomes import Cancel, Fail, Retry, Returned, Snooze
from minutehand.worker.summary import (
    QUEUE_WAIT_SECONDS,
    RUN_SECONDS,
    RUNNING_JOBS,
)
from minutehand.worker.trace import follow

_PROPAGATOR = TraceContextTextMapPropagator()
# one of each: without a provider every call of `get_meter` makes one that stays
_METER = get_meter("minutehand", VERSION)
_RUNNING = _METER.create_up_down_counter(
    f"minutehand_{RUNNING_JOBS[0]}", description=RUNNING_JOBS[1]
)
_QUEUE_WAIT, _RUN = (
    _METER.create_histogram(f"minutehand_{name}", "s", text)
    for name, text in (QUEUE_WAIT_SECONDS, RUN_SECONDS)
)
_ATTEMPTS = _METER.create_counter("minutehand_attempts", description="Attempts.")


async def spans(job: Job[Any], ctx: JobContext, call: Call) -> Returned:
    """Middleware: a span for the attempt, below the enqueueing request's, and one for each step."""
    tracer = trace.get_tracer("minutehand", VERSION)
    parent = _PROPAGATOR.extract({"traceparent": job.traceparent} if job.traceparent else {})
    with tracer.start_as_current_span(
        f"process {job.job_type}",
        context=parent,
        kind=SpanKind.CONSUMER,
        attributes={
            "messaging.system": "minutehand",
            "messaging.operation.type": "process",
            "messaging.destination.name": job.queue,
            "messaging.message.id": str(job.id),
            "minutehand.job.type": job.job_type,
            "minutehand.job.attempt": job.attempt,
            "minutehand.workspace.id": str(job.workspace_id),
        },
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers)
        if "traceparent" in headers:
            follow(headers["traceparent"])
        ctx.around_steps.append(partial(_step, tracer))
        try:
            returned = await call()
        except Exception as error:
            _failed(span, error)
            raise
        if isinstance(returned, Fail):
            span.set_status(Status(StatusCode.ERROR, returned.reason))
        return returned


async def metrics(job: Job[Any], ctx: JobContext, call: Call) -> Returned:
    """Middleware: count the attempt by type and outcome, time it, and count it while it runs.

    `minutehand_attempts` (`job_type`, `outcome`: completed, retry, failed, snoozed, waiting,
    cancelled, or stopped by a cancel, a timeout, a deadline), `minutehand_run_seconds` and
    `minutehand_running_jobs` of this worker; `minutehand_queue_wait_seconds` from due to start.
    """
    labels = {"job_type": job.job_type}
    _RUNNING.add(1, labels)
    _QUEUE_WAIT.record(job.queued_seconds, labels)
    began = time.monotonic()
    outcome = "stopped"
    try:
        returned = await call()
        outcome = _RETURNED.get(type(returned), "completed")
        return returned
    except TurnEnded as ended:
        outcome = _RETURNED[type(ended.outcome)]
        raise
    except Suspended:
        outcome = "waiting"
        raise
    except Exception as error:
        is_final = job.is_last_attempt or not getattr(error, "retryable", True)
        outcome = "failed" if is_final else "retry"
        raise
    finally:
        _RUNNING.add(-1, labels)
        labels = {**labels, "outcome": outcome}
        _ATTEMPTS.add(1, labels)
        _RUN.record(time.monotonic() - began, labels)


_RETURNED = {Retry: "retry", Snooze: "snoozed", Fail: "failed", Cancel: "cancelled"}


async def _step(tracer: Tracer, name: str, call: StepCall) -> Any:
    with tracer.start_as_current_span(
        f"step {name}", record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            return await call()
        except Exception as error:
            _failed(span, error)
            raise


def _failed(span: Span, error: Exception) -> None:
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
