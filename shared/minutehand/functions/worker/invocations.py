"""The Lambda worker, which the minute's schedule, wake-ups, other workers and HTTP requests invoke.

This module uses no web framework, because a framework would delay the start of every worker run.
`shared/minutehand/aws/rotation.py` builds a new worker when the worker's secrets are rotated.
"""

import asyncio
import base64
import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from minutehand import telemetry
from minutehand.aws.extra_workers import EXTRA_WORKER_SOURCE, start_extra_workers
from minutehand.aws.metrics import JobMetrics, log_origin
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_or_report
from minutehand.functions.worker.routes import Reply, Request, WorkerRoutes
from minutehand.log import request_context
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.deadlines import FanOut, TickOptions
from minutehand.worker.loop import Worker, run_until_done, tune_gc

logger = logging.getLogger(__name__)

#: Source in the events of the minute's schedule, see infra/aws/worker.yml.
SCHEDULE_SOURCE = "minutehand.tick"
#: Maximum seconds of a run that an HTTP request starts. API Gateway's timeout is 30 s.
HTTP_SECONDS = 25.0


class LambdaWorker:
    """A worker on its own event loop. The worker keeps its connections open between invocations."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        telemetry.start(settings.environ, version=settings.version)
        tune_gc()
        self._loop = asyncio.new_event_loop()
        queue = WorkerQueue(settings)
        self._worker = Worker(
            settings,
            registry=self._loop.run_until_complete(load_or_report(settings, queue)),
            queue=queue,
            options=TickOptions.of(settings, ends_blocked=True, origin=log_origin(os.environ)),
            fan_out=FanOut(most=settings.extra_workers),
            start_extra_workers=partial(start_extra_workers, settings),
            most=settings.workers_at_once,
            on_tick=lambda summary: self._metrics.count_dead_letters(summary.failed),
        )
        self._metrics = JobMetrics(settings, self._worker.queue)
        self._routes = WorkerRoutes(settings, self._worker)

    def __call__(self, event: Any, context: Any) -> dict[str, Any]:
        """Run one tick, or serve one HTTP request, within Lambda's time limit.

        If the queue fails during an invocation by the schedule, the error is raised, so that the
        invocation fails and causes an alarm. If the queue fails during an HTTP request, the
        response has status 503.
        """
        try:
            return self._handle(event, context)
        finally:
            telemetry.flush()

    def _handle(self, event: Any, context: Any) -> dict[str, Any]:
        run = partial(run_until_done, self._loop)
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        # a direct invocation has no context, so its budget is the limit of API Gateway
        budget = float(remaining()) / 1000 if callable(remaining) else 29.0
        if isinstance(event, Mapping) and "requestContext" in event:
            request = _request(event)
            with request_context(request.request_id):
                call = self._routes.handle(
                    request, budget_seconds=min(budget, HTTP_SECONDS), full_tick_seconds=budget
                )
                reply = run(call)
            return _response(reply)
        source = event.get("source") if isinstance(event, Mapping) else None
        with request_context(getattr(context, "aws_request_id", None)):
            summary = run(
                self._worker.tick(budget_seconds=budget, fan_out=source != EXTRA_WORKER_SOURCE)
            )
            if source == SCHEDULE_SOURCE:
                run(self._metrics.report_oldest_due(summary.due_left))
        return summary.as_dict()

    def close(self) -> None:
        """Close the connections and the event loop."""
        self._loop.run_until_complete(self._worker.aclose())
        self._loop.close()


def _request(event: Mapping[str, Any]) -> Request:
    context = event["requestContext"]
    http = context.get("http", {})
    body = event.get("body") or ""
    raw = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    # use the route key, which is the path without the stage or the mapping key of a custom domain
    path = event.get("routeKey", "").partition(" ")[2] or http.get("path") or "/"
    return Request(
        method=http.get("method", "GET").upper(),
        path=path,
        headers={name.lower(): value for name, value in (event.get("headers") or {}).items()},
        body=raw,
        request_id=context.get("requestId"),
    )


def _response(reply: Reply) -> dict[str, Any]:
    return {
        "statusCode": reply.status,
        "headers": {"Content-Type": "application/json", **reply.headers},
        "body": reply.encoded().decode(),
        "isBase64Encoded": False,
    }
