"""A caller whose token was verified.

The verified token is forwarded to the Data API as it is, so that row level security decides
what its holder may see. `tokens` makes callers, `auth` hands them to routes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv6Network
from uuid import UUID

from starlette.types import Scope

from minutehand.web.errors import unauthorized


class InvalidToken(Exception):
    """A token was refused; the text is safe to show to its holder."""


@dataclass(frozen=True)
class Caller:
    """A signed-in user, or a project's own service (`role` = service_role, no `user_id`)."""

    user_id: UUID | None
    role: str
    token: str = field(repr=False)
    expires_at: datetime

    @property
    def subject(self) -> UUID:
        """The user's id; only for callers that came through `require_caller`."""
        if self.user_id is None:
            raise unauthorized("this route takes a user's token", presented=True)
        return self.user_id


def holder_of(scope: Scope, caller: Caller | None) -> str:
    """Whom a request counts for: its user; of a guest, who chooses their session, the network."""
    if caller is not None:
        return str(caller.user_id)
    host = scope["client"][0] if scope.get("client") else "unknown"
    try:
        return str(IPv6Network((host, 64), strict=False))  # a subscriber has so many addresses
    except ValueError:
        return str(host)


def token_of(caller: Caller | None) -> str | None:
    """The caller's own token; None for a guest."""
    return caller.token if caller is not None else None
