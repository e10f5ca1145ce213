"""W3C trace context inside an attempt, for HTTP calls and for OpenTelemetry."""

from __future__ import annotations

import contextvars

import pytest
from opentelemetry import trace as otel

from minutehand.worker import current_traceparent, trace_headers
from minutehand.worker import trace as tracing
from minutehand.worker.trace import child_of, parse

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_outside_an_attempt_there_is_no_trace() -> None:
    assert current_traceparent() is None
    assert trace_headers() == {}


def test_inside_one_its_calls_and_opentelemetry_carry_it() -> None:
    def inside() -> tuple[dict[str, str], str]:
        tracing.enter(PARENT)
        span = otel.get_current_span().get_span_context()
        return trace_headers(), f"{span.trace_id:032x}"

    headers, trace_id = contextvars.copy_context().run(inside)

    assert headers == {"traceparent": PARENT}
    assert trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert current_traceparent() is None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        PARENT + "\n",
        PARENT.replace("00-4b", "01-4b"),
        PARENT.replace("4bf9", "4BF9"),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    ],
)
def test_a_broken_trace_header_begins_a_new_trace(header: str | None) -> None:
    """One that no one has asked to record."""
    begun = parse(child_of(header))

    assert parse(header) is None
    assert begun is not None
    assert begun[2] == "00"


def test_a_child_span_stays_in_its_trace() -> None:
    trace_id, span_id, flags = parse(child_of(PARENT)) or ("", "", "")

    assert (trace_id, flags) == ("4bf92f3577b34da6a3ce929d0e0e4736", "01")
    assert span_id != "00f067aa0ba902b7"
