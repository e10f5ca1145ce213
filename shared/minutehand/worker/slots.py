"""Where a run's jobs run: coroutine processors share many slots, plain functions few threads.

How many jobs to lease, which is some ahead of need while they are short, and which begin next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from minutehand.queue.models import Lease
from minutehand.worker.attempt import Attempt
from minutehand.worker.run import Run

#: Leased ahead of need: as many jobs as ended in this time, bounded in number and bytes.
AHEAD_SECONDS: Final = 0.1
MOST_AHEAD: Final = 400
MOST_AHEAD_BYTES: Final = 2_000_000
#: A job waits here for a slot so long at most, or a quarter of its lease; then it is released.
WAIT_SECONDS: Final = 1.0


@dataclass(slots=True)
class Pool:
    """The slots of one kind of processor, and the leased jobs that wait for one, in order."""

    job_types: tuple[str, ...]
    size: int
    used: int = 0
    waiting: deque[tuple[Lease, float]] = field(default_factory=deque)
    #: Jobs that ended since `_since`, and in the time of that length before.
    _ended: int = 0
    _ended_before: int = 0
    _since: float = 0.0

    def free(self, now: float, mean_bytes: float) -> int:
        """How many jobs to lease for it: free slots, and some ahead."""
        self._turn(now)
        ahead = min(max(self._ended, self._ended_before), MOST_AHEAD)
        ahead = min(ahead, int(MOST_AHEAD_BYTES / mean_bytes))
        return self.size + ahead - self.used - len(self.waiting)

    def note_end(self, now: float) -> None:
        """A job has ended."""
        self.used -= 1
        self._turn(now)
        self._ended += 1

    def _turn(self, now: float) -> None:
        if now >= self._since + AHEAD_SECONDS:
            is_next = now < self._since + 2 * AHEAD_SECONDS
            self._ended_before = self._ended if is_next else 0
            self._ended, self._since = 0, now


class Slots:
    """The slots of one run."""

    def __init__(self, run: Run) -> None:
        self._clock = run.clock
        types = {name: run.registry.find(name) for name in run.job_types}
        plain = {name for name, each in types.items() if each is not None and not each.is_async}
        pools = [
            Pool(tuple(n for n in run.job_types if n not in plain), run.options.concurrency),
            Pool(tuple(n for n in run.job_types if n in plain), run.options.threads),
        ]
        self._pools = [pool for pool in pools if pool.job_types]
        #: Jobs that may run at once.
        self.total = sum(pool.size for pool in self._pools)
        self._by_type = {name: pool for pool in self._pools for name in pool.job_types}
        self._mean_bytes = 1.0
        self._turns = 0
        #: The last request for both kinds was answered in full: they take turns, so that the few
        #: threads do not bound how many coroutines are leased.
        self._takes_turns = False

    def wanted(self) -> tuple[tuple[str, ...], int]:
        """The job types to lease next, and how many jobs."""
        now = self._clock.monotonic()
        free = {id(pool): pool.free(now, self._mean_bytes) for pool in self._pools}
        pools = [pool for pool in self._pools if free[id(pool)] > 0]
        if self._takes_turns and len(pools) > 1:
            pools = [pools[self._turns % 2]]
        names = tuple(sorted(name for pool in pools for name in pool.job_types))
        return names, min((free[id(pool)] for pool in pools), default=0)

    def add(self, leases: tuple[Lease, ...], sent_at: float, *, limit: int, size: int) -> None:
        """Take over leased jobs of an answer of `size` bytes to a request for `limit`."""
        for lease in leases:
            pool = self._by_type.get(lease.job.job_type, self._pools[0])
            pool.waiting.append((lease, sent_at))
        if leases:
            self._mean_bytes = max(1.0, size / len(leases))
        self._turns += 1
        self._takes_turns = len(self._pools) > 1 and 0 < limit <= len(leases)

    def begin(self) -> Iterator[tuple[Lease, float]]:
        """Those that have a slot now, the first leased first."""
        for pool in self._pools:
            while pool.waiting and pool.used < pool.size:
                pool.used += 1
                yield pool.waiting.popleft()

    def ended(self, attempt: Attempt) -> None:
        """Its slot is free."""
        pool = self._by_type.get(attempt.job_type, self._pools[0])
        pool.note_end(self._clock.monotonic())

    @property
    def next_late_at(self) -> float | None:
        """When the first that waits has waited too long."""
        heads = [pool.waiting[0] for pool in self._pools if pool.waiting]
        return min((_late_at(*head) for head in heads), default=None)

    def give_back(self, now: float, *, all_: bool) -> list[Lease]:
        """Those that will not begin here: all, or what waits behind one that has for too long."""
        late: list[Lease] = []
        for pool in self._pools:
            if pool.waiting and (all_ or now >= _late_at(*pool.waiting[0])):
                late += [lease for lease, _ in pool.waiting]
                pool.waiting.clear()
        return late


def _late_at(lease: Lease, sent_at: float) -> float:
    return sent_at + min(WAIT_SECONDS, lease.lease_seconds / 4)
