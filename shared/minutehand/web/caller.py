"""A caller whose token was verified.

The verified token is passed unchanged to the Data API, so that row level security decides which
rows the caller sees. `tokens` builds callers, and `auth` passes callers to routes.
"""

from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv6Network
from uuid import UUID

from starlette.types import Scope

from minutehand.web.errors import unauthorized


class InvalidToken(Exception):
    """The token of a request was rejected. The error's text is safe to show to the caller."""


@dataclass(frozen=True)
class Caller:
    """A signed-in user, or the project's service with `role` service_role and without `user_id`."""

    user_id: UUID | None
    role: str
    token: str = field(repr=False)
    expires_at: datetime

    @property
    def subject(self) -> UUID:
        """The user's id. For the project's service, which has no user id, raise a 401."""
        if self.user_id is None:
            raise unauthorized("this route requires a user's token", presented=True)
        return self.user_id


def rate_limit_subject(scope: Scope, caller: Caller | None) -> str:
    """Return the id of a user or the network of a guest, to which a request's rate limits apply.

    The id of a guest's session is not used, because guests choose their session themselves.
    """
    if caller is not None:
        return str(caller.user_id)
    host = scope["client"][0] if scope.get("client") else "unknown"
    try:
        # use the /64 network of an IPv6 address, because one subscriber gets a whole /64 network
        return str(IPv6Network((host, 64), strict=False))
    except ValueError:
        return str(host)


def token_of(caller: Caller | None) -> str | None:
    """Return the caller's token, or None for a guest."""
    return caller.token if caller is not None else None
