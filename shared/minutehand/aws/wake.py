"""Wakes the worker after an enqueue by invoking the worker's Lambda function asynchronously.

A lost wake-up is harmless, because the worker run of the next minute finds the job. The field
`wake` in the database's response says whether an enqueue needs a wake-up.
"""

import asyncio
import logging

from minutehand.aws.sigv4 import invoke
from minutehand.config import Settings
from minutehand.log import current_request_id

logger = logging.getLogger(__name__)

# not 0.3 s, because a small Lambda function needed longer for its first TLS connection, so that its
# wake-up was lost
TIMEOUT_SECONDS = 1.0
SOURCE = "minutehand.wake"


class LambdaWaker:
    """Invokes the worker with InvocationType=Event.

    The method `wake` never raises an error, and waits only briefly.

    Calls of `wake` while an invocation is sent share the next invocation. The shared invocation is
    sent after the enqueues of all callers have committed, so that the worker finds the jobs.
    """

    def __init__(self, settings: Settings, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        settings.require("WORKER_FUNCTION_NAME")
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def wake(self) -> None:
        """Request a worker run, and return when the request has succeeded or failed."""
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
        except Exception as error:  # a lost wake-up must not fail the committed enqueue
            logger.warning(
                "wake-up was lost; the minute tick will find the job",
                extra={
                    "event": "wake.lost",
                    "reason": f"{type(error).__name__}: {error}",
                    "worker_function": self._settings.worker_function_name,
                },
            )
