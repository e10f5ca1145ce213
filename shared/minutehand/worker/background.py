"""What a tick does beside its jobs: maintenance, and outboxes of apps; a failure costs no lease."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from minutehand.queue.errors import QueueError
from minutehand.worker.deadlines import in_time
from minutehand.worker.in_flight import Held
from minutehand.worker.registry import Publisher
from minutehand.worker.run import Run

logger = logging.getLogger(__name__)


class Maintenance:
    """Calls `run_maintenance` when a lease says so, and now and then while jobs run.

    Unasked only while jobs run, so that a tick whose slots are always full does not leave
    maintenance to no one.

    Args:
        on_done: Called after each call, with whether it may have made jobs ready.
    """

    #: Longest time between two calls of a busy tick.
    EVERY_SECONDS = 1.0
    #: Time the database may take in one call, and how long its answer is waited for.
    BUDGET_SECONDS = 1.0
    PATIENCE_SECONDS = 10.0
    #: Pause after a call that failed.
    FAILED_PAUSE_SECONDS = 5.0
    #: Tasks that make no job ready.
    READIES_NONE = frozenset({"announcements", "live", "retention", "statistics", "sweep"})

    def __init__(self, run: Run, held: Held, *, on_done: Callable[[bool], None]) -> None:
        self._run_of = run
        self._held = held
        self._on_done = on_done
        self._clock = run.clock
        self._vain = run.vain
        self._requested = asyncio.Event()
        self._is_under_way = False

    @property
    def is_wanted(self) -> bool:
        """Whether a call was asked for and has not been answered, and may do something."""
        return self._is_under_way or (self._requested.is_set() and not self.is_resting)

    @property
    def is_resting(self) -> bool:
        """Whether what is due could not be done just now."""
        return self._clock.monotonic() < self._vain.maintenance_until

    def request(self) -> None:
        """There is something to do."""
        self._requested.set()

    async def run(self) -> None:
        """Call until cancelled, one call at a time."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.EVERY_SECONDS):
                    await self._requested.wait()
            if not self._requested.is_set() and not self._held.running:
                continue
            await asyncio.sleep(self._vain.maintenance_until - self._clock.monotonic())
            if self._clock.monotonic() >= self._run_of.deadlines.stop_working:
                return
            self._requested.clear()  # what is asked for from here on, this call may not see
            self._is_under_way = True
            moved, pause = await self._call()
            self._is_under_way = False
            self._on_done(moved)
            await asyncio.sleep(pause)

    async def _call(self) -> tuple[bool, float]:
        """Make one call: whether it may have made jobs ready, and how long to rest after it."""
        began = self._clock.monotonic()
        try:
            answer = await in_time(
                self._run_of.queue.maintain(budget_seconds=self.BUDGET_SECONDS),
                min(began + self.PATIENCE_SECONDS, self._run_of.deadlines.stop_working),
                self._clock,
            )
        except QueueError as error:
            logger.warning(
                "Maintenance failed; leasing continues without it",
                extra=self._run_of.extra("maintenance.failed") | {"error": str(error)},
            )
            self._vain.maintenance_until = self._clock.monotonic() + self.FAILED_PAUSE_SECONDS
            return True, 0.0  # it may have done its work all the same
        self._run_of.summary.reclaimed += answer.done.get("reclaim", 0)
        self._run_of.summary.promoted += answer.done.get("promotion", 0)
        if answer.failed:
            logger.error(
                "Tasks of maintenance failed and are put off, see queue_health",
                extra=self._run_of.extra("maintenance.failed") | {"failed": list(answer.failed)},
            )
        if not answer.done:
            # nothing of what is due can be done now, or another worker does it
            self._vain.rest_maintenance(self._clock.monotonic())
            return answer.busy, 0.0
        self._vain.maintenance = 0
        if answer.more:
            self._requested.set()
        # half of the time at most, so that a large clean-up leaves the database to the jobs
        rest = max(0.02, self._clock.monotonic() - began) if answer.more else 0.0
        return not answer.done.keys() <= self.READIES_NONE, rest


class Publishing:
    """Calls the publishers of apps, one round at a time: what waits in an outbox becomes jobs.

    The app decides what an outbox is, and when a message is a dead letter.

    Args:
        on_jobs: Called when some made jobs.
    """

    #: While a run lasts, outboxes are read this often.
    EVERY_SECONDS = 1.0
    #: A publisher that takes longer is cancelled in this round.
    PATIENCE_SECONDS = 10.0

    def __init__(self, run: Run, *, on_jobs: Callable[[], None]) -> None:
        self._run_of = run
        self._on_jobs = on_jobs
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Call them every second until cancelled."""
        while True:
            await asyncio.sleep(self.EVERY_SECONDS)
            await self.once()

    async def once(self) -> None:
        """Call each once, side by side; what one raises is logged, and does not reach the run."""
        if not self._run_of.registry.publishers:
            return
        async with self._turn:
            calls = (self._call(*each) for each in self._run_of.registry.publishers.items())
            if sum(await asyncio.gather(*calls)):
                self._on_jobs()

    async def _call(self, name: str, publish: Publisher) -> int:
        try:
            async with asyncio.timeout(self.PATIENCE_SECONDS):
                return await publish()
        except Exception as error:  # an error of an app's outbox must not stop the run's jobs
            logger.warning(
                "Publisher failed; it is called again",
                extra=self._run_of.extra("publisher.failed")
                | {"publisher": name, "error": f"{type(error).__name__}: {error}"},
            )
            return 0
