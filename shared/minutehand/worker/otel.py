"""OpenTelemetry spans of attempts, with `around(spans)`. The module needs the extra `otel`.

The setting `OTEL_EXPORTER_OTLP_ENDPOINT` adds `spans` to every job type, see
`minutehand.telemetry`.
Without the setting, the application sets a `TracerProvider` as OpenTelemetry documents.

References:
    https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

from functools import partial
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from minutehand.telemetry import follow
from minutehand.version import VERSION
from minutehand.worker.context import JobContext, StepCall
from minutehand.worker.job import Job
from minutehand.worker.middleware import Call
from minutehand.worker.outcomes import Fail, Returned

_PROPAGATOR = TraceContextTextMapPropagator()


async def spans(job: Job[Any], ctx: JobContext, call: Call) -> Returned:
    """Create a span for each attempt and each of its steps.

    The span of an attempt is a child of the request that enqueued the job.
    """
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
    ) as span:
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers)
        if "traceparent" in headers:
            follow(headers["traceparent"])
        ctx.around_steps.append(partial(_step, tracer))
        result = await call()
        if isinstance(result, Fail):
            span.set_status(Status(StatusCode.ERROR, result.reason))
        return result


async def _step(tracer: Tracer, name: str, call: StepCall) -> Any:
    with tracer.start_as_current_span(f"step {name}"):
        return await call()
