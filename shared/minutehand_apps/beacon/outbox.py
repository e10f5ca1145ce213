"""The publisher of the outbox, which each worker run calls.

The SQL functions of the app enforce the rules of the outbox.

The specification of this app requires an outbox. A copy of the app should instead call
`enqueue_job` in the transaction that inserts the job, which has the same guarantee with less code.
"""

import asyncio
import logging
import time

from minutehand_apps.beacon.services import Beacon

logger = logging.getLogger(__name__)

#: Maximum seconds of one call. A call that did not commit within the timeout is repeated later.
CALL_SECONDS = 5.0
#: Seconds between checks for jobs that ended in the queue without their processor.
RECONCILE_SECONDS = 10


class Outbox:
    """Publishes messages of the outbox, and compares jobs of the app with jobs in the queue."""

    def __init__(self, app: Beacon) -> None:
        self._app = app
        self._reconciled_at = float("-inf")

    async def run(self) -> int:
        """Publish due messages and return their number. Compare jobs at intervals."""
        published = 0
        while True:
            # limit the time, because a response may never arrive if Postgres dies during a call
            async with asyncio.timeout(CALL_SECONDS):
                count = await self._call("beacon_publish")
            if count == 0:
                break
            published += count
        if time.monotonic() - self._reconciled_at >= RECONCILE_SECONDS:
            self._reconciled_at = time.monotonic()
            if ended := await self._call("beacon_reconcile"):
                logger.warning(
                    "Benchmark jobs ended in the queue without their processor",
                    extra={"event": "beacon.reconciled", "ended": ended},
                )
        return published

    async def _call(self, function: str) -> int:
        """Call a SQL function that returns a number. The next worker run repeats a failed call."""
        counted = await self._app.worker.call(function, {}, attempts=1)
        return sum(counted.values())
