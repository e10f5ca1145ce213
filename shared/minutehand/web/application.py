"""The app factory every function uses, so that errors, limits and headers exist once.

Which routers an app carries is left to `functions/`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from minutehand.web import handlers
from minutehand.web.bodies import BoundedBody
from minutehand.web.context import RequestContext
from minutehand.web.services import Services

_REQUEST_HEADERS = [
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-Request-Id",
    "X-Session-Id",
    "Traceparent",
]
_EXPOSED_HEADERS = [
    "X-Request-Id",
    "X-Session-Id",
    "Retry-After",
    "Location",
    "Idempotent-Replayed",
]


def create_app(
    services: Services,
    routers: Iterable[APIRouter],
    *,
    title: str = "Minutehand",
    body_limits: Mapping[str, int] | None = None,
) -> FastAPI:
    """An app that serves `routers` with everything around them.

    Args:
        services: What routes work with; found again as `request.app.state.services`.
        routers: Served in this order; the first match wins.
        title: Shown in the OpenAPI document.
        body_limits: Regular expressions of paths that take more than 1 MiB, with their bytes.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await services.aclose()

    app = FastAPI(
        title=title,
        version=services.settings.version,
        docs_url=None,  # Swagger UI comes from a CDN, which the security headers forbid
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        # a log record would carry an exception's message; a span for each dependency is noise
        telemetry={"logs": False, "operation_spans": False},
    )
    app.state.services = services
    handlers.install(app)
    for router in routers:
        app.include_router(router)
    # added last is outermost: CORS, so that even a 500 carries its headers
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    app.add_middleware(BoundedBody, limits=body_limits or {})
    app.add_middleware(RequestContext)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(services.settings.cors_origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=_REQUEST_HEADERS,
        expose_headers=_EXPOSED_HEADERS,
        allow_credentials=False,
        max_age=600,
    )
    return app
