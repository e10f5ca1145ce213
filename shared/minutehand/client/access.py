"""One project as one user sees it: calls over their supabase-py client, and tokens that are valid.

What is called is left to client.py and watch.py; the wire of live events to topic.py.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import httpx
from postgrest.exceptions import APIError
from pydantic_core import from_json
from tenacity import (
    AsyncRetrying,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from minutehand.queue.client import UserQueue
from minutehand.queue.data_api import encode
from minutehand.queue.errors import QueueError, QueueUnavailable, error_from_response
from minutehand.queue.foreign import UNSENT
from supabase import AsyncClient
from supabase import Client as SupabaseClient

#: A user's token, or a function that gives one which is valid now.
TokenSource = str | Callable[[], str | Awaitable[str]] | None

_ATTEMPTS: Final = 3
_CALL_SECONDS: Final = 10.0
#: A token is replaced this long before it expires, or in the last quarter of a shorter life.
_EARLY_SECONDS: Final = 60.0
#: How long a token is kept that does not say when it expires.
_UNKNOWN_LIFE_SECONDS: Final = 300.0


class Access:
    """The way of one user, or of a service, to one project's jobs.

    Args:
        supabase: A client of the official library; its session decides who calls.
        schema: Where the install put what clients see.
        token: Whose token is sent instead of the session's.
    """

    def __init__(self, supabase: AsyncClient, *, schema: str, token: TokenSource = None) -> None:
        self.key = supabase.supabase_key
        self.realtime_url = str(supabase.realtime_url)
        self.tokens = Tokens(self._of_session if token is None else token)
        self._supabase = supabase
        self._schema = schema
        self._is_session = token is None

    async def user(self, *, read_once: bool = False) -> UserQueue:
        """The queue as the bearer of a fresh token sees it.

        Args:
            read_once: Leave repeating to the caller.

        Raises:
            QueueUnavailable: The function that gives tokens failed.
        """
        headers = {} if self._is_session else bearer(await self.tokens.get())
        return UserQueue(
            Calls(self._supabase, self._schema, 1 if read_once else _ATTEMPTS), headers
        )

    async def _of_session(self) -> str:
        session = await self._supabase.auth.get_session()
        return self.key if session is None else session.access_token


class Calls:
    """Calls and reads over supabase-py, with the queue's own errors."""

    def __init__(
        self, supabase: AsyncClient | SupabaseClient, schema: str, attempts: int = _ATTEMPTS
    ) -> None:
        self._supabase = supabase
        self._schema = schema
        self._attempts = attempts

    async def rpc(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        repeatable: bool,
    ) -> Any:
        """Call a SQL function and return its one JSON value."""
        body = from_json(encode(arguments))
        return await self._repeat(
            lambda: self._supabase.schema(self._schema).rpc(function, body), headers, repeatable
        )

    async def select(
        self, table: str, params: Sequence[tuple[str, str]], *, headers: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Read rows of a table or view under the caller's row level security."""
        rows: list[dict[str, Any]] = await self._repeat(
            lambda: select(self._supabase.schema(self._schema).from_(table), params), headers, True
        )
        return rows

    async def _repeat(
        self, query: Callable[[], Any], headers: Mapping[str, str], repeatable: bool
    ) -> Any:
        async for attempt in AsyncRetrying(**retry_options(self._attempts, repeatable)):
            with attempt, translated():
                async with asyncio.timeout(_CALL_SECONDS):
                    return (await prepared(query(), headers).execute()).data
        raise AssertionError("unreachable: the retries either return or raise")


class BlockingCalls(Calls):
    """The same over the blocking client; its coroutines never suspend."""

    async def _repeat(
        self, query: Callable[[], Any], headers: Mapping[str, str], repeatable: bool
    ) -> Any:
        for attempt in Retrying(**retry_options(self._attempts, repeatable)):
            with attempt, translated():
                return prepared(query(), headers).execute().data
        raise AssertionError("unreachable: the retries either return or raise")


def prepared(query: Any, headers: Mapping[str, str]) -> Any:
    """A query of the library with our headers; repeating it is left to us."""
    query.retry(False).request.headers.update(headers)
    return query


@contextmanager
def translated() -> Iterator[None]:
    """Raise the queue's errors for those of the library."""
    try:
        yield
    except (APIError, httpx.HTTPError, TimeoutError) as error:
        raise refusal(error) from error


def select(builder: Any, params: Sequence[tuple[str, str]]) -> Any:
    """A query with PostgREST's own parameters, `select` among them."""
    query = builder.select(dict(params)["select"])
    for name, value in params:
        if name != "select":
            query.request.params = query.request.params.add(name, value)
    return query


def bearer(token: str | None) -> dict[str, str]:
    """The header that says who calls."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def retry_options(attempts: int, repeatable: bool) -> dict[str, Any]:
    """How tenacity repeats what may be repeated; else only what never left."""

    def is_worth_repeating(error: BaseException) -> bool:
        return isinstance(error, QueueUnavailable) and (repeatable or error.unsent)

    return {
        "retry": retry_if_exception(is_worth_repeating),
        "stop": stop_after_attempt(attempts),
        "wait": wait_random_exponential(multiplier=0.05, max=2.0),
        "reraise": True,
    }


def refusal(error: APIError | httpx.HTTPError | TimeoutError) -> QueueError:
    """The queue's error for one of the library's."""
    if isinstance(error, APIError):
        return error_from_response(_status(error.code), error.json())
    reason = f"{type(error).__name__} {error}".strip()
    unavailable = QueueUnavailable(f"the Data API did not answer: {reason}")
    unavailable.unsent = isinstance(error, UNSENT)
    return unavailable


def _status(code: object) -> int:
    """The HTTP status behind a code: the library keeps it only where the body was not JSON."""
    text = str(code or "")
    if text.startswith("PT") or text.isdecimal():
        digits = text.removeprefix("PT")
        return int(digits) if len(digits) == 3 else 400
    return 401 if text.startswith("PGRST30") else 400


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
        return await self.renew() if self.can_renew and self.seconds_left == 0 else self._token

    async def renew(self) -> str | None:
        """Ask for another one now.

        Raises:
            QueueUnavailable: The function that gives tokens failed.
        """
        if not callable(self._source):
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
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(claims["exp"]) - time.time()
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return _UNKNOWN_LIFE_SECONDS
