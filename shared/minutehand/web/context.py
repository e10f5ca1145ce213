"""What surrounds every request: its id, security headers, one log line, and the last net.

Pure ASGI, so that streams pass through untouched; turning planned errors into bodies inside
the app is left to `minutehand.web.handlers`.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minutehand import telemetry
from minutehand.log import request_context
from minutehand.queue.dependencies import calling_from
from minutehand.web.errors import error_response

logger = logging.getLogger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=/+-]{7,127}")

#: Set on every answer that does not say otherwise. This API serves data, never pages.
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
}


def _choose_request_id(scope: Scope) -> str:
    """The caller's `x-request-id` if it is sane, else API Gateway's, else a new one."""
    event: dict[str, Any] = scope.get("aws.event") or {}
    gateway = event.get("requestContext", {}).get("requestId") or uuid.uuid4().hex
    offered = Headers(scope=scope).get("x-request-id", "")
    return offered if _SANE_ID.fullmatch(offered) else gateway


class RequestContext:
    """Names the request, adds headers, answers what escaped the app, writes one access line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _choose_request_id(scope)
        started = time.perf_counter()
        status = 0
        span = telemetry.request_span()
        has_query = bool(scope.get("query_string"))
        telemetry.hide_address(span, has_query=has_query)

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                telemetry.hide_address(span, path=_route(scope), has_query=has_query)
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        client = scope.get("client")
        with (
            request_context(request_id),
            calling_from(client[0] if client else None),
            telemetry.following(Headers(scope=scope).get("traceparent")),
        ):
            try:
                await self._app(scope, receive, send_named)
            except Exception:  # the API's one broad catch: no one outside reads a trace
                logger.exception("request failed", extra=_described(scope, "http.failed"))
                if not status:
                    text = "Something went wrong on our side"
                    await error_response(500, "internal_error", text)(scope, receive, send_named)
            finally:
                duration_ms = round((time.perf_counter() - started) * 1000, 1)
                logger.info(
                    "request completed",
                    extra=_described(scope, "http.request")
                    | {"status": status, "duration_ms": duration_ms},
                )


def _described(scope: Scope, event: str) -> dict[str, Any]:
    return {"event": event, "method": scope["method"], "route": _route(scope)}


def _route(scope: Scope) -> str:
    """The route's template; a path itself may carry ids and is not logged."""
    route = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return path if isinstance(path, str) else "-"
