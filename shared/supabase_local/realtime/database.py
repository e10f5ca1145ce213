"""A handful of ordinary connections, opened when first needed and replaced when they break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import psycopg

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class DatabaseUnavailable(Exception):
    """The database did not answer; the protocol's text for it."""


UNREACHABLE = "UnableToConnectToProject: Realtime was unable to connect to the project database"
_CONNECTIONS = 4
#: Longest time one question may take; a busy machine is slow.
_TIMEOUT_SECONDS = 30
BUSY = "IncreaseConnectionPool: Please increase your connection pool size"
#: Longest wait; a commit that waits for a synchronous standby may take longer than that.
_PATIENCE_SECONDS = 5.0
#: A session gives its transaction's id up in the instant in which others begin to see the rows.
_ANY_INVISIBLE = (
    "select from pg_catalog.pg_stat_activity where backend_xid::text::bigint = any (%s) limit 1"
)


async def connect(url: str, name: str, *, replication: bool = False) -> Connection:
    """Open a connection in UTC, outside any transaction; or DatabaseUnavailable."""
    try:
        return await psycopg.AsyncConnection.connect(
            url,
            autocommit=True,
            connect_timeout=5,
            application_name=name,
            options="-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres",
            replication="database" if replication else None,
        )
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(UNREACHABLE) from error


def describe(error: BaseException) -> str:
    """An error in one line for a log."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


class Database:
    """A pool of a few connections."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(_CONNECTIONS)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction that is rolled back unless the caller commits; or DatabaseUnavailable."""
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._slots.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable(BUSY) from error
        connection: Connection | None = None
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                connection = await self._begin()
                try:
                    yield connection
                finally:
                    if not connection.broken:
                        await connection.execute("rollback")
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
            if connection is not None and (connection.broken or isinstance(error, TimeoutError)):
                await connection.close()
            raise DatabaseUnavailable(UNREACHABLE) from error
        finally:
            if connection is not None and not connection.closed:
                self._idle.append(connection)
            self._slots.release()

    async def _begin(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.execute("begin")
            except psycopg.OperationalError:
                # it broke while idle, as after a restart of Postgres
                await connection.close()
            else:
                return connection
        connection = await connect(self._url, "realtime")
        await connection.execute("begin")
        return connection

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().close()


async def wait_until_visible(database: Database, transaction_ids: Iterable[int]) -> None:
    """Return once every session sees these streamed transactions, at worst after a few seconds.

    Postgres hands a commit to its replicas when the log is flushed, a moment before new snapshots
    see it: a client could learn of a row and not find it.
    """
    ids = list(set(transaction_ids))
    if not ids:
        return
    give_up = time.monotonic() + _PATIENCE_SECONDS
    try:
        while time.monotonic() < give_up:
            async with database.transaction() as connection:
                found = await connection.execute(_ANY_INVISIBLE, [ids])
                if await found.fetchone() is None:
                    return
            await asyncio.sleep(0.001)
    except (DatabaseUnavailable, psycopg.Error):
        return  # the stream is about to end as well
