"""One project as one user sees it: calls under the session of a supabase-py client."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from minutehand.queue.client import UserQueue
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.keys import days_left
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
        self.api = DataApi(str(supabase.supabase_url), schema=schema)
        self.tokens = Tokens(self._of_session if token is None else token)
        #: For reads that are made again anyway: each call is sent once.
        self.reader = UserQueue(self.api, {"apikey": self.key}, signed=self.headers, attempts=1)
        self._supabase = supabase

    async def headers(self) -> Mapping[str, str]:
        """What a call carries: a token that is valid now."""
        token = await self.tokens.get()
        return {} if token is None else {"Authorization": f"Bearer {token}"}

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
        days = days_left(token, datetime.now(UTC))
        life = _UNKNOWN_LIFE_SECONDS if days is None else days * 86_400
        # never at once again: a function that gives stale tokens must not be asked in a loop
        self._renew_at = time.time() + max(1.0, life - min(_EARLY_SECONDS, life / 4))
        return token
