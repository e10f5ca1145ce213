"""The publisher: what each worker run does for the outbox. The rules are in SQL."""

from __future__ import annotations

import asyncio
import logging

from minutehand_apps.beacon.services import Beacon

logger = logging.getLogger(__name__)

#: Patience for one call; what was not committed by then is offered again.
CALL_SECONDS = 5.0
#: Messages taken at once.
BATCH = 50
#: Jobs that ended in the queue alone are looked for this often.
RECONCILE_SECONDS = 10


class Outbox:
    """Moves messages into the queue, and ends what the queue ended."""

    def __init__(self, app: Beacon) -> None:
        self._app = app
        self._reconciled_at = float("-inf")

    async def run(self) -> int:
        """Publish what is due, and now and then reconcile; returns how many jobs were made."""
        published = 0
        while True:
            # a call in flight when Postgres dies may never be answered
            async with asyncio.timeout(CALL_SECONDS):
                made = await self._app.store.publish(limit=BATCH)
            published += made
            if made < BATCH:
                break
        if self._app.clock.monotonic() - self._reconciled_at >= RECONCILE_SECONDS:
            self._reconciled_at = self._app.clock.monotonic()
            if ended := await self._app.store.reconcile():
                logger.warning(
                    "Benchmark jobs ended in the queue without their processor",
                    extra={"event": "beacon.reconciled", "ended": ended},
                )
        return published
