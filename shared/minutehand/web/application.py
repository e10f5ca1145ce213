"""The factory of every API app, with limits, headers, access logs and error handlers.

`functions/` chooses the routers of each app. `minutehand.web.handlers` converts expected errors
into responses.
"""

import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minutehand import telemetry
from minutehand.log import request_context
from minutehand.queue.dependencies import calling_from
from minutehand.web import handlers
from minutehand.web.errors import ApiError, error_response
from minutehand.web.request_bodies import BoundedBody
from minutehand.web.services import Services

logger = logging.getLogger(__name__)

_REQUEST_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, Traceparent, "
    "X-Request-Id, X-Session-Id"
)
_CORS_HEADERS = "X-Request-Id, X-Session-Id, Retry-After, Location, Idempotent-Replayed"


def create_app(
    services: Services,
    routers: Iterable[APIRouter],
    *,
    title: str = "Minutehand",
    body_limits: Mapping[str, int] | None = None,
) -> FastAPI:
    """Build an app that serves `routers` with middleware and error handlers.

    Args:
        services: Clients and dependencies, available as `request.app.state.services`.
        routers: Routers in their order. The first router that has a request's path serves it.
        title: Title of the OpenAPI document.
        body_limits: Maximum bytes of a request body, by regular expression of the path. The limit
            of other paths is 1 MiB.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await services.aclose()

    app = FastAPI(
        title=title,
        version=services.settings.version,
        docs_url=None,  # Swagger UI loads scripts from a CDN, which the security headers forbid
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        # a redirect that adds or removes a final slash would echo the caller's Host header
        redirect_slashes=False,
        # send no logs, which would contain the messages of exceptions, and no spans of dependencies
        telemetry={"logs": False, "operation_spans": False},
    )
    app.state.services = services
    handlers.install(app)
    for router in routers:
        app.include_router(router)
    # CORS is added last and is therefore outermost, so that even a response with status 500 has
    # CORS headers
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    app.add_middleware(BoundedBody, limits=body_limits or {})
    app.add_middleware(RequestContext)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(services.settings.cors_origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=_REQUEST_HEADERS.split(", "),
        expose_headers=_CORS_HEADERS.split(", "),
        allow_credentials=False,
        max_age=600,
    )
    return app


_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=/+-]{7,127}")

#: Default headers of each response, which suit an API that returns data and no web pages.
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
}


def _choose_request_id(scope: Scope) -> str:
    """Return the caller's `x-request-id` if it is valid.

    If the header is missing or invalid, return API Gateway's request id or a new id.
    """
    event: dict[str, Any] = scope.get("aws.event") or {}
    gateway = event.get("requestContext", {}).get("requestId") or uuid.uuid4().hex
    requested = Headers(scope=scope).get("x-request-id", "")
    return requested if _REQUEST_ID.fullmatch(requested) else gateway


class RequestContext:
    """Sets request id and headers, handles unexpected exceptions, and logs one access line."""

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

        async def send_with_headers(message: Message) -> None:
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
            telemetry.received_trace(Headers(scope=scope).get("traceparent")),
        ):
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception:  # catch all errors, so that no caller sees a traceback
                logger.exception("request failed", extra=_log_fields(scope, "http.failed"))
                if not status:
                    text = "Something went wrong on our side"
                    response = error_response(ApiError(500, "internal_error", text))
                    await response(scope, receive, send_with_headers)
            finally:
                duration_ms = round((time.perf_counter() - started) * 1000, 1)
                logger.info(
                    "request completed",
                    extra=_log_fields(scope, "http.request")
                    | {"status": status, "duration_ms": duration_ms},
                )


def _log_fields(scope: Scope, event: str) -> dict[str, Any]:
    return {"event": event, "method": scope["method"], "route": _route(scope)}


def _route(scope: Scope) -> str:
    """Return the path template of the route. The path is not logged, because it may contain ids."""
    route = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return path if isinstance(path, str) else "-"
