"""One keep-alive pool of connections to Supabase's Data API, with typed errors and retries."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import httpx
from pydantic_core import to_json
from tenacity import AsyncRetrying

from minutehand.queue.errors import (
    JobBusy,
    QueueUnavailable,
    RateLimited,
    TokenRefused,
    error_from_response,
)
from minutehand.queue.outbound_http import UNSENT, is_local, repeating, trusted
from minutehand.queue.responses import Parse, T, decode, decode_any, decode_rows, read
from minutehand.tasks import end_tasks

#: How often a call is sent at most, where no one says otherwise.
ATTEMPTS: Final = 3
#: How long a call is repeated while another transaction changes its job; browsers do the same.
BUSY_SECONDS: Final = 4.0
#: Connections of a pool; and of one that all open streams of a process share.
DEFAULT_CONNECTIONS: Final = 20
STREAM_CONNECTIONS: Final = 8
#: An answer of so many bytes is read in a thread: the loop has other callers.
LARGE_BYTES: Final = 64 * 1024
Read = TypeVar("Read")


class DataApi:
    """Calls `/rest/v1` of one project; keep one per process and event loop."""

    def __init__(
        self,
        url: str,
        *,
        schema: str = "public",
        read_seconds: float = 8.0,
        attempts: int = ATTEMPTS,
        timeout_seconds: float = 12.0,
        connections: int = DEFAULT_CONNECTIONS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._schema = schema
        self._attempts = attempts
        self._timeout_seconds = timeout_seconds
        self._read_seconds = read_seconds
        self._slots = asyncio.Semaphore(connections)
        self._under_way: set[asyncio.Task[Any]] = set()
        self._http = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/rest/v1",
            headers=profile_headers(schema),
            timeout=httpx.Timeout(read_seconds, connect=2.0),
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=30.0,
            ),
            # a proxy of the environment is meant for the world outside
            trust_env=not is_local(url),
            transport=transport,
            verify=trusted(),
        )

    async def aclose(self) -> None:
        """Close every connection, and end what callers have left behind."""
        await end_tasks(self._under_way)
        await self._http.aclose()

    async def rpc(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        repeatable: bool,
        attempts: int | None = None,
        parse: Parse[Any] = decode_any,
    ) -> Any:
        """Call a SQL function and return its one JSON value, as `parse` reads it."""
        request = self._request(
            "POST",
            f"/rpc/{function}",
            headers={**headers, "Content-Type": "application/json"},
            content=encode(arguments),
        )
        return await self._send(request, parse, repeatable, attempts or self._attempts)

    async def select(
        self,
        table: str,
        params: Sequence[tuple[str, str]],
        *,
        headers: Mapping[str, str],
        parse: Parse[list[Any]] = decode_rows,
    ) -> list[Any]:
        """Read rows of a table or view under the caller's row level security."""
        query = httpx.QueryParams(tuple(params))
        request = self._request("GET", f"/{table}", headers=headers, params=query)
        return await self._send(request, parse, True, self._attempts)

    def _request(
        self, method: str, path: str, *, headers: Mapping[str, str], **more: Any
    ) -> httpx.Request:
        try:
            return self._http.build_request(method, path, headers=headers, **more)
        except UnicodeEncodeError as error:
            # a caller's token or a setting: no one issues one that a header cannot carry
            said = "a token or key has characters that no header can carry"
            raise TokenRefused(said, status=401) from error

    async def _send(
        self, request: httpx.Request, parse: Parse[T], repeatable: bool, attempts: int
    ) -> T:
        again = repeated(repeatable, attempts, within=self._timeout_seconds)
        answer: T
        try:
            answer = await again(self._send_once, request, parse)
        except JobBusy:
            # a holder gives its job back after milliseconds, on a loaded server after a second
            free = repeating(lambda error: isinstance(error, JobBusy), within=BUSY_SECONDS)
            answer = await free(again, self._send_once, request, parse)
        return answer

    async def _send_once(self, request: httpx.Request, parse: Parse[T]) -> T:
        await self._take_slot(request.url.path)
        try:
            response = await self._answered(self._http.send(request))
        except httpx.HTTPError as error:
            said = f"the Data API did not answer {request.url.path}: {type(error).__name__} {error}"
            unavailable = QueueUnavailable(said.strip())
            unavailable.unsent = isinstance(error, UNSENT)
            raise unavailable from error
        if response.is_success:
            content, status = response.content, response.status_code
            if len(content) < LARGE_BYTES:
                return read(content, parse, status=status)
            return await asyncio.to_thread(read, content, parse, status=status)
        raise error_from_response(response.status_code, _problem(response))

    async def _take_slot(self, path: str) -> None:
        try:
            async with asyncio.timeout(self._read_seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            busy = QueueUnavailable(f"every connection to the Data API was busy: {path}")
            busy.unsent = True
            raise busy from error

    async def _answered(self, request: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
        """Await `request` in a task of its own, which a caller who gives up does not cancel."""
        task = asyncio.create_task(request)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._slots.release()
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # of a call that was left, no one else will ask


def _problem(response: httpx.Response) -> object:
    """What a refusal says; whatever else is there says nothing."""
    try:
        return decode(response.content)
    except (ValueError, RecursionError):
        return None


def repeated(repeatable: bool, attempts: int, *, within: float) -> AsyncRetrying:
    """Repeat a call that did not get through: any that may be, and each that was not sent."""
    return repeating(
        lambda error: isinstance(error, QueueUnavailable) and (repeatable or error.unsent),
        attempts=attempts,
        within=within,
    )


async def patiently(read: Callable[[], Awaitable[Read]], *, within: float = math.inf) -> Read:
    """Repeat a watcher's read while too many run: what is new is there later, too."""
    again = repeating(lambda error: isinstance(error, RateLimited), within=within)
    found: Read = await again(read)
    return found


def profile_headers(schema: str) -> dict[str, str]:
    """Name the schema to the Data API, which takes the first it exposes by default."""
    return {"Accept-Profile": schema, "Content-Profile": schema}


def encode(value: object) -> bytes:
    """`value` as JSON: datetimes, UUIDs and models included, NaN and infinities as null."""
    return to_json(value, inf_nan_mode="null", by_alias=True)
