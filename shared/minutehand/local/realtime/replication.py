"""Streams one publication from a temporary slot and reconnects when Postgres goes away.

What a change means is the consumer's business. Rows committed while nothing streams are the
consumer's to fetch: `on_start` runs once a new slot exists and before its first change.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable

from minutehand.local.realtime.pgoutput import Change, Decoder
from minutehand.local.realtime.pgwire import Endpoint, ReplicationError, WireConnection, describe

logger = logging.getLogger(__name__)

_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
_CONFIRM_SECONDS = 5.0


class ReplicationStream:
    """The changes of one publication, as long as `run` runs."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        publication: str,
        slot_prefix: str,
        on_changes: Callable[[list[Change]], Awaitable[None]],
        on_start: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._publication = publication
        self._slot_prefix = slot_prefix
        self._on_changes = on_changes
        self._on_start = on_start
        #: Set while changes flow.
        self.running = asyncio.Event()
        self.last_error = ""
        #: Monotonic time since which changes may have been missed; None when none were.
        self.lost_at: float | None = None

    async def run(self) -> None:
        """Stream until cancelled."""
        failures = 0
        while True:
            try:
                await self._stream_once()
            except (ReplicationError, OSError, TimeoutError) as error:
                was_running = self.running.is_set()
                failures = 0 if was_running else failures + 1
                self.running.clear()
                if was_running and self.lost_at is None:
                    self.lost_at = time.monotonic()
                self.last_error = describe(error)
                logger.warning(
                    "replication interrupted",
                    extra={
                        "event": "realtime.replication_interrupted",
                        "publication": self._publication,
                        "reason": self.last_error,
                        "failures": failures,
                    },
                )
            finally:
                self.running.clear()
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])

    async def _stream_once(self) -> None:
        connection = await WireConnection.connect(self._endpoint)
        confirming: asyncio.Task[None] | None = None
        try:
            slot = f"{self._slot_prefix}_{secrets.token_hex(6)}"
            options = "TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"
            await connection.query(f'CREATE_REPLICATION_SLOT "{slot}" {options}')
            await connection.start_replication(slot, self._publication)
            if self._on_start is not None:
                await self._on_start()
            self.lost_at = None
            self.running.set()
            self.last_error = ""
            logger.info(
                "replication started",
                extra={
                    "event": "realtime.replication_started",
                    "publication": self._publication,
                    "slot": slot,
                },
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
            connection.close()


async def _confirm_regularly(connection: WireConnection) -> None:
    while True:
        await asyncio.sleep(_CONFIRM_SECONDS)
        connection.confirm(ask=True)
