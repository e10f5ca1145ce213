"""Exceptions to responses: what FastAPI, Starlette and the queue raise, as the error body.

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
from pydantic_core import PydanticSerializationError
from starlette.exceptions import HTTPException

from minutehand.error_body import INVALID_JSON, METHOD_NOT_ALLOWED, ROUTE_NOT_FOUND
from minutehand.queue.errors import DatabaseReadOnly, QueueError, QueueUnavailable, TokenRefused
from minutehand.web.errors import (
    RETRY_AFTER_SECONDS,
    ApiError,
    FieldProblem,
    response_of,
    unauthorized,
    unavailable,
    validation_failed,
)

logger = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Answer every planned exception of `app` with the error body."""

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return response_of(error if isinstance(error, ApiError) else _plain(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return response_of(_refusal_of(error))

    @app.exception_handler(PydanticSerializationError)
    async def unstorable(_: Request, error: PydanticSerializationError) -> JSONResponse:
        # half of a surrogate pair passes JSON and Python, and no further
        return response_of(ApiError(400, *INVALID_JSON, detail=str(error)))

    @app.exception_handler(QueueError)
    async def by_queue(request: Request, error: QueueError) -> JSONResponse:
        return response_of(_refused_by_queue(error, request))


def _plain(error: HTTPException) -> ApiError:
    """Starlette's own refusals: no such route, wrong method, a body that cannot be parsed."""
    status, said = error.status_code, str(error.detail)
    phrase = HTTPStatus(status).phrase.lower().replace(" ", "_")
    code, text = {400: INVALID_JSON, 404: ROUTE_NOT_FOUND, 405: METHOD_NOT_ALLOWED}.get(
        status, (phrase, said)
    )
    return ApiError(status, code, text, headers=error.headers)


def _refusal_of(error: RequestValidationError) -> ApiError:
    problems = error.errors()
    if problems[0]["type"] == "json_invalid" and problems[0]["loc"][0] == "body":
        why = problems[0]["ctx"]["error"]
        return ApiError(400, *INVALID_JSON, detail={"field": "body", "problem": why})
    # `BoundedBody` names every body JSON that may be; another reaches validation as bytes
    if any(p["loc"] == ("body",) and isinstance(p.get("input"), bytes) for p in problems):
        return ApiError(
            415,
            "unsupported_media_type",
            "This route takes application/json",
            detail={"field": "content-type"},
        )
    return validation_failed([_problem(each) for each in problems[:100]], more=len(problems) - 1)


def _problem(problem: dict[str, Any]) -> FieldProblem:
    """Pydantic's finding without the value, which may be secret."""
    location, *path = (str(part) for part in problem["loc"])
    return FieldProblem(
        field=".".join(path[:20]) or location,
        problem=str(problem["msg"]).removeprefix("Value error, "),
        location=location,
    )


def _refused_by_queue(error: QueueError, request: Request) -> ApiError:
    if isinstance(error, DatabaseReadOnly):
        logger.error(str(error), extra={"event": "queue.read_only"})
        return ApiError(503, "database_read_only", str(error), headers={"Retry-After": "60"})
    if isinstance(error, QueueUnavailable):
        logger.warning(
            "the database is unavailable",
            extra={"event": "queue.unavailable", "reason": str(error)},
        )
        return unavailable("The database did not answer; repeat the request in a few seconds")
    if isinstance(error, TokenRefused):
        return unauthorized("the database refused the token", presented=True)
    if error.word == "invalid_argument" and error.details and request.method != "GET":
        # the bounds of a body's fields are in SQL
        return validation_failed([FieldProblem(field=error.details, problem=error.message)])
    if error.word:
        detail = _detail(error)
        says_when = error.word in _SAYS_WHEN
        wait = detail.get("retry_after_seconds", 1) if says_when else RETRY_AFTER_SECONDS
        headers = {"Retry-After": str(max(1, int(wait)))} if error.status == 429 else {}
        return ApiError(error.status, error.word, error.message, detail=detail, headers=headers)
    # a refusal that is not one of ours: its text may speak of tables, so it stays in the log
    if error.code.startswith("PGRST2") or not 400 <= error.status < 500:
        logger.error(
            "the database lacks what this version needs",
            extra={"event": "queue.mismatch", "sqlstate": error.code, "reason": error.message},
        )
        return unavailable("The database is not ready for this request")
    logger.warning(
        "the database refused a request",
        extra={"event": "queue.refused", "sqlstate": error.code, "reason": error.message},
    )
    code, text = _PLAIN_REFUSALS.get(error.status, ("invalid_argument", "A value is not valid"))
    return ApiError(error.status, code, text, detail={"sqlstate": error.code})


_PLAIN_REFUSALS = {
    403: ("forbidden", "You may not do this"),
    404: ("not_found", "Not found"),
    409: ("conflict", "Conflict"),
}


#: What a refusal's detail is, by its word.
_DETAILS = {
    "duplicate_job": "job_id",
    "idempotency_conflict": "job_id",
    "invalid_state": "status",
    "quota_exceeded": "limit",
}
#: Refusals whose detail is the path of the field at fault.
_NAMES_A_FIELD = frozenset(
    {"payload_invalid", "invalid_argument", "unknown_job_type", "unknown_queue"}
)


#: Refusals whose detail says when to call again.
_SAYS_WHEN = frozenset({"rate_limited", "job_busy"})


def _detail(error: QueueError) -> Any:
    """The queue's detail under a name."""
    if (name := _DETAILS.get(error.word)) is not None:
        return {name: error.details}
    if error.word in _SAYS_WHEN:
        return json.loads(error.details or "{}")
    if error.word == "workspace_needed":
        return {"workspaces": json.loads(error.details or "[]")}
    if error.word in _NAMES_A_FIELD and error.details:
        return [FieldProblem(field=error.details, problem=error.message).model_dump()]
    return error.details or None
