"""The worker's functions over connections to Postgres, where there is a DATABASE_URL.

A worker that has only HTTPS is the contract; this calls the same functions as the same role.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import cache
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb
from psycopg.types.string import TextLoader

from minutehand.queue.credentials import WORKER_ROLE
from minutehand.queue.data_api import ATTEMPTS, encode, repeated
from minutehand.queue.errors import QueueUnavailable, error_from_response
from minutehand.queue.responses import Parse, decode_any, read

logger = logging.getLogger(__name__)

#: Connections at most; longest time for one, and for a call of the database.
CONNECTIONS: Final = 6
CONNECT_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 11
#: A connection that the network has dropped in silence is found out in a minute, not in two hours.
_ALIVE: Final = {"keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": 30_000}
#: Notified when a transaction that enqueued commits, at most once each 20 ms.
CHANNEL: Final = "minutehand_wakeup"
#: After a notification: what was committed right behind it notified no one.
LOOK_AGAIN_SECONDS: Final = 0.1


class DirectApi:
    """As `DataApi` to a worker: calls functions and raises the same errors.

    Args:
        url: Of an address that keeps sessions, and lets them take the worker's role.
    """

    def __init__(self, url: str, *, schema: str) -> None:
        self._url = url
        self._schema = schema
        self._free: list[psycopg.AsyncConnection[Any]] = []
        self._slots = asyncio.Semaphore(CONNECTIONS)

    async def aclose(self) -> None:
        """Close every connection."""
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
        """Call a SQL function and return its one JSON value, as `parse` reads it."""
        again = repeated(repeatable, attempts or ATTEMPTS, within=15.0)
        return read(await again(self._call, function, arguments), parse)

    async def _call(self, function: str, arguments: Mapping[str, Any]) -> bytes:
        query = _query(self._schema, function, tuple(arguments))
        values = [_json(value) for value in arguments.values()]
        async with self._slots:
            connection = self._free.pop() if self._free else await self._connect()
            try:
                async with asyncio.timeout(STATEMENT_SECONDS + 1):
                    row = await (await connection.execute(query, values)).fetchone()
            except TimeoutError as error:  # the database would have given up before
                raise QueueUnavailable("the database did not answer in time") from error
            except psycopg.Error as error:
                raise self._error(error) from error
            finally:
                if connection.closed or connection.pgconn.transaction_status != 0:
                    await connection.close()  # broken, or left by a caller in the middle
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
            problem = QueueUnavailable(f"the database did not answer: {str(error).strip()}")
            problem.unsent = True
            raise problem from error
        for kind in ("json", "jsonb"):
            connection.adapters.register_loader(kind, _Json)
        return connection

    def _error(self, error: psycopg.Error) -> Exception:
        if error.sqlstate is None:
            return QueueUnavailable(f"the database did not answer: {str(error).strip()}")
        said = error.diag
        status = int(error.sqlstate[2:]) if error.sqlstate.startswith("PT") else 400
        body = {
            "code": error.sqlstate,
            "message": said.message_primary,
            "details": said.message_detail,
            "hint": said.message_hint,
        }
        return error_from_response(status, body)


@cache
def _query(schema: str, function: str, names: tuple[str, ...]) -> bytes:
    said = sql.SQL(", ").join(sql.SQL("{} => %s").format(sql.Identifier(name)) for name in names)
    return sql.SQL("select {}({})").format(sql.Identifier(schema, function), said).as_bytes()


class _Json(TextLoader):
    """What is JSON stays as it came."""

    def load(self, data: Any) -> bytes:
        return bytes(data)


def _json(value: Any) -> Any:
    return Jsonb(value, encode) if isinstance(value, Mapping | list | tuple) else value


async def notifications(url: str, channel: str) -> AsyncGenerator[str | None, None]:
    """What is notified on a channel, over restarts: "" where it begins, None where it ends."""
    url, wait = make_conninfo(url, **_ALIVE), 0.3
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                url, autocommit=True, connect_timeout=3, application_name=channel
            ) as connection:
                await connection.execute(f"listen {channel}".encode())
                wait = 0.3
                yield ""
                async for each in connection.notifies():
                    yield each.payload
        except psycopg.OperationalError as error:
            extra = {"event": "listen.away", "channel": channel, "error": str(error).strip()}
            logger.info("notifications are unavailable; polling finds what happens", extra=extra)
        yield None
        await asyncio.sleep(wait * (0.75 + random.random() / 2))
        wait = min(5.0, 2 * wait)


async def listen(url: str, wake: Callable[[], object]) -> None:
    """Call `wake` on every committed enqueue, from any caller, and where some may be missed."""
    async for said in notifications(url, CHANNEL):
        if said is not None:  # away: the pauses of its loop are not to be cut short
            wake()
            # one notification covers what else is committed in these milliseconds
            asyncio.get_running_loop().call_later(LOOK_AGAIN_SECONDS, wake)
