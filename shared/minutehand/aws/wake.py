"""The wake-up hint: an asynchronous invoke of the worker function after an enqueue.

A lost hint is harmless, because the minute tick finds the job. The database decides whether a hint
is needed, by `wake` in its response to an enqueue.
"""

from __future__ import annotations

import asyncio
import logging

from minutehand.aws.sigv4 import invoke
from minutehand.config import Settings
from minutehand.log import current_request_id

logger = logging.getLogger(__name__)

# With a limit of 0.3 s, a small cold function lost its hint, because its first call opens TLS
TIMEOUT_SECONDS = 1.0
SOURCE = "minutehand.wake"


class LambdaWaker:
    """Invokes the worker with InvocationType=Event, never raises, and delays a request briefly.

    Calls that arrive during an invoke share the next invoke. The invoked worker leases jobs after
    all these calls have committed, so it finds their jobs.
    """

    def __init__(self, settings: Settings, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        settings.require("WORKER_FUNCTION_NAME")
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def wake(self) -> None:
        """Ask the worker to run soon. Returns when the request was sent or dropped."""
        if self._running is not None and not self._running.done():
            if self._next is None or self._next.done():
                self._next = asyncio.ensure_future(self._after(self._running))
            await asyncio.shield(self._next)
            return
        self._running = asyncio.ensure_future(self._send())
        await asyncio.shield(self._running)

    async def _after(self, running: asyncio.Task[None]) -> None:
        await asyncio.wait([running])
        self._running = asyncio.current_task()
        self._next = None
        await self._send()

    async def _send(self) -> None:
        event = {"source": SOURCE, "request_id": current_request_id()}
        try:
            async with asyncio.timeout(2 * self._timeout_seconds):
                seconds = self._timeout_seconds
                await asyncio.to_thread(invoke, self._settings, event, read_seconds=seconds)
        except Exception as error:  # a lost hint must not fail a committed enqueue
            logger.warning(
                "wake-up was lost; the minute tick will find the job",
                extra={
                    "event": "wake.lost",
                    "reason": f"{type(error).__name__}: {error}",
                    "worker_function": self._settings.worker_function_name,
                },
            )
