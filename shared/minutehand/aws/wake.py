"""The wake-up hint: an asynchronous invoke of the worker function after an enqueue.

Losing one is harmless, because the minute tick finds the job; whether one is due at all is
decided by the database, which answers `wake` to an enqueue.
"""

from __future__ import annotations

import asyncio
import logging

from minutehand.aws.sigv4 import invoke
from minutehand.config import Settings
from minutehand.log import current_request_id

logger = logging.getLogger(__name__)

# a first call opens TLS on a small, cold function; 0.3 s lost the hint there
TIMEOUT_SECONDS = 1.0
SOURCE = "minutehand.wake"


class LambdaWaker:
    """Invokes the worker with InvocationType=Event; never raises, never holds a request long.

    Calls that arrive while an invoke is under way share one that starts after it: the worker it
    wakes leases only after all of their commits, so none of them is forgotten.
    """

    def __init__(self, settings: Settings, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        settings.require("WORKER_FUNCTION_NAME")
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def wake(self, *, reason: str = "enqueue") -> None:
        """Ask for a tick soon. Returns when the hint was sent or dropped."""
        if self._running is not None and not self._running.done():
            if self._next is None or self._next.done():
                self._next = asyncio.ensure_future(self._after(self._running, reason))
            await asyncio.shield(self._next)
            return
        self._running = asyncio.ensure_future(self._send(reason))
        await asyncio.shield(self._running)

    async def _after(self, running: asyncio.Task[None], reason: str) -> None:
        await asyncio.wait([running])
        self._running = asyncio.current_task()
        self._next = None
        await self._send(reason)

    async def _send(self, reason: str) -> None:
        event = {"source": SOURCE, "reason": reason, "request_id": current_request_id()}
        try:
            async with asyncio.timeout(2 * self._timeout_seconds):
                seconds = self._timeout_seconds
                await asyncio.to_thread(invoke, self._settings, event, read_seconds=seconds)
        except Exception as error:  # a lost hint must not fail an enqueue that is committed
            logger.warning(
                "wake-up was lost; the minute tick will find the job",
                extra={
                    "event": "wake.lost",
                    "reason": f"{type(error).__name__}: {error}",
                    "worker_function": self._settings.worker_function_name,
                },
            )
