"""Calls the SQL functions for workers over connections to Postgres, if DATABASE_URL is set.

The functions and the role are the same as over HTTPS.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import cache
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb
from psycopg.types.string import TextLoader

from minutehand.queue.credentials import WORKER_ROLE
from minutehand.queue.data_api import ATTEMPTS, call_retrying, encode
from minutehand.queue.errors import FunctionTimeout, QueueUnavailable, error_from_response
from minutehand.queue.responses import Parse, decode_any, read

logger = logging.getLogger(__name__)

#: Maximum number of connections, maximum seconds to connect, and maximum seconds of a call.
CONNECTIONS = 6
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 11
#: TCP settings by which a dropped connection is detected within a minute instead of two hours.
_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": 30_000}
#: Channel that gets a notification when an enqueue commits, at most once every 20 ms.
CHANNEL = "minutehand_wakeup"
#: Seconds from a notification to a second lease, which finds jobs whose commits caused no
#: notification.
RECHECK_SECONDS = 0.1


class DirectApi:
    """Calls the SQL functions, and raises the same errors as `DataApi`.

    Args:
        url: Address whose connections keep their session, and whose user may switch to the worker's
            role.
    """

    def __init__(self, url: str, *, schema: str) -> None:
        self._url = url
        self._schema = schema
        self._free: list[psycopg.AsyncConnection[Any]] = []
        self._slots = asyncio.Semaphore(CONNECTIONS)

    async def aclose(self) -> None:
        """Close every connection that is not in use."""
        while self._free:
            await self._free.pop().close()

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
        """Call a SQL function, and return what `parse` makes of its JSON value."""
        retries = call_retrying(repeatable, attempts or ATTEMPTS, max_seconds=15.0)
        return read(await retries(self._call, function, arguments), parse)

    async def _call(self, function: str, arguments: Mapping[str, Any]) -> bytes:
        query = _query(self._schema, function, tuple(arguments))
        values = [
            Jsonb(value, encode) if isinstance(value, Mapping | list | tuple) else value
            for value in arguments.values()
        ]
        async with self._slots:
            connection = self._free.pop() if self._free else await self._connect()
            try:
                async with asyncio.timeout(limit := STATEMENT_SECONDS + 1):
                    row = await (await connection.execute(query, values)).fetchone()
            except TimeoutError as error:  # statement_timeout has not ended the call
                raise FunctionTimeout.of(function, limit) from error
            except psycopg.Error as error:
                raise self._error(error) from error
            finally:
                if connection.closed or connection.pgconn.transaction_status != 0:
                    # the connection is broken, or the call was cancelled in a transaction
                    await connection.close()
                else:
                    self._free.append(connection)
        return b"null" if row is None or row[0] is None else row[0]

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        try:
            url = make_conninfo(self._url, connect_timeout=CONNECT_SECONDS, **_ALIVE)
            connection = await psycopg.AsyncConnection.connect(
                url, autocommit=True, prepare_threshold=0
            )
            await connection.execute(f"set role {WORKER_ROLE}".encode())
            await connection.execute(f"set statement_timeout = '{STATEMENT_SECONDS}s'".encode())
        except psycopg.Error as error:
            queue_error = QueueUnavailable(f"the database did not respond: {str(error).strip()}")
            queue_error.unsent = True
            raise queue_error from error
        for kind in ("json", "jsonb"):
            connection.adapters.register_loader(kind, _Json)
        return connection

    def _error(self, error: psycopg.Error) -> Exception:
        if error.sqlstate is None:
            return QueueUnavailable(f"the database did not respond: {str(error).strip()}")
        diagnostics = error.diag
        status = int(error.sqlstate[2:]) if error.sqlstate.startswith("PT") else 400
        body = {
            "code": error.sqlstate,
            "message": diagnostics.message_primary,
            "details": diagnostics.message_detail,
            "hint": diagnostics.message_hint,
        }
        return error_from_response(status, body)


@cache
def _query(schema: str, function: str, names: tuple[str, ...]) -> bytes:
    values = sql.SQL(", ").join(sql.SQL("{} => %s").format(sql.Identifier(name)) for name in names)
    return sql.SQL("select {}({})").format(sql.Identifier(schema, function), values).as_bytes()


class _Json(TextLoader):
    """Returns a JSON value of Postgres as unparsed bytes."""

    def load(self, data: Any) -> bytes:
        return bytes(data)


async def notifications(url: str, channel: str) -> AsyncGenerator[str | None, None]:
    """Yield the payload of each notification on a channel. Reconnect if the connection ends.

    Yield "" when a connection begins, and None when a connection ends.
    """
    url, wait = make_conninfo(url, **_ALIVE), 0.3
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                url, autocommit=True, connect_timeout=3, application_name=channel
            ) as connection:
                await connection.execute(f"listen {channel}".encode())
                wait = 0.3
                yield ""
                async for notification in connection.notifies():
                    yield notification.payload
        except psycopg.OperationalError as error:
            extra = {"event": "listen.away", "channel": channel, "error": str(error).strip()}
            logger.info("notifications are unavailable; polling continues", extra=extra)
        yield None
        await asyncio.sleep(wait * (0.75 + random.random() / 2))
        wait = min(5.0, 2 * wait)


async def listen(url: str, wake: Callable[[], object]) -> None:
    """Call `wake` after each committed enqueue, and when a notification may have been missed."""
    async for payload in notifications(url, CHANNEL):
        # do not wake when the connection has ended (None), because a lease would fail too
        if payload is not None:
            wake()
            # wake again, because a commit within 20 ms of a notification causes no notification
            asyncio.get_running_loop().call_later(RECHECK_SECONDS, wake)
