"""Traces: W3C context from a request through its jobs to their calls, exported by OpenTelemetry.

`OTEL_EXPORTER_OTLP_ENDPOINT` turns the export on, with a flush that has a bound; without it nothing
of OpenTelemetry is imported here.
Spans of requests are FastAPI's, those of attempts and steps are in `minutehand.worker.otel`.

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
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from threading import Thread

    from opentelemetry.trace import Span

_TURN_ON: Final = [f"OTEL_EXPORTER_OTLP{of}_ENDPOINT" for of in ("", "_TRACES", "_METRICS")]
#: The longest that one answer waits for a collector, and the end of a process.
FLUSH_SECONDS: Final = 0.5

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
#: Of the request that is served, and of the attempt that runs.
_received: ContextVar[str | None] = ContextVar("received", default=None)
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)
_started = False
_flushing: Thread | None = None


def start(environ: Mapping[str, str], *, version: str) -> None:
    """Export traces and metrics if `environ` names a collector.

    A provider that is there already stays: that of `opentelemetry-instrument` or of AWS's layer.
    """
    global _started
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if _started or is_off or not any(environ.get(name) for name in _TURN_ON):
        return
    for name, value in environ.items():
        if name.startswith("OTEL_"):
            os.environ.setdefault(name, value)  # a header with a token may come from a secret
    try:
        _provide(version)
    except Exception as error:  # a user's exporter may raise anything; no request fails for it
        logging.getLogger(__name__).warning(
            "Nothing is exported by OpenTelemetry: pip install 'minutehand[otel]', or unset "
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            extra={"event": "telemetry.off", "reason": f"{type(error).__name__}: {error}"},
        )
        return
    _started = True


def is_started() -> bool:
    """Whether this process exports."""
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

    own = {"service.name": "minutehand", "service.version": version}
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if named else own)
    # the process's end waits no longer than an answer does
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
    """Send what is left, for at most `FLUSH_SECONDS`: Lambda freezes what comes after an answer.

    While an earlier flush still waits for the collector, this one does not: a collector that is
    down delays one answer in ten seconds (`OTEL_EXPORTER_OTLP_TIMEOUT`), the others not at all.
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
    """The span of the request that is being served; None where none is recorded."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    span = trace.get_current_span()
    return span if span.is_recording() else None


def hide_address(span: Span | None, *, path: str = "-", has_query: bool) -> None:
    """Set a span's path to its route's template: path and query may carry a token."""
    if span is not None:
        span.set_attribute("url.path", path)
        if has_query:
            span.set_attribute("url.query", "REDACTED")


@contextmanager
def following(traceparent: str | None) -> Iterator[None]:
    """Note the trace context a request came with, unless malformed, for calls made inside."""
    is_valid = traceparent is not None and _TRACEPARENT.fullmatch(traceparent)
    token = _received.set(traceparent if is_valid else None)
    try:
        yield
    finally:
        _received.reset(token)


def current_traceparent() -> str | None:
    """The W3C trace context of the span that is current, or else the one that was received."""
    if "opentelemetry" not in sys.modules:
        return _received.get()
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return _received.get()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def child_of(traceparent: str | None) -> str:
    """A new span's header in the same trace; a new trace when there is none."""
    # not secrets: each job has one, and the system's generator is a call of the system
    digits = f"{random.getrandbits(192):048x}"
    if traceparent and (match := _TRACEPARENT.fullmatch(traceparent)):
        return f"00-{match[1]}-{digits[32:]}-{match[2]}"
    return f"00-{digits[:32]}-{digits[32:]}-00"


def trace_headers() -> dict[str, str]:
    """The headers an outgoing call should carry: `traceparent`, or none outside an attempt."""
    traceparent = _current.get()
    return {} if traceparent is None else {"traceparent": traceparent}


def follow(traceparent: str) -> None:
    """Make `traceparent` current for outgoing calls: that of a span which a tracer made."""
    _current.set(traceparent)


def enter(traceparent: str) -> None:
    """Make `traceparent` current for the rest of this context, for OpenTelemetry too."""
    follow(traceparent)
    if "opentelemetry" not in sys.modules:
        return  # no one here traces; importing it would cost every cold start
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context.attach(TraceContextTextMapPropagator().extract({"traceparent": traceparent}))
