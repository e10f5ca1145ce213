"""Where a run's jobs run: coroutine processors share many slots, plain functions few threads.

How many jobs to lease, which is some ahead of need while they are short, and which begin next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from minutehand.queue.models import MOST_LEASED, Lease, LeasePool
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

    def wanted(self) -> tuple[LeasePool, ...]:
        """The pools with room, each with its job types and how many jobs to lease for it."""
        now = self._clock.monotonic()
        free = [(pool.free(now, self._mean_bytes), pool.job_types) for pool in self._pools]
        free = sorted(each for each in free if each[0] > 0)
        wanted: list[LeasePool] = []
        left = MOST_LEASED
        # the smaller first: of what one request may bring, the larger has what the other leaves
        for others, (count, job_types) in zip(reversed(range(len(free))), free, strict=True):
            limit = min(count, left // (1 + others))
            wanted.append(LeasePool(job_types=job_types, limit=limit))
            left -= limit
        return tuple(wanted)

    def is_all(self, pools: tuple[LeasePool, ...]) -> bool:
        """Whether these are all the pools there are, so that a request for them leaves none out."""
        return len(pools) == len(self._pools)

    def add(self, leases: tuple[Lease, ...], sent_at: float, *, size: int) -> None:
        """Take over the leased jobs of an answer of `size` bytes."""
        for lease in leases:
            pool = self._by_type.get(lease.job.job_type, self._pools[0])
            pool.waiting.append((lease, sent_at))
        if leases:
            self._mean_bytes = max(1.0, size / len(leases))

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
