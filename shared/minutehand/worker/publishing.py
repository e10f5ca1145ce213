"""Publishers of apps, called while a worker run lasts: what waits in an outbox becomes jobs.

The app decides what an outbox is, and when a message is a dead letter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from minutehand.clock import Clock
from minutehand.worker.registry import Publisher

logger = logging.getLogger(__name__)

#: While a run lasts, outboxes are read this often.
EVERY_SECONDS = 1.0
#: A publisher that takes longer is cancelled in this round.
PATIENCE_SECONDS = 10.0


class Publishing:
    """Calls every publisher, one round at a time.

    Args:
        on_published: Called when a round made jobs.
        extra: What each log line carries, by its event.
    """

    def __init__(
        self,
        publishers: Mapping[str, Publisher],
        on_published: Callable[[], None],
        *,
        extra: Callable[[str], dict[str, Any]],
        clock: Clock,
    ) -> None:
        self._publishers = publishers
        self._on_published = on_published
        self._extra = extra
        self._clock = clock
        self._turn = asyncio.Lock()
        self._ran_at = float("-inf")

    async def run(self) -> None:
        """Call them every second until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            if self._clock.monotonic() - self._ran_at >= EVERY_SECONDS / 2:
                await self.once()

    async def once(self) -> None:
        """Call each once, side by side; what one raises is logged, and does not reach the run."""
        if not self._publishers:
            return
        async with self._turn:
            self._ran_at = self._clock.monotonic()
            counts = await asyncio.gather(
                *(self._call(name, publish) for name, publish in self._publishers.items())
            )
        if sum(counts):
            self._on_published()

    async def _call(self, name: str, publish: Publisher) -> int:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await publish()
        except Exception as error:  # an error of an app's outbox must not stop the run's jobs
            logger.warning(
                "Publisher failed; it is called again",
                extra=self._extra("publisher.failed")
                | {"publisher": name, "error": f"{type(error).__name__}: {error}"},
            )
            return 0
