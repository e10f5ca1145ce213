"""Values that the parts of one worker run share.

The parts of a run call each other only through the callbacks that their constructors get.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from minutehand.queue.models import AbandonedJob, JobId, LeaseResponse
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.database_clock import DatabaseClock
from minutehand.worker.deadlines import Deadlines, TickOptions
from minutehand.worker.registry import Registry
from minutehand.worker.summary import TickSummary

#: Job and fence of one lease. The job alone does not identify a lease, because a worker may lease a
#: job again that it still runs.
LeaseKey = tuple[JobId, int]


@dataclass
class IdleBackoff:
    """Counts consecutive leases and maintenance calls that did nothing, and computes the backoff.

    The counts of an IdleBackoff remain after a run, because otherwise each run of a loop would
    start without a backoff.
    """

    leases: int = 0
    maintenance: int = 0
    #: Time on the monotonic clock until which no maintenance is called.
    maintenance_until: float = float("-inf")

    #: Maximum backoff in seconds, by which a job that has just fallen due may be late.
    MAX_SECONDS: ClassVar[float] = 1.0

    def lease_backoff(self) -> float:
        """Return the seconds until the next lease request while due jobs cannot be leased."""
        return min(self.MAX_SECONDS, 0.01 * float(2 ** min(self.leases, 10)))

    def back_off_maintenance(self, now: float) -> None:
        """Record that a call of `run_maintenance` did nothing."""
        self.maintenance += 1
        delay = min(self.MAX_SECONDS, 0.1 * float(2 ** min(self.maintenance, 10)))
        self.maintenance_until = now + delay


@dataclass
class RunIdentity:
    """The id of a worker's lease requests, their number, and the worker's abandoned processors.

    The id of the requests remains after a run, because otherwise each empty run of a loop would
    leave a row in the database.
    """

    name: str = ""
    since: float = float("-inf")
    calls: int = 0
    is_used: bool = False
    #: Functions by job. Each function returns an abandoned processor with its location, or None
    #: after the processor's end.
    abandoned: dict[JobId, Callable[[], AbandonedJob | None]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Values that describe one run of a worker.

    Attributes:
        stop_event: Event that is set when the host shuts down.
        job_types: Names of the types that the run serves.
        queues: Named queues from which the run leases jobs. `queues` is None for all queues.
        summary: Counts to which all parts of the run add.
        most: Maximum concurrent runs of all workers. None means that the number of runs is not
            limited.
        backoff: Backoff that all runs of a worker share.
        lease_id: Id of lease requests. Only one run of a worker at a time uses the id.
        on_response: Called with each response to a lease request.
    """

    queue: WorkerQueue
    clock: DatabaseClock
    registry: Registry
    options: TickOptions
    deadlines: Deadlines
    summary: TickSummary
    stop_event: asyncio.Event
    job_types: tuple[str, ...]
    queues: tuple[str, ...] | None = None
    most: int | None = None
    backoff: IdleBackoff = field(default_factory=IdleBackoff)
    lease_id: RunIdentity = field(default_factory=RunIdentity)
    on_response: Callable[[LeaseResponse], None] = lambda response: None

    def seconds_left(self) -> float:
        """Return the seconds until the last settlement must be stored."""
        return self.deadlines.end - self.clock.monotonic()

    def extra(self, event: str) -> dict[str, Any]:
        """Return fields that each log line of the run contains."""
        names = {"worker_id": self.summary.worker_id, "tick_id": self.summary.tick_id}
        return {"event": event, **names}
