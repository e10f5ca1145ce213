"""The values that the parts of one run share.

What a part may set off in others are the callbacks of its constructor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from minutehand.queue.models import JobId
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.database_clock import DatabaseClock
from minutehand.worker.deadlines import Deadlines, TickOptions
from minutehand.worker.registry import Registry
from minutehand.worker.summary import TickSummary

#: A job and the fence of one lease of it: a worker may get a job again while it still runs here.
LeaseKey = tuple[JobId, int]


@dataclass(slots=True)
class Vain:
    """How many calls in a row did nothing although something was due: the next one waits longer.

    It outlives a run: else each of a loop's runs would begin by trying again at once.
    """

    leases: int = 0
    maintenance: int = 0
    #: Until when maintenance rests, on the steady clock.
    maintenance_until: float = float("-inf")

    #: Longest pause: what others hold delays what has just fallen due by no more.
    MOST_SECONDS: ClassVar[float] = 1.0

    def lease_pause(self) -> float:
        """Seconds until the queue is asked for due jobs again."""
        return min(self.MOST_SECONDS, 0.01 * float(2 ** min(self.leases, 10)))

    def rest_maintenance(self, now: float) -> None:
        """A call did nothing."""
        self.maintenance += 1
        pause = min(self.MOST_SECONDS, 0.1 * float(2 ** min(self.maintenance, 10)))
        self.maintenance_until = now + pause


@dataclass(slots=True)
class LeaseId:
    """The id under which lease calls go, and how many have gone.

    It outlives a run: else each run of a loop that finds nothing would leave a row behind.
    """

    name: str = ""
    since: float = float("-inf")
    calls: int = 0
    is_taken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The values of one bounded run of a worker.

    Attributes:
        stopping: Set when the host goes down.
        job_types: What it serves, by name.
        queues: Only jobs of these named queues; None for all.
        summary: Counted into by every part.
        most: Most bounded runs of all workers at once; None for no bound.
        vain, lease_id: Of this worker's runs; the id for one of them at a time.
        on_suspects: Called with the number of companies of suspects after each lease.
    """

    queue: WorkerQueue
    clock: DatabaseClock
    registry: Registry
    options: TickOptions
    deadlines: Deadlines
    summary: TickSummary
    stopping: asyncio.Event
    job_types: tuple[str, ...]
    queues: tuple[str, ...] | None = None
    most: int | None = None
    vain: Vain = field(default_factory=Vain)
    lease_id: LeaseId = field(default_factory=LeaseId)
    on_suspects: Callable[[int], None] = lambda companies: None

    def seconds_left(self) -> float:
        """Time until its last settle must be through."""
        return self.deadlines.end - self.clock.monotonic()

    def extra(self, event: str) -> dict[str, Any]:
        """What each of its log lines carries."""
        names = {"worker_id": self.summary.worker_id, "tick_id": self.summary.tick_id}
        return {"event": event, **names}
