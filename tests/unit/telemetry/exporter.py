"""What the lock does not hold: OpenTelemetry's exporter over HTTP, here in the SDK's own JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.request import Request, urlopen

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult


def send(signal: str, body: str) -> bool:
    url = f"{os.environ['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/{signal}"
    try:
        with urlopen(Request(url, body.encode(), method="POST"), timeout=10):
            return True
    except OSError:
        return False


class Spans(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        sent = send("traces", json.dumps([json.loads(span.to_json()) for span in spans]))
        return SpanExportResult.SUCCESS if sent else SpanExportResult.FAILURE


class Metrics(MetricExporter):
    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        sent = send("metrics", metrics_data.to_json())
        return MetricExportResult.SUCCESS if sent else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None: ...
