"""The publisher, which each worker run calls for the outbox. The rules are in SQL.

The guide's contract names an outbox. A copy of this app should call `enqueue_job` in the
transaction that writes the job instead, which gives the same promise with less code.
"""

from __future__ import annotations

import asyncio
import logging
import time

from minutehand_apps.beacon.services import Beacon

logger = logging.getLogger(__name__)

#: Time limit of one call. A call that does not commit in this time is retried later.
CALL_SECONDS = 5.0
#: Maximum messages per call.
BATCH = 50
#: Interval between checks for jobs that ended in the queue without their processor.
RECONCILE_SECONDS = 10


class Outbox:
    """Publishes messages of the outbox, and reconciles jobs with the queue."""

    def __init__(self, app: Beacon) -> None:
        self._app = app
        self._reconciled_at = float("-inf")

    async def run(self) -> int:
        """Publish due messages, and sometimes reconcile. Returns the number of published jobs."""
        published = 0
        while True:
            # If Postgres dies during a call, its response may never arrive.
            async with asyncio.timeout(CALL_SECONDS):
                count = await self._call("beacon_publish", p_limit=BATCH)
            published += count
            if count < BATCH:
                break
        if time.monotonic() - self._reconciled_at >= RECONCILE_SECONDS:
            self._reconciled_at = time.monotonic()
            if ended := await self._call("beacon_reconcile"):
                logger.warning(
                    "Benchmark jobs ended in the queue without their processor",
                    extra={"event": "beacon.reconciled", "ended": ended},
                )
        return published

    async def _call(self, function: str, **arguments: int) -> int:
        """Call a function that returns one number, without a retry, because it runs again soon."""
        counted = await self._app.worker.call(function, arguments, attempts=1)
        return sum(counted.values())
