"""Exceptions to responses: one table, used inside the app and by the last net around it.

Raising is left to the callers; the shape of the body to `minutehand.web.errors`.
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from minutehand.error_body import METHOD_NOT_ALLOWED, ROUTE_NOT_FOUND
from minutehand.queue.errors import (
    DatabaseReadOnly,
    DuplicateJob,
    InvalidState,
    QueueError,
    QueueUnavailable,
    TokenRefused,
)
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


def respond(error: Exception, request: Request | None = None) -> JSONResponse | None:
    """The response for a planned error; None for an unplanned one."""
    if isinstance(error, ApiError):
        return _planned(error)
    if isinstance(error, RequestValidationError):
        return _planned(_refusal_of(error))
    if isinstance(error, HTTPException):
        return _plain(error)
    if isinstance(error, DatabaseReadOnly):
        logger.error(str(error), extra={"event": "queue.read_only"})
        return error_response(503, "database_read_only", str(error), headers={"Retry-After": "60"})
    if isinstance(error, QueueUnavailable):
        logger.warning(
            "the database is unavailable",
            extra={"event": "queue.unavailable", "reason": str(error)},
        )
        return _planned(
            unavailable("The database did not answer; repeat the request in a few seconds")
        )
    if isinstance(error, QueueError):
        return _refused_by_queue(error, request)
    return None


def install(app: FastAPI) -> None:
    """Route every planned exception of `app` through `respond`."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        response = respond(error, request)
        if response is None:
            raise error
        return response

    for kind in (HTTPException, RequestValidationError, QueueError):
        app.add_exception_handler(kind, handle)


def _planned(error: ApiError) -> JSONResponse:
    return error_response(
        error.status_code, error.code, error.error, detail=error.info, headers=error.headers
    )


def _plain(error: HTTPException) -> JSONResponse:
    """Starlette's own refusals: no such route, wrong method, a body that cannot be parsed."""
    status = error.status_code
    said = str(error.detail)
    phrase = HTTPStatus(status).phrase.lower().replace(" ", "_")
    code, text = {
        400: ("invalid_request", said),
        404: ROUTE_NOT_FOUND,
        405: METHOD_NOT_ALLOWED,
    }.get(status, (phrase, said))
    return error_response(status, code, text, headers=error.headers)


def _refusal_of(error: RequestValidationError) -> ApiError:
    problems = error.errors()
    # `BoundedBody` names every body JSON that may be; another reaches validation as bytes
    if any(p["loc"] == ("body",) and isinstance(p.get("input"), bytes) for p in problems):
        return ApiError(
            415,
            "unsupported_media_type",
            "This route takes application/json",
            detail={"field": "content-type"},
        )
    return validation_failed([_problem(problem) for problem in problems])


def _problem(problem: dict[str, Any]) -> FieldProblem:
    """Pydantic's finding without the value, which may be secret."""
    location, *path = (str(part) for part in problem["loc"])
    return FieldProblem(
        field=".".join(path) or location,
        problem=str(problem["msg"]).removeprefix("Value error, "),
        location=location,
    )


def _refused_by_queue(error: QueueError, request: Request | None) -> JSONResponse:
    if isinstance(error, TokenRefused):
        return _planned(unauthorized("the database refused the token", presented=True))
    if error.word == "invalid_argument" and error.details and request and request.method != "GET":
        # the bounds of a body's fields are in SQL
        problem = FieldProblem(field=error.details, problem=error.message)
        return _planned(validation_failed([problem]))
    if error.word:
        detail = _detail(error)
        headers = {"Retry-After": str(_retry_after(detail))} if error.status == 429 else {}
        return error_response(
            error.status, error.word, error.message, detail=detail, headers=headers
        )
    # a refusal that is not one of ours: its text may speak of tables, so it stays in the log
    if error.code.startswith("PGRST2") or not 400 <= error.status < 500:
        logger.error(
            "the database lacks what this version needs",
            extra={"event": "queue.mismatch", "sqlstate": error.code, "reason": error.message},
        )
        return _planned(unavailable("The database is not ready for this request"))
    logger.warning(
        "the database refused a request",
        extra={"event": "queue.refused", "sqlstate": error.code, "reason": error.message},
    )
    code, text = _PLAIN_REFUSALS.get(error.status, ("invalid_argument", "A value is not valid"))
    return error_response(error.status, code, text, detail={"sqlstate": error.code})


_PLAIN_REFUSALS = {
    403: ("forbidden", "You may not do this"),
    404: ("not_found", "Not found"),
    409: ("conflict", "Conflict"),
}


#: Refusals whose detail is the path of the field at fault.
_NAMES_A_FIELD = frozenset({"payload_invalid", "invalid_argument", "unknown_job_type"})


def _detail(error: QueueError) -> Any:
    """The queue's detail under a name."""
    if isinstance(error, DuplicateJob) or error.word == "idempotency_conflict":
        return {"job_id": error.details}
    if isinstance(error, InvalidState):
        return {"status": error.present}
    if error.word == "quota_exceeded":
        return {"limit": error.details}
    if error.word == "rate_limited":
        return json.loads(error.details or "{}")
    if error.word == "workspace_needed":
        return {"workspaces": json.loads(error.details or "[]")}
    if error.word in _NAMES_A_FIELD and error.details:
        return [FieldProblem(field=error.details, problem=error.message).model_dump()]
    return error.details or None


def _retry_after(detail: Any) -> int:
    """Seconds until the request may be made again, where the queue has said."""
    seconds = detail.get("retry_after_seconds") if isinstance(detail, dict) else None
    return max(1, int(seconds)) if isinstance(seconds, int | float) else RETRY_AFTER_SECONDS
