"""Publishers of apps, called while a worker run lasts: what waits in an outbox becomes jobs.

The app decides what an outbox is, and when a message is a dead letter.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from minutehand.worker.registry import Publisher

if TYPE_CHECKING:
    from minutehand.worker.tick import Tick

logger = logging.getLogger(__name__)

#: While a run lasts, outboxes are read this often.
EVERY_SECONDS = 1.0
#: A publisher that takes longer is cancelled in this round.
PATIENCE_SECONDS = 10.0


class Publishing:
    """Calls every publisher, one round at a time."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._turn = asyncio.Lock()
        self._ran_at = float("-inf")

    async def run(self) -> None:
        """Call them every second until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            if self._tick.clock.monotonic() - self._ran_at >= EVERY_SECONDS / 2:
                await self.once()

    async def once(self) -> None:
        """Call each once, side by side; what one raises is logged, and does not reach the run."""
        if not self._tick.registry.publishers:
            return
        async with self._turn:
            self._ran_at = self._tick.clock.monotonic()
            calls = (self._call(*each) for each in self._tick.registry.publishers.items())
            if sum(await asyncio.gather(*calls)):
                self._tick.look_for_work()

    async def _call(self, name: str, publish: Publisher) -> int:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await publish()
        except Exception as error:  # an error of an app's outbox must not stop the run's jobs
            logger.warning(
                "Publisher failed; it is called again",
                extra=self._tick.extra("publisher.failed")
                | {"publisher": name, "error": f"{type(error).__name__}: {error}"},
            )
            return 0
