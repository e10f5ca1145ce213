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

from fastapi.responses import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minutehand import telemetry
from minutehand.log import request_context
from minutehand.queue.dependencies import calling_from
from minutehand.web.errors import error_response
from minutehand.web.handlers import respond

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
    """Outermost layer: names the request, adds headers, writes its one access line."""

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
        telemetry.hide_address(span, has_query=bool(scope.get("query_string")))

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                telemetry.describe_path(span, _route(scope), scope.get("path_params", {}))
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
            finally:
                logger.info(
                    "request completed",
                    extra={
                        "event": "http.request",
                        "method": scope["method"],
                        "route": _route(scope),
                        "status": status,
                        "duration_ms": round((time.perf_counter() - started) * 1000, 1),
                    },
                )


def _route(scope: Scope) -> str:
    """The route's template; a path itself may carry ids and is not logged."""
    route = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return path if isinstance(path, str) else "-"


class ErrorBoundary:
    """Answers errors that escaped the app: planned ones as themselves, the rest as a bare 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:  # the API's one broad catch: no one outside reads a trace
            response = respond(error)
            if response is None:
                logger.exception(
                    "request failed",
                    extra={
                        "event": "http.failed",
                        "method": scope["method"],
                        "route": _route(scope),
                    },
                )
                response = error_response(500, "internal_error", "Something went wrong on our side")
            if not begun:
                await response(scope, receive, send)


class AllowedOrigins(CORSMiddleware):
    """Starlette's CORS with a refused preflight in the common error body."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """204-like answer for an allowed origin, 403 with a reason otherwise."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        return error_response(
            403,
            "cors_forbidden",
            "This origin, method or header is not allowed",
            detail=bytes(response.body).decode(),
        )
