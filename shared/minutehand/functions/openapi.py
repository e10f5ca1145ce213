"""`GET /api/openapi.json`, the OpenAPI document of all operations with their errors.

Paths and schemas come from the routes. This module adds the errors that all routes share.
`functions/README.md` documents the worker's routes, which the document omits.
"""

import asyncio
import json
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi

from minutehand.web.auth import GUESTS
from minutehand.web.errors import ErrorBody

_DESCRIPTION = (
    "Durable background jobs. Errors carry `error` (for people), `code` (a stable word), "
    "`detail` and `request_id`."
)
_ERRORS = {
    "400": "Malformed JSON or an unusable value. `detail` names the field.",
    "404": "Missing, or not visible to you. The response is the same for both.",
    "422": "JSON that does not fit this route. `detail` names the fields.",
    "503": "The database is unavailable. Repeat after `Retry-After` seconds.",
}
_ERRORS_OF_SIGNED_IN = {
    "401": "No token, or one that is expired or forged.",
    "403": "The token is valid, but its user may not do this.",
    "429": "A limit is exceeded. `detail` names it. Repeat after `Retry-After` seconds.",
}
_WRITE_ERRORS = {
    "409": "Conflict with the present state. `detail` names the state.",
    "413": "The body or the payload is too large.",
    "415": "The body is not JSON.",
    "429": _ERRORS_OF_SIGNED_IN["429"],
}

router = APIRouter(prefix="/api")


@router.get("/openapi.json", include_in_schema=False)
async def get_document(request: Request) -> Response:
    """Return the OpenAPI document of every route of all functions."""
    # use a thread, because the first call takes a second and must not block the event loop
    body = await asyncio.to_thread(_encoded, request.app)
    headers = {"Cache-Control": "public, max-age=300"}
    return Response(body, media_type="application/json", headers=headers)


def _encoded(app: FastAPI) -> bytes:
    app.openapi_schema = app.openapi_schema or document(app)
    return json.dumps(app.openapi_schema, separators=(",", ":"), ensure_ascii=False).encode()


def document(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document of `app`."""
    openapi = get_openapi(
        title="Minutehand", version=app.version, description=_DESCRIPTION, routes=app.routes
    )
    schemas = openapi["components"]["schemas"]
    schemas["ErrorBody"] = ErrorBody.model_json_schema()
    # remove FastAPI's schemas for status 422, which no route here uses
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    openapi["components"]["securitySchemes"].pop(GUESTS, None)
    for item in openapi["paths"].values():
        for method, operation in item.items():
            if {GUESTS: []} in operation.get("security", ()):
                operation["security"] = [{"userToken": []}, {}]
            _add_errors(method, operation)
    return openapi


def _add_errors(method: str, operation: dict[str, Any]) -> None:
    """Add the shared errors to an operation, except the errors that its route declares itself."""
    errors = dict(_ERRORS)
    if operation.get("security"):
        errors |= _ERRORS_OF_SIGNED_IN
    if method != "get":
        errors |= _WRITE_ERRORS
    responses = operation["responses"]
    responses.pop("422", None)
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    for status, description in errors.items():
        responses.setdefault(status, {"description": description, "content": shape})
