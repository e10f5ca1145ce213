"""One keep-alive pool of connections to Supabase's Data API, with typed errors and retries.

Which function is called with what is left to client.py and worker_client.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

from pydantic_core import from_json, to_json
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from minutehand.queue.errors import QueueUnavailable, error_from_response
from minutehand.queue.foreign import UNSENT, is_local, trusted
from minutehand.queue.lean_httpx import httpx
from minutehand.tasks import end_tasks

logger = logging.getLogger("minutehand.queue.data_api")

#: Connections of a pool that all open streams of a process share.
STREAM_CONNECTIONS: Final = 8

#: So many calls in a row that got no connection mean that the pool itself is broken.
_POOL_TIMEOUTS: Final = 5


class DataApi:
    """Calls `/rest/v1` of one project; keep one per process and event loop.

    Args:
        url: The project's address, without `/rest/v1`.
        schema: Where the functions and tables are; the Data API must expose it.
        read_seconds: Patience for one answer. Calls that were in flight when Postgres died may
            never be answered, so keep it short and calls repeatable.
        timeout_seconds: Time for one call with all its repetitions.
        connections: Most connections held open, and most requests under way at once. Others wait
            for up to `read_seconds`, and one whose caller leaves meanwhile is never sent.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "public",
        read_seconds: float = 8.0,
        connect_seconds: float = 2.0,
        attempts: int = 3,
        timeout_seconds: float = 12.0,
        connections: int = 20,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._attempts = attempts
        self._timeout_seconds = timeout_seconds
        self._read_seconds = read_seconds
        self._slots = asyncio.Semaphore(connections)
        self._under_way: set[asyncio.Task[Any]] = set()
        self._pool_timeouts = 0

        def connect() -> httpx.AsyncClient:
            return httpx.AsyncClient(
                base_url=f"{url.rstrip('/')}/rest/v1",
                headers=profile_headers(schema),
                timeout=httpx.Timeout(read_seconds, connect=connect_seconds),
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

        self._connect = connect
        self._http = connect()

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
        read_seconds: float | None = None,
    ) -> Any:
        """Call a SQL function and return its one JSON value.

        Args:
            repeatable: Whether calling it twice does no harm. If not, only a request that never
                left is repeated.

        Raises:
            QueueUnavailable: It did not answer, also not when asked again.
            QueueError: It refused.
        """
        body = encode(arguments)
        return await self._send(
            "POST",
            f"/rpc/{function}",
            headers={**headers, "Content-Type": "application/json"},
            content=body,
            repeatable=repeatable,
            attempts=attempts,
            read_seconds=read_seconds,
        )

    async def select(
        self,
        table: str,
        params: Sequence[tuple[str, str]],
        *,
        headers: Mapping[str, str],
    ) -> list[dict[str, Any]]:
        """Read rows of a table or view under the caller's row level security."""
        query = httpx.QueryParams(tuple(params))
        rows = await self._send(
            "GET", f"/{table}", headers=dict(headers), params=query, repeatable=True
        )
        return rows if isinstance(rows, list) else []

    async def _send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        repeatable: bool,
        content: bytes | None = None,
        params: httpx.QueryParams | None = None,
        attempts: int | None = None,
        read_seconds: float | None = None,
    ) -> Any:
        def worth_repeating(error: BaseException) -> bool:
            return isinstance(error, QueueUnavailable) and (repeatable or error.unsent)

        timeout = (
            httpx.USE_CLIENT_DEFAULT
            if read_seconds is None
            else httpx.Timeout(read_seconds, connect=min(2.0, read_seconds))
        )
        retrying = AsyncRetrying(
            retry=retry_if_exception(worth_repeating),
            stop=stop_after_attempt(self._attempts if attempts is None else attempts)
            | stop_after_delay(self._timeout_seconds),
            wait=wait_random_exponential(multiplier=0.05, max=2.0),
            sleep=asyncio.sleep,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                try:
                    await self._take_slot(path, read_seconds)
                    response = await self._answered(
                        self._http.request(
                            method,
                            path,
                            headers=dict(headers),
                            content=content,
                            params=params,
                            timeout=timeout,
                        )
                    )
                except httpx.HTTPError as error:
                    self._count_pool_timeout(error)
                    reason = f"{type(error).__name__} {error}".strip()
                    unavailable = QueueUnavailable(f"the Data API did not answer {path}: {reason}")
                    unavailable.unsent = isinstance(error, UNSENT)
                    raise unavailable from error
                self._pool_timeouts = 0
                return _answer(response)
        raise AssertionError("unreachable: the retries either return or raise")

    async def _take_slot(self, path: str, seconds: float | None) -> None:
        """Take one of as many slots as there are connections; when all are taken, wait for one.

        Requests do not queue in httpx, which would send them although their caller has left.

        Raises:
            QueueUnavailable: All were under way for too long.
        """
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._read_seconds if seconds is None else seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            busy = QueueUnavailable(f"every connection to the Data API was busy: {path}")
            busy.unsent = True
            raise busy from error

    async def _answered(self, request: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
        """Await `request` in a task of its own, which a caller who gives up does not cancel.

        A cancellation inside httpcore's own clean-up leaves a connection in the pool that is
        neither open nor closed; enough of them and no call gets one any more. The slot that was
        taken is held until the request has ended.
        """
        task = asyncio.create_task(request)
        task.add_done_callback(lambda _: self._slots.release())
        self._track(task)
        return await asyncio.shield(task)

    def _track(self, task: asyncio.Task[Any]) -> None:
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # of a call that was left, no one else will ask

    def _count_pool_timeout(self, error: httpx.HTTPError) -> None:
        """Start over with a new pool when the present one has no connection to give."""
        if not isinstance(error, httpx.PoolTimeout):
            return
        self._pool_timeouts += 1
        if self._pool_timeouts < _POOL_TIMEOUTS:
            return
        self._pool_timeouts = 0
        broken, self._http = self._http, self._connect()
        logger.warning("connection pool replaced", extra={"event": "data_api.pool_replaced"})
        self._track(asyncio.create_task(broken.aclose()))


def profile_headers(schema: str) -> dict[str, str]:
    """Name the schema to the Data API, which takes the first it exposes by default."""
    return {"Accept-Profile": schema, "Content-Profile": schema}


def encode(value: object) -> bytes:
    """`value` as JSON: datetimes, UUIDs and models included, NaN and infinities as null.

    Raises:
        ValueError: Something in it has no JSON form, e.g. half of a surrogate pair.
    """
    return to_json(value, inf_nan_mode="null", by_alias=True)


def _answer(response: httpx.Response) -> Any:
    content = response.content
    try:
        body = _read(content) if content else None
    except (ValueError, RecursionError) as error:
        if response.is_success:
            raise QueueUnavailable(
                f"the Data API answered {response.status_code} with a body that is incomplete or "
                "not JSON",
                status=response.status_code,
            ) from error
        body = None
    if response.is_success:
        return body
    schema = response.request.headers.get("Content-Profile", "public")
    raise error_from_response(response.status_code, body, schema=schema)


def _read(content: bytes) -> Any:
    try:
        return from_json(content)
    except ValueError:
        # one deep or huge value must not hide the others beside it: this reader stops later
        return json.loads(content)
