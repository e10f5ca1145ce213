"""A small pool of connections, which are opened at first use and replaced when they break."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import psycopg

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class DatabaseUnavailable(Exception):
    """The database did not respond. The message is the text that Realtime's protocol requires."""


UNREACHABLE = "UnableToConnectToProject: Realtime was unable to connect to the project database"
_CONNECTIONS = 4
#: Maximum seconds of a query, long enough for a busy machine.
_TIMEOUT_SECONDS = 30
BUSY = "IncreaseConnectionPool: Please increase your connection pool size"
#: Maximum seconds until transactions are visible. A commit that waits for a synchronous standby may
#: take longer.
_MAX_WAIT_SECONDS = 5.0
#: Finds sessions with one of these transaction ids. A session drops its transaction id when other
#: sessions begin to see its rows.
_ANY_INVISIBLE = "select from pg_stat_activity where backend_xid::text::bigint = any (%s) limit 1"


async def connect(url: str, name: str, *, replication: bool = False) -> Connection:
    """Open a connection in UTC and in autocommit mode. May raise DatabaseUnavailable."""
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
    """Format an error as one line for a log."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


class Database:
    """A pool of a few database connections."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(_CONNECTIONS)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction, which is rolled back unless the caller commits it.

        May raise DatabaseUnavailable.
        """
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
                # the connection broke while it was idle, for example because Postgres restarted
                await connection.close()
            else:
                return connection
        connection = await connect(self._url, "realtime")
        await connection.execute("begin")
        return connection

    async def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            await self._idle.pop().close()


async def wait_until_visible(database: Database, transaction_ids: Iterable[int]) -> None:
    """Wait until all sessions see these transactions, but only for a few seconds.

    Postgres sends a commit to replicas when its log is flushed, just before new snapshots see the
    commit. Without this wait, a client could be notified of a row and not find the row.
    """
    ids = list(set(transaction_ids))
    if not ids:
        return
    deadline = time.monotonic() + _MAX_WAIT_SECONDS
    try:
        while time.monotonic() < deadline:
            async with database.transaction() as connection:
                cursor = await connection.execute(_ANY_INVISIBLE, [ids])
                if await cursor.fetchone() is None:
                    return
            await asyncio.sleep(0.001)
    except (DatabaseUnavailable, psycopg.Error):
        return  # the replication stream will end too
