"""Exception handlers that turn errors of FastAPI, Starlette and the queue into the error body.

`minutehand.web.errors` defines the error body.
"""

import json
import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import PydanticSerializationError
from starlette.exceptions import HTTPException

from minutehand.error_body import INVALID_JSON, METHOD_NOT_ALLOWED, ROUTE_NOT_FOUND
from minutehand.queue.errors import DatabaseReadOnly, QueueError, QueueUnavailable, TokenRefused
from minutehand.web.errors import (
    RETRY_AFTER_SECONDS,
    ApiError,
    FieldProblem,
    error_response,
    unauthorized,
    unavailable,
    validation_failed,
)

logger = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Register handlers that convert the expected exceptions of `app` into the error body."""

    @app.exception_handler(HTTPException)
    async def rejected(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error if isinstance(error, ApiError) else _starlette_error(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(_invalid_request(error))

    @app.exception_handler(PydanticSerializationError)
    async def unstorable(_: Request, error: PydanticSerializationError) -> JSONResponse:
        # JSON and Python accept half of a surrogate pair, which Postgres cannot store
        return error_response(ApiError(400, *INVALID_JSON, detail=str(error)))

    @app.exception_handler(QueueError)
    async def queue_failed(request: Request, error: QueueError) -> JSONResponse:
        return error_response(_queue_error(error, request))


def _starlette_error(error: HTTPException) -> ApiError:
    """Convert Starlette's error about an unknown route, a wrong method, or an unreadable body."""
    status, message = error.status_code, str(error.detail)
    phrase = HTTPStatus(status).phrase.lower().replace(" ", "_")
    code, text = {400: INVALID_JSON, 404: ROUTE_NOT_FOUND, 405: METHOD_NOT_ALLOWED}.get(
        status, (phrase, message)
    )
    return ApiError(status, code, text, headers=error.headers)


def _invalid_request(error: RequestValidationError) -> ApiError:
    errors = error.errors()
    if errors[0]["type"] == "json_invalid" and errors[0]["loc"][0] == "body":
        message = errors[0]["ctx"]["error"]
        return ApiError(400, *INVALID_JSON, detail={"field": "body", "problem": message})
    # `BoundedBody` declares every body that may be JSON as JSON, so only other bodies arrive as
    # bytes
    if any(p["loc"] == ("body",) and isinstance(p.get("input"), bytes) for p in errors):
        return ApiError(
            415,
            "unsupported_media_type",
            "This route takes application/json",
            detail={"field": "content-type"},
        )
    return validation_failed([_field_problem(item) for item in errors[:100]], more=len(errors) - 1)


def _field_problem(error: dict[str, Any]) -> FieldProblem:
    """Convert a problem that pydantic found. Omit the field's value, because it may be secret."""
    location, *path = (str(part) for part in error["loc"])
    return FieldProblem(
        field=".".join(path[:20]) or location,
        problem=str(error["msg"]).removeprefix("Value error, "),
        location=location,
    )


def _queue_error(error: QueueError, request: Request) -> ApiError:
    if isinstance(error, DatabaseReadOnly):
        logger.error(str(error), extra={"event": "queue.read_only"})
        return ApiError(503, "database_read_only", str(error), headers={"Retry-After": "60"})
    if error.code == "55P03":  # another transaction kept a row or an advisory lock for too long
        return ApiError(
            429,
            "job_busy",
            "Another call is changing the same rows. Try again.",
            detail={"retry_after_seconds": 1},
            headers={"Retry-After": "1"},
        )
    if isinstance(error, QueueUnavailable):
        logger.warning(
            "the database is unavailable",
            extra={"event": "queue.unavailable", "reason": str(error)},
        )
        return unavailable("The database did not respond; repeat the request in a few seconds")
    if isinstance(error, TokenRefused):
        return unauthorized("the database rejected the token", presented=True)
    if error.word == "invalid_argument" and error.details and request.method != "GET":
        # SQL checks the bounds of the values in a body, so an error names a field of the body
        return validation_failed([FieldProblem(field=error.details, problem=error.message)])
    if error.word:
        detail = _detail(error)
        has_wait = error.word in _WITH_RETRY_AFTER
        wait = detail.get("retry_after_seconds", 1) if has_wait else RETRY_AFTER_SECONDS
        headers = {"Retry-After": str(max(1, int(wait)))} if error.status == 429 else {}
        return ApiError(error.status, error.word, error.message, detail=detail, headers=headers)
    # an error without one of the engine's hint words may name tables, so its text is only logged
    if error.lacks_object or error.code.startswith("PGRST2") or not 400 <= error.status < 500:
        logger.error(
            "the database failed, or lacks functions that this version needs",
            extra={"event": "queue.mismatch", "sqlstate": error.code, "reason": error.message},
        )
        if error.lacks_object:
            return unavailable("A function or table was not found: run `minutehand doctor`")
        return unavailable("The database could not answer this request")
    logger.warning(
        "the database rejected a request",
        extra={"event": "queue.refused", "sqlstate": error.code, "reason": error.message},
    )
    code, text = _GENERIC_ERRORS.get(error.status, ("invalid_argument", "A value is not valid"))
    if error.code == "P0001":  # the project's own `raise exception`, whose text is for the caller
        text = error.message
    elif denied := re.fullmatch(r"permission denied for function (\w+)", error.message):
        text = f"A grant of the function {denied[1]} is missing: run `minutehand doctor`"
    return ApiError(error.status, code, text, detail={"sqlstate": error.code})


_GENERIC_ERRORS = {
    403: ("forbidden", "You may not do this"),
    404: ("not_found", "Not found"),
    409: ("conflict", "Conflict"),
}


#: Name of the response's field that contains an error's details, by the error's hint word.
_DETAILS = {
    "duplicate_job": "job_id",
    "idempotency_conflict": "job_id",
    "invalid_state": "status",
    "quota_exceeded": "limit",
}
#: Hint words of errors whose details are the path of an invalid field.
_WITH_FIELD_PATH = frozenset(
    {"payload_invalid", "invalid_argument", "unknown_job_type", "unknown_queue"}
)


#: Hint words of errors whose details contain the seconds until a retry.
_WITH_RETRY_AFTER = frozenset({"rate_limited", "job_busy"})


def _detail(error: QueueError) -> Any:
    """Return the details of the queue's error, as an object with a named field if possible."""
    if (name := _DETAILS.get(error.word)) is not None:
        return {name: error.details}
    if error.word in _WITH_RETRY_AFTER:
        return json.loads(error.details or "{}")
    if error.word == "workspace_needed":
        return {"workspaces": json.loads(error.details or "[]")}
    if error.word in _WITH_FIELD_PATH and error.details:
        return [FieldProblem(field=error.details, problem=error.message).model_dump()]
    return error.details or None
