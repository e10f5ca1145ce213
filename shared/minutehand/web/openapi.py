"""The published OpenAPI document: every operation with the errors it may answer.

Paths and schemas come from the routes themselves; only what they share is added here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from minutehand.web.auth import GUESTS
from minutehand.web.errors import ErrorBody

PATH = "/api/openapi.json"

_DESCRIPTION = (
    "Durable background jobs. Errors carry `error` (for people), `code` (a stable word), "
    "`detail` and `request_id`."
)
_ERRORS = {
    "400": "Malformed JSON or an unusable value; `detail` names the field.",
    "404": "Missing, or not yours; the answer does not say which.",
    "422": "Well-formed, but not what this route takes; `detail` names the fields.",
    "503": "The database is unavailable; repeat after `Retry-After` seconds.",
}
_ERRORS_OF_SIGNED_IN = {
    "401": "No token, or one that is expired or forged.",
    "403": "The token is good, but its holder may not do this.",
    "429": "Over a limit, which `detail` names; repeat after `Retry-After` seconds.",
}
_ERRORS_OF_WRITES = {
    "409": "In conflict with the present state, which `detail` names.",
    "413": "The body or the payload is too large.",
    "415": "The body is not JSON.",
    "429": _ERRORS_OF_SIGNED_IN["429"],
}


def install(app: FastAPI) -> None:
    """Make `app.openapi()` return the full document; it is built on first use."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def document(app: FastAPI) -> dict[str, Any]:
    """The document of `app`."""
    found = get_openapi(
        title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    schemas["ErrorBody"] = ErrorBody.model_json_schema()
    # FastAPI's own shapes of a 422, which no route here answers with
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemes = found["components"].get("securitySchemes", {})
    if (guests := schemes.pop(GUESTS, None)) is not None:
        schemes.setdefault("userToken", guests)
    for item in found.get("paths", {}).values():
        for method, operation in item.items():
            if {GUESTS: []} in operation.get("security", ()):
                operation["security"] = [{"userToken": []}, {}]
            add_errors(method, operation)
    return found


def add_errors(method: str, operation: dict[str, Any]) -> None:
    """Describe every error that an operation may answer with and does not describe itself."""
    errors = dict(_ERRORS)
    if operation.get("security"):
        errors |= _ERRORS_OF_SIGNED_IN
    if method != "get":
        errors |= _ERRORS_OF_WRITES
    responses = operation.setdefault("responses", {})
    responses.pop("422", None)
    for status, description in errors.items():
        responses.setdefault(
            status,
            {
                "description": description,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}
                },
            },
        )
