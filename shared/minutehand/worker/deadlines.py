"""Options, deadlines and extra workers of a tick. A tick is one run of a worker."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.errors import QueueUnavailable
from minutehand.version import VERSION

T = TypeVar("T")

#: Time limit in seconds for a call whose failure does not fail the tick.
SIDE_CALL_SECONDS = 3.0

#: Seconds within which all jobs of a backlog should start. More workers for a shorter time cost
#: little more, because workers are billed by the second.
TARGET_SECONDS = 5.0
#: Assumed duration of a job in seconds while no job's duration is known.
TYPICAL_SECONDS = 1.0
#: Minimum number of due jobs that justifies an extra worker.
MIN_BACKLOG = 10
#: Function that starts up to the given number of extra workers, and returns the number accepted.
StartExtraWorkers = Callable[[int], Awaitable[int]]


@dataclass(frozen=True, kw_only=True)
class TickOptions:
    """Options of a tick. The defaults suit a Lambda function.

    Attributes:
        concurrency: Maximum coroutine processors running at once in this tick.
        threads: Maximum synchronous processors running at once, each in its own thread.
        poll_seconds: Poll interval of a tick with running jobs and free slots.
        linger_seconds: Maximum time for which a tick waits for jobs that fall due, instead of
            ending its run.
        quiet: True to log an empty tick at DEBUG, for a loop that ticks often.
        grace_seconds: Maximum time for a cancelled processor to stop.
        ends_blocked: True to end the process, with its stacks in the log, before a lease is lost
            because a processor blocks the event loop. Set `ends_blocked` only in a process that
            runs nothing but the worker.
        usual_seconds: Usual duration of the worker's ticks. Set `usual_seconds` only if the next
            tick is shorter than usual. The attempt of a job that a short tick must stop does not
            count, because the job had too little time.
        suspects: True for a process that runs only suspects, which are jobs that may have ended a
            process. False if another process runs the suspects, None if the database decides at
            each lease.
        listens: True if Realtime may wake the worker, which then needs the topic of wake-ups.
        origin: Location of this worker's log, for links, as `{log_group, log_stream, region}`, or
            None. The worker adds `commit` and `source` from its settings.
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
    listens: bool | None = None
    origin: dict[str, str] | None = None

    @classmethod
    def of(cls, settings: Settings, **options: Any) -> Self:
        """Return the options in the settings.

        `options` are the values of the other fields.
        """
        return cls(
            concurrency=settings.worker_concurrency,
            threads=settings.worker_threads,
            version=settings.version,
            **options,
        )

    @property
    def code(self) -> str:
        """The version with the commit, if known, such as `0.3.0+e7cc691d8`."""
        commit = (self.origin or {}).get("commit")
        return f"{self.version}+{commit[:9]}" if commit else self.version


@dataclass(frozen=True)
class Deadlines:
    """Deadlines of a tick on the monotonic clock."""

    start: float
    #: Time from which no job is leased.
    stop_leasing: float
    #: Time at which running jobs are stopped.
    stop_working: float
    #: Time by which the last settlement must be stored.
    end: float

    @classmethod
    def until(cls, start: float, budget: float) -> Self:
        """Return the deadlines of a tick with `budget` seconds, which may be infinite."""
        if math.isinf(budget):
            return cls(start, budget, budget, budget)
        end = start + budget
        return cls(
            start=start,
            stop_leasing=end - min(10.0, max(0.2 * budget, min(1.0, 0.5 * budget))),
            stop_working=end - min(3.0, max(0.1 * budget, min(0.5, 0.3 * budget))),
            end=end - min(0.3, 0.05 * budget),
        )

    def had_enough_time(self, now: float, full_tick_seconds: float | None) -> bool:
        """Return whether a job that starts now gets at least half of the time of a whole tick."""
        if math.isinf(self.stop_working):
            return True
        length = max(self.stop_working - self.start, full_tick_seconds or 0.0)
        return self.stop_working - now >= 0.5 * length

    def grace(self, limit: float) -> float:
        """Return the maximum seconds for a cancelled processor to end, before the tick ends."""
        if math.isinf(self.end):
            return limit
        return max(0.05, min(limit, (self.end - self.stop_working) * 0.6))


@dataclass(frozen=True)
class FanOut:
    """Policy for extra workers. One tick starts up to `most` extra workers."""

    most: int = 10

    def extra_workers(
        self, *, due: int, slots: int, seconds_left: float, average_seconds: float | None
    ) -> int:
        """Return the number of extra workers that `due` jobs need.

        The number may be above `most`.
        """
        if due < MIN_BACKLOG or slots < 1:
            return 0
        job_seconds = max(0.001, TYPICAL_SECONDS if average_seconds is None else average_seconds)
        horizon = min(TARGET_SECONDS, max(1.0, seconds_left))
        carried = max(slots, int(slots * horizon / job_seconds))
        return math.ceil(due / carried) - 1


async def in_time(call: Awaitable[T], until: float, clock: Clock) -> T:
    """Await `call`, but not after the time `until` on the monotonic clock.

    Raises:
        QueueUnavailable: The call did not end in time, which counts as no response.
    """
    left = max(0.3, until - clock.monotonic()) if math.isfinite(until) else None
    try:
        async with asyncio.timeout(left):
            return await call
    except TimeoutError as error:
        raise QueueUnavailable("the queue did not respond in the time left") from error
