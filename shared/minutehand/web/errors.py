"""The error body every route answers with, and the one exception routes raise on purpose.

Mapping exceptions of other packages to it is left to `minutehand.web.handlers`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from minutehand.config import ConfigurationError
from minutehand.error_body import error_body
from minutehand.log import current_request_id

logger = logging.getLogger(__name__)

#: How long a client should wait when the database is unavailable, in seconds.
RETRY_AFTER_SECONDS = 5


class FieldProblem(BaseModel):
    """One problem of the request, by the field's own name."""

    model_config = ConfigDict(frozen=True)

    field: str = Field(description="Dotted path, e.g. `payload.account_id`, or a header's name.")
    problem: str
    location: str = Field(default="body", description="body, query, path or header.")


class ErrorBody(BaseModel):
    """What every answer of 400 and above carries; `code` is stable, `error` is for people."""

    model_config = ConfigDict(frozen=True)

    error: str
    code: str
    detail: Any = None
    request_id: str | None = None


class ApiError(HTTPException):
    """A planned refusal: it becomes an `ErrorBody` with this status.

    A subclass of Starlette's exception, so that FastAPI lets it pass while it reads a body.
    """

    def __init__(
        self,
        status: int,
        code: str,
        error: str,
        *,
        detail: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code=status, detail=error, headers=dict(headers or {}))
        self.code = code
        self.error = error
        self.info = detail


def response_of(error: ApiError) -> JSONResponse:
    """The error body as a response; the request id is the present context's."""
    body = error_body(error.code, error.error, detail=error.info, request_id=current_request_id())
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


def invalid_argument(field: str, problem: str, *, location: str = "body") -> ApiError:
    """400: a single value is unusable; the message and the detail name its field."""
    return ApiError(
        400,
        "invalid_argument",
        f"{field} {problem}",
        detail=[FieldProblem(field=field, problem=problem, location=location).model_dump()],
    )


def validation_failed(problems: Sequence[FieldProblem], *, more: int = 0) -> ApiError:
    """422: well-formed JSON, but not what this route takes; `more` than the first were found."""
    first = problems[0]
    return ApiError(
        422,
        "validation_failed",
        f"{first.field}: {first.problem}" + (f" (and {more} more)" if more else ""),
        detail=[problem.model_dump() for problem in problems],
    )


def unauthorized(reason: str, *, presented: bool) -> ApiError:
    """401; `presented` says whether a token came with the request at all (RFC 6750 §3.1)."""
    challenge = 'Bearer realm="minutehand"'
    if presented:
        challenge += f', error="invalid_token", error_description="{reason}"'
    return ApiError(
        401, "unauthorized", "Unauthorized", detail=reason, headers={"WWW-Authenticate": challenge}
    )


def token_missing() -> ApiError:
    """401 for a request without a user's token."""
    return unauthorized("send a user's access token as a bearer token", presented=False)


def not_found(what: str = "job") -> ApiError:
    """404 for what is missing or not the caller's, without a difference."""
    return ApiError(404, f"{what}_not_found", f"{what.capitalize()} not found")


def unavailable(reason: str) -> ApiError:
    """503: something this service depends on is unavailable; the request may be repeated."""
    return ApiError(503, "unavailable", reason, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


@contextmanager
def standing_on(what: str) -> Iterator[None]:
    """Turn a missing setting, or an AWS service that is unavailable, into 503.

    Args:
        what: What is missing, e.g. `the key service`.
    """
    try:
        yield
    except ConfigurationError as error:
        logger.error(
            "A setting is missing", extra={"event": "config.missing", "variable": error.variable}
        )
        raise ApiError(503, "not_configured", f"This deployment lacks {what}") from error
    except Exception as error:
        # known by its name: importing botocore to ask would cost every caller that needs none
        if not type(error).__module__.startswith("botocore."):
            raise
        logger.warning(
            "AWS did not answer", extra={"event": "aws.unavailable", "reason": str(error)[:300]}
        )
        raise unavailable(f"{what.capitalize()} did not answer") from error
