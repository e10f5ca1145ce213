"""Background tasks of a run, for maintenance of the database and for outboxes of apps.

An error of a background task does not end the run.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from minutehand.queue.errors import QueueError
from minutehand.worker.deadlines import in_time
from minutehand.worker.in_flight import InFlight
from minutehand.worker.registry import Publisher
from minutehand.worker.run import Run

logger = logging.getLogger(__name__)


class Maintenance:
    """Calls `run_maintenance` when a lease response reports due work, and regularly while jobs run.

    Regular calls are needed if all slots are always full, because the run then sends no lease
    request.

    Args:
        on_done: Function that is called after each `run_maintenance`, with true if jobs may have
            become ready.
    """

    #: Maximum seconds between two calls of `run_maintenance` while jobs run.
    INTERVAL_SECONDS = 1.0
    #: Maximum seconds that one call of `run_maintenance` works in the database, and maximum seconds
    #: until its response.
    BUDGET_SECONDS = 1.0
    MAX_WAIT_SECONDS = 10.0
    #: Pause after a failed call of `run_maintenance`.
    RETRY_DELAY_SECONDS = 5.0
    #: Maintenance tasks that never make a job ready.
    NEVER_MAKES_READY = frozenset({"announcements", "live", "retention", "statistics", "sweep"})

    def __init__(self, run: Run, in_flight: InFlight, *, on_done: Callable[[bool], None]) -> None:
        self._run = run
        self._in_flight = in_flight
        self._on_done = on_done
        self._clock = run.clock
        self._backoff = run.backoff
        self._requested = asyncio.Event()
        self._is_running = False

    @property
    def is_pending(self) -> bool:
        """True if maintenance runs now, or is requested and does not pause."""
        return self._is_running or (self._requested.is_set() and not self.is_backing_off)

    @property
    def is_backing_off(self) -> bool:
        """True if maintenance pauses, because its last call did nothing."""
        return self._clock.monotonic() < self._backoff.maintenance_until

    def request(self) -> None:
        """Request a call of `run_maintenance`."""
        self._requested.set()

    async def run(self) -> None:
        """Call `run_maintenance` repeatedly, one call at a time, until this task is cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.INTERVAL_SECONDS):
                    await self._requested.wait()
            if not self._requested.is_set() and not self._in_flight.running:
                continue
            await asyncio.sleep(self._backoff.maintenance_until - self._clock.monotonic())
            if self._clock.monotonic() >= self._run.deadlines.stop_working:
                return
            self._requested.clear()  # the call may miss work that is requested from now on
            self._is_running = True
            moved, delay = await self._call()
            self._is_running = False
            self._on_done(moved)
            await asyncio.sleep(delay)

    async def _call(self) -> tuple[bool, float]:
        """Call `run_maintenance` once.

        Return whether the call may have made jobs ready, and the delay before the next call.
        """
        started = self._clock.monotonic()
        try:
            response = await in_time(
                self._run.queue.maintain(budget_seconds=self.BUDGET_SECONDS),
                min(started + self.MAX_WAIT_SECONDS, self._run.deadlines.stop_working),
                self._clock,
            )
        except QueueError as error:
            logger.warning(
                "Maintenance failed; leasing continues without it",
                extra=self._run.extra("maintenance.failed") | {"error": str(error)},
            )
            self._backoff.maintenance_until = self._clock.monotonic() + self.RETRY_DELAY_SECONDS
            return True, 0.0  # maintenance may have made jobs ready although no response arrived
        self._run.summary.reclaimed += response.done.get("reclaim", 0)
        self._run.summary.promoted += response.done.get("promotion", 0)
        if response.failed:
            logger.error(
                "Maintenance tasks failed and are retried later, see queue_health",
                extra=self._run.extra("maintenance.failed") | {"failed": list(response.failed)},
            )
        if not response.done:
            # the due work is blocked, or another worker is doing it
            self._backoff.back_off_maintenance(self._clock.monotonic())
            return response.busy, 0.0
        self._backoff.maintenance = 0
        if response.more:
            self._requested.set()
        # pause for as long as the call took, so that jobs get half of the time during a large
        # clean-up
        rest = max(0.02, self._clock.monotonic() - started) if response.more else 0.0
        return not response.done.keys() <= self.NEVER_MAKES_READY, rest


class OutboxPublisher:
    """Calls the publishers of apps. Each publisher enqueues the jobs in the outbox of its app.

    The app defines its outbox, and decides when a message is a dead letter.

    Args:
        on_jobs: Function that is called when publishers have enqueued jobs.
    """

    #: Interval of the calls of publishers during a run.
    INTERVAL_SECONDS = 1.0
    #: Maximum seconds of one call of a publisher. A longer call is cancelled.
    MAX_WAIT_SECONDS = 10.0

    def __init__(self, run: Run, *, on_jobs: Callable[[], None]) -> None:
        self._run = run
        self._on_jobs = on_jobs
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Call all publishers every second until this task is cancelled."""
        while True:
            await asyncio.sleep(self.INTERVAL_SECONDS)
            await self.run_once()

    async def run_once(self) -> None:
        """Call all publishers once, concurrently.

        An error of a publisher is logged and does not stop the run.
        """
        if not self._run.registry.publishers:
            return
        async with self._lock:
            publishers = self._run.registry.publishers.items()
            if sum(await asyncio.gather(*(self._call(*each) for each in publishers))):
                self._on_jobs()

    async def _call(self, name: str, publish: Publisher) -> int:
        try:
            async with asyncio.timeout(self.MAX_WAIT_SECONDS):
                return await publish()
        except Exception as error:  # an app's error must not stop the run
            logger.warning(
                "A publisher failed and is called again",
                extra=self._run.extra("publisher.failed")
                | {"publisher": name, "error": f"{type(error).__name__}: {error}"},
            )
            return 0
