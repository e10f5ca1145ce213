"""The error body of every route, and the exception with which a route rejects a request.

`minutehand.web.handlers` converts the exceptions of other packages into the error body.
"""

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

#: Seconds that a client should wait before it repeats a request while the database is unavailable.
RETRY_AFTER_SECONDS = 5


class FieldProblem(BaseModel):
    """One problem in a request, with the name of the field that has the problem."""

    model_config = ConfigDict(frozen=True)

    field: str = Field(description="Dotted path, e.g. `payload.account_id`, or a header's name.")
    problem: str
    location: str = Field(default="body", description="body, query, path or header.")


class ErrorBody(BaseModel):
    """Body of every response with status 400 or above.

    `code` never changes. `error` is for people.
    """

    model_config = ConfigDict(frozen=True)

    error: str
    code: str
    detail: Any = None
    request_id: str | None = None


class ApiError(HTTPException):
    """An expected rejection of a request, sent as an `ErrorBody` with this status.

    The class derives from Starlette's exception, because FastAPI replaces other errors that are
    raised while it reads a request body.
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


def error_response(error: ApiError) -> JSONResponse:
    """Build the response for an error, with the id of the current request."""
    body = error_body(error.code, error.error, detail=error.info, request_id=current_request_id())
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


def invalid_argument(field: str, message: str, *, location: str = "body") -> ApiError:
    """Return a 400 for one invalid value. The message and the detail name the value's field."""
    return ApiError(
        400,
        "invalid_argument",
        f"{field} {message}",
        detail=[FieldProblem(field=field, problem=message, location=location).model_dump()],
    )


def validation_failed(errors: Sequence[FieldProblem], *, more: int = 0) -> ApiError:
    """Return a 422 for JSON that this route does not accept.

    Args:
        errors: Problems that the response's detail lists. The first problem is also the message.
        more: Number of all problems other than the first.
    """
    first = errors[0]
    return ApiError(
        422,
        "validation_failed",
        f"{first.field}: {first.problem}" + (f" (and {more} more)" if more else ""),
        detail=[error.model_dump() for error in errors],
    )


def unauthorized(reason: str, *, presented: bool) -> ApiError:
    """Return a 401. `presented` is true if the request contained any token (RFC 6750 §3.1)."""
    challenge = 'Bearer realm="minutehand"'
    if presented:
        challenge += f', error="invalid_token", error_description="{reason}"'
    return ApiError(
        401, "unauthorized", "Unauthorized", detail=reason, headers={"WWW-Authenticate": challenge}
    )


def token_missing() -> ApiError:
    """Return the 401 for a request without a user's token."""
    return unauthorized("send a user's access token as a bearer token", presented=False)


def not_found(resource: str = "job") -> ApiError:
    """Return a 404.

    The error is the same whether the row does not exist or the caller may not see it.
    """
    return ApiError(404, f"{resource}_not_found", f"{resource.capitalize()} not found")


def unavailable(reason: str) -> ApiError:
    """Return a 503 for an unavailable dependency. The caller may repeat the request."""
    return ApiError(503, "unavailable", reason, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


@contextmanager
def unavailable_if_missing(resource: str) -> Iterator[None]:
    """Convert a missing setting, or an error of an AWS service, into a 503.

    Args:
        resource: Name of the service in the message, such as `the key service`.
    """
    try:
        yield
    except ConfigurationError as error:
        logger.error(
            "A setting is missing", extra={"event": "config.missing", "variable": error.variable}
        )
        raise ApiError(503, "not_configured", f"This deployment lacks {resource}") from error
    except Exception as error:
        # compare the class by its module's name, because an import of botocore would slow down
        # callers that do not use AWS
        if not type(error).__module__.startswith("botocore."):
            raise
        logger.warning(
            "AWS did not respond", extra={"event": "aws.unavailable", "reason": str(error)[:300]}
        )
        raise unavailable(f"{resource.capitalize()} did not respond") from error
