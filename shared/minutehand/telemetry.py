"""Traces of requests, jobs and their calls, by W3C trace context, exported by OpenTelemetry.

`OTEL_EXPORTER_OTLP_ENDPOINT` enables the export. Without the variable, the module does not import
OpenTelemetry. FastAPI creates the spans of requests, and `minutehand.worker.otel` creates the spans
of attempts and steps.

References:
    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

import logging
import os
import random
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threading import Thread

    from opentelemetry.trace import Span

_ENDPOINTS = [f"OTEL_EXPORTER_OTLP{kind}_ENDPOINT" for kind in ("", "_TRACES", "_METRICS")]
#: Maximum seconds for which a response, or the end of a process, waits for a collector.
FLUSH_SECONDS = 0.5

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
#: Trace context of the current request.
_received: ContextVar[str | None] = ContextVar("received", default=None)
#: Trace context of the current attempt.
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)
_started = False
_flushing: Thread | None = None


def start(environ: Mapping[str, str], *, version: str) -> None:
    """Export traces and metrics to the collector in `environ`, if there is one.

    A provider that already exists is kept, such as that of `opentelemetry-instrument` or AWS's
    layer.
    """
    global _started
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if _started or is_off or not any(environ.get(name) for name in _ENDPOINTS):
        return
    for name, value in environ.items():
        if name.startswith("OTEL_"):
            os.environ.setdefault(name, value)  # the secrets may include OTEL_ variables
    try:
        _provide(version)
    except Exception as error:  # an exporter's error must not fail a request
        logging.getLogger(__name__).warning(
            "OpenTelemetry exports nothing: pip install 'minutehand[otel]', or unset "
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            extra={"event": "telemetry.off", "reason": f"{type(error).__name__}: {error}"},
        )
        return
    _started = True


def is_started() -> bool:
    """Return whether this process exports traces."""
    return _started


def _provide(version: str) -> None:
    from opentelemetry import metrics, trace

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    import atexit

    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    defaults = {"service.name": "minutehand", "service.version": version}
    has_name = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if has_name else defaults)
    # flush here instead of the providers' own shutdown, which waits longer
    atexit.register(flush)
    if os.environ.get("OTEL_TRACES_EXPORTER") != "none":
        traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(traces)
    if os.environ.get("OTEL_METRICS_EXPORTER") != "none":
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        metrics.set_meter_provider(
            MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        )


def flush() -> None:
    """Send all pending data within `FLUSH_SECONDS`, because Lambda freezes after a response.

    If an earlier flush still waits for the collector, a new flush returns immediately. A collector
    that is down delays only one response in ten seconds (`OTEL_EXPORTER_OTLP_TIMEOUT`).
    """
    global _flushing
    if not _started or (_flushing is not None and _flushing.is_alive()):
        return
    from threading import Thread

    from opentelemetry import metrics, trace

    def send() -> None:
        for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
            getattr(provider, "force_flush", bool)()

    _flushing = Thread(target=send, name="telemetry", daemon=True)
    _flushing.start()
    _flushing.join(FLUSH_SECONDS)


def request_span() -> Span | None:
    """Return the recorded span of the current request, or None."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    span = trace.get_current_span()
    return span if span.is_recording() else None


def hide_address(span: Span | None, *, path: str = "-", has_query: bool) -> None:
    """Replace a span's path by its route's template, because path and query may contain a token."""
    if span is not None:
        span.set_attribute("url.path", path)
        if has_query:
            span.set_attribute("url.query", "REDACTED")


@contextmanager
def received_trace(traceparent: str | None) -> Iterator[None]:
    """Use the trace context of a request for the calls in the block, unless it is invalid."""
    is_valid = traceparent is not None and _TRACEPARENT.fullmatch(traceparent)
    token = _received.set(traceparent if is_valid else None)
    try:
        yield
    finally:
        _received.reset(token)


def current_traceparent() -> str | None:
    """Return the W3C trace context of the current span, or otherwise of the current request."""
    if "opentelemetry" not in sys.modules:
        return _received.get()
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return _received.get()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def child_traceparent(traceparent: str | None) -> str:
    """Return the `traceparent` of a new span, in the trace of `traceparent` or in a new trace."""
    # do not use `secrets`, because a system call for each job would be too slow
    digits = f"{random.getrandbits(192):048x}"
    if traceparent and (match := _TRACEPARENT.fullmatch(traceparent)):
        return f"00-{match[1]}-{digits[32:]}-{match[2]}"
    return f"00-{digits[:32]}-{digits[32:]}-00"


def trace_headers() -> dict[str, str]:
    """Return the header `traceparent` for an outgoing call.

    Outside of an attempt of a job, return no header.
    """
    traceparent = _current.get()
    return {} if traceparent is None else {"traceparent": traceparent}


def follow(traceparent: str) -> None:
    """Use the trace context of a tracer's span for all outgoing calls of the attempt."""
    _current.set(traceparent)


def enter(traceparent: str) -> None:
    """Use a trace context until the attempt ends, for outgoing calls and in OpenTelemetry."""
    follow(traceparent)
    if "opentelemetry" not in sys.modules:
        return  # no tracer is loaded, and an import would slow down each cold start
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context.attach(TraceContextTextMapPropagator().extract({"traceparent": traceparent}))
