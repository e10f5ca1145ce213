"""Streams the changes of a publication from a temporary slot, and reconnects after an outage.

This module uses libpq's protocol through psycopg's wrapper. The consumer interprets the changes.
Changes that are committed while no stream runs are not delivered later.
"""

import asyncio
import contextlib
import logging
import secrets
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from supabase_local.realtime.database import DatabaseUnavailable, connect, describe
from supabase_local.realtime.pgoutput import Change, Decoder

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.2
_CONFIRM_SECONDS = 5.0
#: Seconds without a message after which Postgres is asked for a keepalive message.
_SILENCE_SECONDS = 30.0
#: Seconds from the Unix epoch to the epoch of Postgres.
_POSTGRES_EPOCH = 946_684_800


class WalConnection:
    """A connection in logical replication mode, which only one task may use at a time.

    References:
        https://www.postgresql.org/docs/current/protocol-replication.html
    """

    def __init__(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        self._pg = connection.pgconn
        self.close = connection.close
        self._received_lsn = 0

    async def run(self, command: str) -> None:
        """Run a command, or start a stream.

        Raises psycopg.Error if Postgres rejects the command or stops.
        """
        self._pg.send_query(command.encode())
        while (result := await self._result()) is not None:
            if result.status == ExecStatus.COPY_BOTH:
                return
            if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                raise error_from_result(result)

    async def _result(self) -> PGresult | None:
        while self._pg.is_busy():
            await self._receive()
        return self._pg.get_result()

    async def _receive(self) -> None:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        socket = self._pg.socket
        loop.add_reader(socket, arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(socket)
        self._pg.consume_input()

    async def stream(self) -> AsyncIterator[list[bytes]]:
        """Yield new messages. Raises psycopg.Error or TimeoutError when the stream has ended."""
        while True:
            messages: list[bytes] = []
            while (got := self._pg.get_copy_data(1))[0] > 0:
                self._on_copy_data(bytes(got[1]), messages)
            if messages:
                yield messages
            if got[0] < 0:
                result = await self._result()
                raise error_from_result(result) if result else psycopg.OperationalError("ended")
            async with asyncio.timeout(_SILENCE_SECONDS):
                await self._receive()

    def _on_copy_data(self, body: bytes, messages: list[bytes]) -> None:
        # Messages begin with a log position: w is XLogData(start, end, clock, data), and k is
        # keepalive(end, clock, reply requested).
        self._received_lsn = max(self._received_lsn, int.from_bytes(body[1:9], "big"))
        if body[:1] == b"w":
            messages.append(body[25:])
        elif body[:1] == b"k" and body[17]:
            self.confirm()

    def confirm(self, *, ask: bool = False) -> None:
        """Confirm all received messages, and with `ask` request a keepalive message."""
        lsn = self._received_lsn
        now = int((time.time() - _POSTGRES_EPOCH) * 1_000_000)
        self._pg.put_copy_data(b"r" + struct.pack("!QQQQB", lsn, lsn, lsn, now, ask))
        self._pg.flush()


class ReplicationStream:
    """The changes of one publication, which are streamed while `run` runs."""

    def __init__(
        self, url: str, *, publication: str, on_changes: Callable[[list[Change]], Awaitable[None]]
    ) -> None:
        self._url = url
        self._publication = publication
        self._on_changes = on_changes
        #: Event that is set while changes are streamed.
        self.running = asyncio.Event()
        self.last_error = ""

    async def run(self) -> None:
        """Stream changes until this task is cancelled."""
        while True:
            try:
                await self._stream_once()
            except (DatabaseUnavailable, psycopg.Error, OSError, TimeoutError) as error:
                self.last_error = describe(error)
                logger.warning(
                    "replication interrupted",
                    extra={
                        "event": "realtime.replication_interrupted",
                        "publication": self._publication,
                        "reason": self.last_error,
                    },
                )
            finally:
                self.running.clear()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _stream_once(self) -> None:
        connection = WalConnection(
            await connect(self._url, "realtime_replication", replication=True)
        )
        confirming: asyncio.Task[None] | None = None
        self.last_error = ""  # Postgres is available, even if the slot waits for open transactions
        try:
            slot = f"{self._publication}_{secrets.token_hex(6)}"
            options = "TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"
            await connection.run(f'CREATE_REPLICATION_SLOT "{slot}" {options}')
            options = f"proto_version '1', publication_names '{self._publication}'"
            await connection.run(f'START_REPLICATION SLOT "{slot}" LOGICAL 0/0 ({options})')
            self.running.set()
            logger.info(
                "replication started",
                extra={"event": "realtime.replication_started", "publication": self._publication},
            )
            confirming = asyncio.create_task(_confirm_regularly(connection))
            decoder = Decoder()
            async for messages in connection.stream():
                changes = list(decoder.decode(messages))
                if changes:
                    await self._on_changes(changes)
        finally:
            if confirming is not None:
                confirming.cancel()
            await connection.close()


async def _confirm_regularly(connection: WalConnection) -> None:
    while True:
        await asyncio.sleep(_CONFIRM_SECONDS)
        with contextlib.suppress(psycopg.Error):  # the task that reads the stream gets the error
            connection.confirm(ask=True)
