"""One project as one user sees it: calls under the session of a supabase-py client."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final

import jwt

from minutehand.queue.client import UserQueue
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueUnavailable
from supabase import AsyncClient

#: A user's token, or a function that gives one which is valid now.
TokenSource = str | Callable[[], str | Awaitable[str]] | None

#: A token is replaced this long before it expires, or in the last quarter of a shorter life.
_EARLY_SECONDS: Final = 60.0
#: How long a token is kept that does not say when it expires.
_UNKNOWN_LIFE_SECONDS: Final = 300.0


class Access:
    """The way of one user, or of a service, to one project's jobs."""

    def __init__(self, supabase: AsyncClient, *, schema: str, token: TokenSource = None) -> None:
        self.key = supabase.supabase_key
        self.realtime_url = str(supabase.realtime_url)
        self.tokens = Tokens(self._of_session if token is None else token)
        self._supabase = supabase
        self._api = DataApi(str(supabase.supabase_url), schema=schema)

    async def user(self, *, read_once: bool = False) -> UserQueue:
        """The queue as the bearer of a fresh token sees it."""
        headers = {"apikey": self.key}
        if (token := await self.tokens.get()) is not None:
            headers["Authorization"] = f"Bearer {token}"
        return UserQueue(self._api, headers, attempts=1 if read_once else None)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()

    async def _of_session(self) -> str:
        session = await self._supabase.auth.get_session()
        return self.key if session is None else session.access_token


class Tokens:
    """The token of one watch, asked for again before it expires."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._token = source if isinstance(source, str) else None
        self._renew_at = 0.0

    @property
    def can_renew(self) -> bool:
        """Whether there is someone to ask for another."""
        return callable(self._source)

    @property
    def seconds_left(self) -> float:
        """Until the token should be replaced."""
        return max(0.0, self._renew_at - time.time())

    def expire(self) -> None:
        """The token was refused, even if it has not expired: ask for another next time."""
        self._renew_at = 0.0

    async def get(self) -> str | None:
        """A token that is valid as far as it says itself."""
        if not callable(self._source) or self.seconds_left > 0:
            return self._token
        try:
            given = self._source()
            token = await given if inspect.isawaitable(given) else given
        except Exception as error:  # a foreign function: any error means no token
            raise QueueUnavailable(f"no fresh token: {type(error).__name__} {error}") from error
        self._token = token
        life = _seconds_to_live(token)
        # never at once again: a function that gives stale tokens must not be asked in a loop
        self._renew_at = time.time() + max(1.0, life - min(_EARLY_SECONDS, life / 4))
        return token


def _seconds_to_live(token: str) -> float:
    """What the token itself says; no one is let in for it."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        return float(claims["exp"]) - time.time()
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
        return _UNKNOWN_LIFE_SECONDS
