"""W3C trace context from the enqueueing request through the job to its outgoing calls.

Plain strings, no exporter; OpenTelemetry's context is joined when its API is installed.
"""

from __future__ import annotations

import contextvars
import random
import re
import sys

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
_current: contextvars.ContextVar[str | None] = contextvars.ContextVar("traceparent", default=None)


def child_of(traceparent: str | None) -> str:
    """A new span's header in the same trace; a new trace when there is none."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    # not secrets: each job has one, and the system's generator is a call of the system
    made = f"{random.getrandbits(128) or 1:032x}"
    trace_id, flags = (match[1], match[2]) if match else (made, "00")
    return f"00-{trace_id}-{random.getrandbits(64) or 1:016x}-{flags}"


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
