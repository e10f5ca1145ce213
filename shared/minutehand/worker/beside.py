"""What a tick does beside its jobs: maintenance, and outboxes of apps; a failure costs no lease.

What maintenance is, the database says (`run_maintenance`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from minutehand.queue.errors import QueueError
from minutehand.worker.deadlines import in_time
from minutehand.worker.registry import Publisher

if TYPE_CHECKING:
    from minutehand.worker.tick import Tick

logger = logging.getLogger(__name__)


class Maintenance:
    """Calls `run_maintenance` when a lease says so, and now and then while jobs run.

    Unasked only while jobs run, so that a tick whose slots are always full does not leave
    maintenance to no one.
    """

    #: Longest time between two calls of a busy tick.
    EVERY_SECONDS = 1.0
    #: Time the database may take in one call, and how long its answer is waited for.
    BUDGET_SECONDS = 1.0
    PATIENCE_SECONDS = 10.0
    #: Pauses: after a call that failed, while messages wait for the next second's budget, and while
    #: another worker makes its call.
    FAILED_PAUSE_SECONDS = 5.0
    MESSAGES_PAUSE_SECONDS = 0.5
    BUSY_PAUSE_SECONDS = 0.1

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._clock = tick.clock
        self._summary = tick.summary
        self._requested = asyncio.Event()
        self._is_under_way = False
        self._parked = 0

    @property
    def is_wanted(self) -> bool:
        """Whether a call was asked for and has not been answered."""
        return self._requested.is_set() or self._is_under_way

    def request(self) -> None:
        """There is something to do."""
        self._requested.set()

    async def run(self) -> None:
        """Call until cancelled, one call at a time."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.EVERY_SECONDS):
                    await self._requested.wait()
            if not self._requested.is_set() and not self._tick.running:
                continue
            if self._clock.monotonic() >= self._tick.deadlines.stop_working:
                return
            was_asked = self._requested.is_set()
            self._requested.clear()  # what is asked for from here on, this call may not see
            self._is_under_way = True
            moved, pause = await self._call(was_asked)
            self._is_under_way = False
            self._tick.look_for_work(moved)
            await asyncio.sleep(pause)

    async def _call(self, was_asked: bool) -> tuple[bool, float]:
        """Make one call: whether it may have made jobs ready, and how long to rest after it."""
        began = self._clock.monotonic()
        try:
            done = await in_time(
                self._tick.queue.maintain(budget_seconds=self.BUDGET_SECONDS),
                min(began + self.PATIENCE_SECONDS, self._tick.deadlines.stop_working),
                self._clock,
            )
        except QueueError as error:
            logger.warning(
                "Maintenance failed; leasing continues without it",
                extra=self._tick.extra("maintenance.failed") | {"error": str(error)},
            )
            return True, self.FAILED_PAUSE_SECONDS  # it may have done its work all the same
        self._summary.reclaimed += done.done.get("reclaim", 0)
        self._summary.promoted += done.done.get("promotion", 0)
        if done.failed or done.parked > self._parked:
            logger.error(
                "Items of maintenance failed and are parked, see queue_health",
                extra=self._tick.extra("maintenance.parked")
                | {"failed": list(done.failed), "parked": done.parked},
            )
        if not done.busy:
            self._parked = done.parked
        if done.done.keys() == {"messages"}:
            self._requested.set()
            return False, self.MESSAGES_PAUSE_SECONDS
        if done.more:
            self._requested.set()
        # an answer that was lost may have said more than the repeated call's
        moved = was_asked or bool(done.done)
        if done.busy:
            return moved, self.BUSY_PAUSE_SECONDS
        # half of the time at most, so that a large clean-up leaves the database to the jobs
        return moved, max(0.02, self._clock.monotonic() - began) if done.more else 0.0


class Publishing:
    """Calls the publishers of apps, one round at a time: what waits in an outbox becomes jobs.

    The app decides what an outbox is, and when a message is a dead letter.
    """

    #: While a run lasts, outboxes are read this often.
    EVERY_SECONDS = 1.0
    #: A publisher that takes longer is cancelled in this round.
    PATIENCE_SECONDS = 10.0

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Call them every second until cancelled."""
        while True:
            await asyncio.sleep(self.EVERY_SECONDS)
            await self.once()

    async def once(self) -> None:
        """Call each once, side by side; what one raises is logged, and does not reach the run."""
        if not self._tick.registry.publishers:
            return
        async with self._turn:
            calls = (self._call(*each) for each in self._tick.registry.publishers.items())
            if sum(await asyncio.gather(*calls)):
                self._tick.look_for_work()

    async def _call(self, name: str, publish: Publisher) -> int:
        try:
            async with asyncio.timeout(self.PATIENCE_SECONDS):
                return await publish()
        except Exception as error:  # an error of an app's outbox must not stop the run's jobs
            logger.warning(
                "Publisher failed; it is called again",
                extra=self._tick.extra("publisher.failed")
                | {"publisher": name, "error": f"{type(error).__name__}: {error}"},
            )
            return 0
