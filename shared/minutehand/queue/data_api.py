"""Client of Supabase's Data API, with keep-alive connections, typed errors and retries."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import httpx
from pydantic_core import to_json
from tenacity import AsyncRetrying

from minutehand.queue.errors import (
    FunctionTimeout,
    JobBusy,
    QueueUnavailable,
    RateLimited,
    TokenRefused,
    error_from_response,
)
from minutehand.queue.outbound_http import UNSENT_ERRORS, is_local, retrying, trusted
from minutehand.queue.responses import Parse, T, decode, decode_any, decode_rows, read
from minutehand.retry_after import parse_date
from minutehand.tasks import end_tasks

#: Default maximum number of attempts of a call.
ATTEMPTS = 3
#: Maximum seconds of retries while another call changes the same job or uses the caller's call
#: slots. The npm package retries for the same time.
BUSY_SECONDS = 4.0
#: Maximum connections of a client for requests, and of a process for all of its event streams.
DEFAULT_CONNECTIONS = 20
STREAM_CONNECTIONS = 8
#: A response of at least this size is parsed in a thread, so that the event loop stays free.
LARGE_BYTES = 64 * 1024
Read = TypeVar("Read")


class DataApi:
    """Client of one project's `/rest/v1`. A process needs one client per event loop."""

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
        self._pending: set[asyncio.Task[Any]] = set()
        self._http = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/rest/v1",
            headers=profile_headers(schema),
            timeout=httpx.Timeout(read_seconds, connect=2.0),
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=30.0,
            ),
            # ignore a proxy in the environment variables, which is only for other hosts
            trust_env=not is_local(url),
            transport=transport,
            verify=trusted(),
        )

    async def aclose(self) -> None:
        """Cancel requests whose callers were cancelled, and close every connection."""
        await end_tasks(self._pending)
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
        """Call a SQL function, and return its JSON value as the result of `parse`."""
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
        """Read the rows of a table or view that row level security shows to the caller."""
        query = httpx.QueryParams(tuple(params))
        request = self._request("GET", f"/{table}", headers=headers, params=query)
        return await self._send(request, parse, True, self._attempts)

    def _request(
        self, method: str, path: str, *, headers: Mapping[str, str], **options: Any
    ) -> httpx.Request:
        try:
            return self._http.build_request(method, path, headers=headers, **options)
        except UnicodeEncodeError as error:
            # a valid token or key never contains a character that a header cannot contain
            text = "a token or key must have only characters that a header can contain"
            raise TokenRefused(text, status=401) from error

    async def _send(
        self, request: httpx.Request, parse: Parse[T], repeatable: bool, attempts: int
    ) -> T:
        retries = call_retrying(repeatable, attempts, max_seconds=self._timeout_seconds)
        result: T
        try:
            result = await retries(self._send_once, request, parse)
        except (JobBusy, RateLimited) as error:
            if not _is_busy(error):
                raise
            # the call that holds the lock ends after milliseconds, or after about a second on a
            # loaded server
            free = retrying(_is_busy, max_seconds=BUSY_SECONDS)
            result = await free(retries, self._send_once, request, parse)
        return result

    async def _send_once(self, request: httpx.Request, parse: Parse[T]) -> T:
        await self._acquire_slot(request.url.path)
        try:
            response = await self._finish_in_background(self._http.send(request))
        except httpx.HTTPError as error:
            name, path = type(error).__name__, request.url.path
            _, is_call, function = path.partition("/rpc/")
            if is_call and isinstance(error, httpx.ReadTimeout):
                raise FunctionTimeout.of(function, self._read_seconds) from error
            text = f"the Data API did not respond to {path}: {name} {error}"
            unavailable = QueueUnavailable(text.strip())
            unavailable.unsent = isinstance(error, UNSENT_ERRORS)
            raise unavailable from error
        if response.is_success:
            content, status = response.content, response.status_code
            if len(content) < LARGE_BYTES:
                return read(content, parse, status=status)
            return await asyncio.to_thread(read, content, parse, status=status)
        refusal = error_from_response(response.status_code, _error_body(response))
        if isinstance(refusal, TokenRefused):
            refusal.server_time = parse_date(response.headers.get("date", ""))
        raise refusal

    async def _acquire_slot(self, path: str) -> None:
        try:
            async with asyncio.timeout(self._read_seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            busy = QueueUnavailable(f"every connection to the Data API was busy: {path}")
            busy.unsent = True
            raise busy from error

    async def _finish_in_background(
        self, request: Coroutine[Any, Any, httpx.Response]
    ) -> httpx.Response:
        """Await `request` in a separate task, which continues if the caller is cancelled."""
        task = asyncio.create_task(request)
        self._pending.add(task)
        task.add_done_callback(self._on_done)
        return await asyncio.shield(task)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._slots.release()
        self._pending.discard(task)
        if not task.cancelled():
            # mark the exception as retrieved, because the request's caller may be cancelled
            task.exception()


def _error_body(response: httpx.Response) -> object:
    """Return the JSON body of an error response. Return None if the body is not JSON."""
    try:
        return decode(response.content)
    except (ValueError, RecursionError):
        return None


def call_retrying(repeatable: bool, attempts: int, *, max_seconds: float) -> AsyncRetrying:
    """Return a policy that retries a failed call if the call is repeatable or was not sent."""
    return retrying(
        lambda error: isinstance(error, QueueUnavailable) and (repeatable or error.unsent),
        attempts=attempts,
        max_seconds=max_seconds,
    )


def _is_busy(error: BaseException) -> bool:
    is_at_once = isinstance(error, RateLimited) and error.limit == "calls_at_once"
    return is_at_once or isinstance(error, JobBusy)


async def retry_rate_limited(read: Callable[[], Awaitable[Read]], *, max_seconds: float) -> Read:
    """Read a stream's events, and retry while the read is rate limited.

    The caller loses no events by a retry.
    """
    retries = retrying(lambda error: isinstance(error, RateLimited), max_seconds=max_seconds)
    result: Read = await retries(read)
    return result


def profile_headers(schema: str) -> dict[str, str]:
    """Return the headers that select a schema. By default, PostgREST uses its first schema."""
    return {"Accept-Profile": schema, "Content-Profile": schema}


def encode(value: object) -> bytes:
    """Serialize `value` as JSON, including datetimes and models. NaN and infinity become null."""
    return to_json(value, inf_nan_mode="null", by_alias=True)
