"""Building blocks for FastAPI: app factory, callers, error bodies, idempotency, event streams.

Each name is imported at its first use, so that a Lambda handler imports only the modules it needs.
"""

from typing import TYPE_CHECKING

from minutehand.exports import lazy_exports

if TYPE_CHECKING:
    from minutehand.web import sse as sse
    from minutehand.web.auth import (
        SignedIn as SignedIn,
        UserFunctions as UserFunctions,
        UserOrGuest as UserOrGuest,
        UserOrGuestFunctions as UserOrGuestFunctions,
        UserOrGuestUnslotted as UserOrGuestUnslotted,
    )
    from minutehand.web.caller import Caller as Caller, token_of as token_of
    from minutehand.web.documents import Share as Share, Shared as Shared, document as document
    from minutehand.web.errors import (
        ApiError as ApiError,
        FieldProblem as FieldProblem,
        invalid_argument as invalid_argument,
        not_found as not_found,
        unavailable as unavailable,
        unavailable_if_missing as unavailable_if_missing,
        validation_failed as validation_failed,
    )
    from minutehand.web.idempotency import (
        IdempotencyHeader as IdempotencyHeader,
        parse_key as parse_key,
    )
    from minutehand.web.request_bodies import Body as Body
    from minutehand.web.services import Provided as Provided, Services as Services
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "auth": "SignedIn UserFunctions UserOrGuest UserOrGuestFunctions UserOrGuestUnslotted",
            "request_bodies": "Body",
            "caller": "Caller token_of",
            "documents": "Share Shared document",
            "errors": "ApiError FieldProblem invalid_argument not_found unavailable"
            " unavailable_if_missing validation_failed",
            "idempotency": "IdempotencyHeader parse_key",
            "services": "Provided Services",
        },
    )
