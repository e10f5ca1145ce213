"""A tick's options, deadlines and extra workers as plain values, and waiting until a deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.errors import QueueUnavailable
from minutehand.version import VERSION

T = TypeVar("T")

#: Timeout of a call that the tick does not depend on.
SIDE_CALL_SECONDS = 3.0

#: A backlog should be begun within this time. A short one costs hardly more: seconds are billed, on
#: any worker.
TARGET_SECONDS: Final = 5.0
#: How long a job is taken to run while nothing is known.
TYPICAL_SECONDS: Final = 1.0
#: Fewer due jobs than this never start an extra worker.
LEAST_BACKLOG: Final = 10
#: Starts up to so many extra workers and returns how many were accepted.
StartExtraWorkers = Callable[[int], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TickOptions:
    """How a tick behaves; the defaults suit a Lambda function.

    Attributes:
        concurrency: Most coroutine processors running at once in this tick.
        threads: Most plain functions running at once, each in a thread of its own.
        poll_seconds: How often a tick with running jobs and free slots asks for more.
        linger_seconds: Work due within this time is slept for instead of left to the next tick.
        quiet: Log an empty tick at DEBUG; for a loop, which ticks often.
        grace_seconds: How long a cancelled processor may take to stop.
        ends_blocked: End the process, with its stacks in the log, when a processor has blocked the
            event loop until a lease is gone; for a process that does nothing else.
        usual_seconds: How long ticks of this worker usually are, when this one is shorter: a job
            that it has to stop had no fair time and is not charged an attempt.
        suspects: True for a process that runs suspects and nothing else, false if such a process
            runs beside this one, None if the database decides at each lease.
        origin: Where this worker's log is: `{log_group, log_stream, region}`; None for nowhere
            that a page could link to. The worker adds its settings' `commit` and `source`.
    """

    concurrency: int = 50
    threads: int = 5
    poll_seconds: float = 0.5
    linger_seconds: float = 55.0
    quiet: bool = False
    grace_seconds: float = 5.0
    ends_blocked: bool = False
    version: str = VERSION
    usual_seconds: float | None = None
    suspects: bool | None = None
    origin: dict[str, str] | None = None

    @classmethod
    def of(cls, settings: Settings, **more: Any) -> TickOptions:
        """Those of the settings, and `more`."""
        return cls(
            concurrency=settings.worker_concurrency,
            threads=settings.worker_threads,
            version=settings.version,
            **more,
        )

    @property
    def code(self) -> str:
        """The version with the commit, where that is known: `0.3.0+e7cc691d8`."""
        commit = (self.origin or {}).get("commit")
        return f"{self.version}+{commit[:9]}" if commit else self.version


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The tick's turning points, on the steady clock."""

    start: float
    #: Nothing is leased from here on.
    stop_leasing: float
    #: What still runs is stopped here.
    stop_working: float
    #: The last settle must be through by now.
    end: float

    @classmethod
    def until(cls, start: float, budget: float) -> Deadlines:
        """The moments of a tick that has `budget` seconds; infinite for a loop without deadline."""
        if math.isinf(budget):
            return cls(start, budget, budget, budget)
        end = start + budget
        return cls(
            start=start,
            stop_leasing=end - min(10.0, max(0.2 * budget, min(1.0, 0.5 * budget))),
            stop_working=end - min(3.0, max(0.1 * budget, min(0.5, 0.3 * budget))),
            end=end - min(0.3, 0.05 * budget),
        )

    def had_fair_time(self, now: float, usual_seconds: float | None = None) -> bool:
        """Whether a job that begins now gets at least half of a whole tick's working time."""
        if math.isinf(self.stop_working):
            return True
        whole = max(self.stop_working - self.start, usual_seconds or 0.0)
        return self.stop_working - now >= 0.5 * whole

    def grace(self, most: float) -> float:
        """Time for a cancelled processor to stop in, but never past the tick's own end."""
        if math.isinf(self.end):
            return most
        return max(0.05, min(most, (self.end - self.stop_working) * 0.6))


@dataclass(frozen=True, slots=True)
class FanOut:
    """The policy: at most `most` extra workers are started by one tick."""

    most: int = 10

    def extra_workers(
        self, *, due: int, slots: int, seconds_left: float, mean_seconds: float | None = None
    ) -> int:
        """Extra workers that `due` jobs are worth, left once this one is full; not bounded here."""
        if due < LEAST_BACKLOG or slots < 1:
            return 0
        each = max(0.001, TYPICAL_SECONDS if mean_seconds is None else mean_seconds)
        horizon = min(TARGET_SECONDS, max(1.0, seconds_left))
        carried = max(slots, int(slots * horizon / each))
        return math.ceil(due / carried) - 1


async def in_time(call: Awaitable[T], until: float, clock: Clock) -> T:
    """Await `call`, but no longer than `until` on the steady clock.

    Raises:
        QueueUnavailable: The time was over; giving up counts as no answer.
    """
    left = max(0.3, until - clock.monotonic()) if math.isfinite(until) else None
    try:
        async with asyncio.timeout(left):
            return await call
    except TimeoutError as error:
        raise QueueUnavailable("the queue did not answer in the time left") from error
