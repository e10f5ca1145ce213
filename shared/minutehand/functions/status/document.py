"""One OpenAPI document for the whole service, made once, in its own thread.

The other functions' routes are only described here, never served.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Response

from minutehand.config import Settings
from minutehand.web import openapi
from minutehand.web.services import Provided, Services


class Document:
    """The document as bytes, made by the first caller; the others wait for the same one."""

    def __init__(self) -> None:
        self._made: asyncio.Task[bytes] | None = None

    async def read(self, settings: Settings) -> bytes:
        """The document."""
        if self._made is None or (self._made.done() and self._made.exception() is not None):
            # more than a second of work: on the event loop every other request would wait for it
            self._made = asyncio.create_task(asyncio.to_thread(_encode, settings))
        # a caller that goes away must not take it from the others
        return await asyncio.shield(self._made)


def _encode(settings: Settings) -> bytes:
    # its own services: those of the process are not made in two threads at once
    document = whole_document(Services(settings))
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def whole_document(services: Services) -> dict[str, Any]:
    """The document of every route of `jobs`, `status`, `worker`, `health` and the apps."""
    # here and not at the top: reads must not pay for importing the other functions
    from minutehand.functions.health.app import router as health_routes
    from minutehand.functions.jobs import routes as jobs
    from minutehand.functions.jobs import steering
    from minutehand.functions.jobs.apps import routers as of_apps
    from minutehand.functions.status.routes import router as status_routes

    app = FastAPI(title="Minutehand", version=services.settings.version)
    for routes in (jobs.router, steering.router, status_routes, health_routes, *of_apps(services)):
        app.include_router(routes)
    document = openapi.document(app)
    document["paths"].update(_WORKER_PATHS)
    schemes = document["components"].setdefault("securitySchemes", {})
    for scheme, variable in _WORKER_TOKENS.items():
        schemes[scheme] = {"type": "http", "scheme": "bearer", "description": f"{variable}."}
    return document


_WORKER_TOKENS: Final = {
    "workerToken": "WORKER_SECRET_TOKEN",
    "backgroundToken": "BACKGROUND_JOB_TOKEN",
}


def _operation(summary: str, token: str, fields: dict[str, str], **more: Any) -> dict[str, Any]:
    """An operation of the worker, which serves its routes without FastAPI."""
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in fields.items()},
        "required": list(fields),
    }
    operation = {
        "tags": ["worker"],
        "summary": summary,
        "security": [{token: []}],
        "responses": {
            "200": {
                "description": "Successful Response",
                "content": {"application/json": {"schema": schema}},
            }
        },
        **more,
    }
    openapi.add_errors("post", operation)
    return operation


_TICK: Final = {
    "success": "boolean",
    "duration_ms": "number",
    "worker_id": "string",
    "timestamp": "string",
}
_HEALTH: Final = {
    "status": "string",
    "worker_exists": "boolean",
    "worker_id": "string",
    "timestamp": "string",
    "environment": "object",
}
_JOB_TYPES: Final = {
    "type": "object",
    "properties": {"jobTypes": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
    "required": ["jobTypes"],
}
_WORKER_PATHS: Final = {
    "/api/jobs/worker": {
        "get": _operation("Whether a worker exists, and where it runs.", "workerToken", _HEALTH),
        "post": _operation("Run one tick and report what it did.", "workerToken", _TICK),
    },
    "/api/jobs/process": {
        "post": _operation(
            "Run one tick over some job types.",
            "backgroundToken",
            _TICK,
            requestBody={"required": True, "content": {"application/json": {"schema": _JOB_TYPES}}},
        ),
    },
}


router = APIRouter(prefix="/api")


@router.get("/openapi.json", include_in_schema=False)
async def get_openapi(services: Provided) -> Response:
    """The OpenAPI document of every route of all functions."""
    document = services.provide(Document, Document)
    body = await document.read(services.settings)
    headers = {"Cache-Control": "public, max-age=300"}
    return Response(body, media_type="application/json", headers=headers)
