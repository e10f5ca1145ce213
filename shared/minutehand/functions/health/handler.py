"""AWS Lambda's way into the `health` function; nothing imports this module.

Plain on purpose: a probe must not wait for FastAPI's import, only a deep one for the queue's.
"""

from __future__ import annotations

import json
import os
import re
import time
from datetime import UTC, datetime
from typing import Any

from minutehand import telemetry
from minutehand.error_body import METHOD_NOT_ALLOWED, ROUTE_NOT_FOUND, error_body
from minutehand.functions.health.probe import liveness
from minutehand.version import VERSION

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=/+-]{7,127}")
_OFF = {"", "0", "false"}
_SHALLOW = "/health"
_ALL = "/api/v1/health"
_READY = "/api/health/ready"

#: What was found longer ago than this is no longer known to be well.
_STALE_SECONDS = 30.0

_loop: Any = None
_queue: Any = None
_extra: Any = None
_key: str | None = None
_known: tuple[dict[str, Any] | None, float] = (None, 0.0)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one probe, in a span where OpenTelemetry is on."""
    path = _path(event)
    if path not in {_SHALLOW, _ALL, _READY} or not telemetry.start(os.environ, version=_version()):
        return _probe(event, context, path)
    method = event.get("requestContext", {}).get("http", {}).get("method", "GET")
    with telemetry.serving(method, path, event.get("headers") or {}) as answered:
        answer = _probe(event, context, path)
        answered["status"] = answer["statusCode"]
    telemetry.flush()
    return answer


def _version() -> str:
    lambdas = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", VERSION)
    return os.environ.get("MINUTEHAND_VERSION") or lambdas


def _probe(event: dict[str, Any], context: Any, path: str) -> dict[str, Any]:
    http = event.get("requestContext", {}).get("http", {})
    request_id = _request_id(event, context)
    if path not in {_SHALLOW, _ALL, _READY}:
        return _refuse(404, *ROUTE_NOT_FOUND, request_id)
    if http.get("method", "GET") != "GET":
        refused = _refuse(405, *METHOD_NOT_ALLOWED, request_id)
        refused["headers"]["allow"] = "GET"
        return refused
    alive = liveness(
        version=_version(),
        stage=os.environ.get("STAGE", "local"),
        region=os.environ.get("AWS_REGION", "us-east-1"),
    )
    deep = (event.get("queryStringParameters") or {}).get("deep", "")
    if (path == _SHALLOW and deep in _OFF) or (path == _ALL and deep and deep in _OFF):
        # what a probe of all parts last found here; a probe of the process waits for none
        return _answer(200, alive if deep else {**alive, **_last_known()}, request_id)
    status, body = _readiness()
    if path == _ALL and not deep:
        body = _in_words(body)
    return _answer(status, {**alive, **body}, request_id)


def _last_known() -> dict[str, Any]:
    body, at = _known
    if body is None:
        return {"status": "unknown", "checked_seconds_ago": None}
    return _in_words(body, time.monotonic() - at, _STALE_SECONDS)


def _in_words(body: dict[str, Any], *age: float) -> dict[str, Any]:
    from minutehand.functions.health.checks import in_words  # it imports asyncio, as below

    return in_words(body, *age)


def _readiness() -> tuple[int, dict[str, Any]]:
    global _loop, _queue, _extra, _key, _known
    # here and not at the top: the shallow probe must not pay for asyncio and the queue's client
    import asyncio

    from minutehand.aws.secrets import read_secrets
    from minutehand.config import Settings
    from minutehand.functions.health.apps import checks_of_apps
    from minutehand.functions.health.checks import readiness
    from minutehand.queue.keys import days_left
    from minutehand.queue.worker_client import WorkerQueue

    if _loop is None or _queue is None:
        environ = {**read_secrets(os.environ), **os.environ}
        _loop = asyncio.new_event_loop()
        settings = Settings.from_env(environ)
        _queue, _extra = WorkerQueue(settings), checks_of_apps(settings)
        _key = settings.supabase_worker_key
    key_days = days_left(_key, datetime.now(UTC))
    answer: tuple[int, dict[str, Any]] = _loop.run_until_complete(
        readiness(_queue, _extra, key_days=key_days)
    )
    _known = (answer[1], time.monotonic())
    if answer[1]["checks"]["database"]["verdict"] != "pass":
        close()  # the key may have been rotated: the next probe reads it again
    return answer


def close() -> None:
    """Close connections and loop; Lambda just freezes both, tests must not."""
    global _loop, _queue, _known
    if _loop is not None:
        _loop.run_until_complete(_queue.aclose())
        _loop.close()
    _loop = _queue = None
    _known = (None, 0.0)


def _path(event: dict[str, Any]) -> str:
    # no variables: what the gateway matched is the path, without a stage or a domain's mapping key
    matched: str = event.get("routeKey", "").partition(" ")[2]
    return matched or event.get("rawPath") or "/"


def _request_id(event: dict[str, Any], context: Any) -> str:
    offered = str((event.get("headers") or {}).get("x-request-id", ""))
    if _SANE_ID.fullmatch(offered):
        return offered
    own = event.get("requestContext", {}).get("requestId")
    return str(own or context.aws_request_id)


def _refuse(status: int, code: str, error: str, request_id: str) -> dict[str, Any]:
    return _answer(status, error_body(code, error, request_id=request_id), request_id)


def _answer(status: int, body: dict[str, Any], request_id: str) -> dict[str, Any]:
    headers = {
        "content-type": "application/json",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "x-request-id": request_id,
    }
    if status == 503:
        headers["retry-after"] = "5"
    return {
        "statusCode": status,
        "headers": headers,
        "body": json.dumps(body),
        "isBase64Encoded": False,
    }
