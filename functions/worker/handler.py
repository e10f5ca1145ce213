"""AWS Lambda's way into the worker: schedule, wake-up and sibling events, and its HTTP routes.

No web framework: a tick every minute should not pay for one. Nothing imports this module.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from functions.worker.processors import load_processors
from functions.worker.routes import Reply, Request, WorkerRoutes
from shared.aws.clients import client
from shared.aws.secrets import fill_environment
from shared.config import Settings
from shared.log import configure_logging, request_context
from shared.queue.errors import QueueError
from shared.worker.fanout import FanOut
from shared.worker.loop import Worker
from shared.worker.metrics import emf_line, tick_line
from shared.worker.moments import TickOptions
from shared.worker.summary import TickSummary
from shared.worker.tick import Tick

logger = logging.getLogger(__name__)

#: Marks an invocation that a tick made itself; it makes none of its own.
SIBLING_SOURCE: Final = "minutehand.sibling"
#: The minute schedule's, see infra/aws/schedule.yml.
SCHEDULE_SOURCE: Final = "minutehand.tick"
#: API Gateway gives up after 30 s; a tick asked for by HTTP answers before.
HTTP_SECONDS: Final = 25.0

fill_environment(os.environ)
_settings = Settings.from_env(os.environ)
configure_logging(_settings.log_level)
# one loop per environment, so that connections are kept between invocations
_loop = asyncio.new_event_loop()
_memory_mb = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0") or 0)
#: Lambda on arm64, us-east-1, first tier; https://aws.amazon.com/lambda/pricing/
_USD_PER_GIGABYTE_SECOND: Final = 0.0000133334


async def _start_siblings(count: int) -> int:
    """Invoke this function `count` times; a 429 is normal, the next tick takes the rest."""
    if not _settings.worker_function_name:
        return 0
    lambda_client = await asyncio.to_thread(
        client, _settings, "lambda", connect_timeout=1.0, read_timeout=2.0, attempts=1
    )
    payload = json.dumps({"source": SIBLING_SOURCE}).encode()
    results = await asyncio.gather(
        *(
            asyncio.to_thread(
                lambda_client.invoke,
                FunctionName=_settings.worker_function_name,
                InvocationType="Event",
                Payload=payload,
            )
            for _ in range(count)
        ),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, BaseException)]
    if refused:
        logger.warning(
            "Sibling workers were refused",
            extra={
                "event": "fanout.refused",
                "refused": len(refused),
                "reason": type(refused[0]).__name__,
            },
        )
    return count - len(refused)


def _write_metrics(tick: Tick) -> None:
    if tick.summary.did_something:
        sys.stdout.write(
            tick_line(
                tick.summary,
                stage=_settings.stage,
                at_ms=int(time.time() * 1000),
                wait_ms=tick.wait_ms,
                run_ms=tick.run_ms,
                memory_mb=_memory_mb,
            )
            + "\n"
        )


async def _tell_oldest_due(summary: TickSummary) -> None:
    """Write the one metric that notices jobs which no tick takes; idle costs no query."""
    oldest = 0.0
    if summary.due_left:
        try:
            oldest = (await _worker.queue.health()).oldest_due_seconds or 0.0
        except QueueError as error:
            logger.warning(
                "The oldest due job's age is unknown",
                extra={"event": "metrics.incomplete", "error": str(error)},
            )
            return
    line = emf_line(
        {"OldestDueSeconds": (oldest, "Seconds")},
        {"stage": _settings.stage},
        at_ms=int(time.time() * 1000),
    )
    sys.stdout.write(line + "\n")


_worker = Worker(
    _settings,
    registry=load_processors(_settings),
    options=TickOptions(
        concurrency=_settings.worker_concurrency,
        version=_settings.version,
        usd_per_second=_memory_mb / 1024 * _USD_PER_GIGABYTE_SECOND,
    ),
    fan_out=FanOut(),
    start_siblings=_start_siblings,
    on_tick=_write_metrics,
)
_routes = WorkerRoutes(_settings, _worker)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Run one tick, or answer one HTTP request; never returns later than Lambda allows.

    An error of the queue is raised on schedule events, so that it counts as a failed invocation
    and alarms; over HTTP it is a 503.
    """
    budget = _remaining_seconds(context)
    if isinstance(event, Mapping) and "requestContext" in event:
        request = _request(event)
        with request_context(request.request_id):
            answer = _routes.answer(
                request, budget_seconds=min(budget, HTTP_SECONDS), usual_seconds=budget
            )
            reply = _loop.run_until_complete(answer)
        return _response(reply)
    source = event.get("source") if isinstance(event, Mapping) else None
    with request_context(getattr(context, "aws_request_id", None)):
        summary = _loop.run_until_complete(
            _worker.tick(budget_seconds=budget, fan_out=source != SIBLING_SOURCE)
        )
        if source == SCHEDULE_SOURCE:
            _loop.run_until_complete(_tell_oldest_due(summary))
    return summary.as_dict()


def _remaining_seconds(context: Any) -> float:
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    # without a context (a plain call), behave as under API Gateway's own limit
    return float(remaining()) / 1000 if callable(remaining) else 29.0


def _request(event: Mapping[str, Any]) -> Request:
    context = event["requestContext"]
    http = context.get("http", {})
    body = event.get("body") or ""
    raw = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    # no variables: what the gateway matched is the path, without a stage or a domain's mapping key
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
