"""Where a run's jobs run: coroutine processors share many slots, plain functions few threads.

A type with batches has as many of its own, a call each. How many jobs to lease, which is some ahead
of need while they are short, and which begin next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from minutehand.queue.models import MAX_LEASED, Lease, LeasePool, WorkspaceId
from minutehand.worker.attempt import Attempt
from minutehand.worker.registry import JobType
from minutehand.worker.run import Run

#: Leased ahead of need: as many jobs as ended in this time, bounded in number and bytes.
AHEAD_SECONDS: Final = 0.1
MOST_AHEAD: Final = 800
MOST_AHEAD_BYTES: Final = 2_000_000
#: A job waits here for a slot so long at most, or a quarter of its lease; then it is released.
WAIT_SECONDS: Final = 1.0
#: About the most bytes of jobs that one request brings for batches of a type, beyond a first one;
#: and of a job, until some have come.
MOST_BATCHED_BYTES: Final = 8_000_000
ASSUMED_BYTES: Final = 64_000.0

#: A leased job, and when its lease was requested.
Leased = tuple[Lease, float]


class Pool:
    """The slots of one kind of processor, and the leased jobs that wait for one, in order."""

    #: Its one type, where that takes batches.
    batched: JobType[Any] | None = None

    def __init__(self, job_types: tuple[str, ...], size: int) -> None:
        self.job_types = job_types
        self.size = size
        self._used = 0
        self._waiting: deque[Leased] = deque()
        #: Jobs that ended since `_since`, and in the time of that length before.
        self._ended = self._ended_before = 0
        self._since = 0.0

    def wanted(self, now: float, mean_bytes: float) -> int:
        """How many jobs to lease for it: free slots, and some ahead."""
        self._turn(now)
        ahead = min(max(self._ended, self._ended_before), MOST_AHEAD)
        ahead = min(ahead, int(MOST_AHEAD_BYTES / mean_bytes))
        return self.size + ahead - self._used - len(self._waiting)

    def add(self, leased: Leased) -> None:
        """A job waits for a slot."""
        self._waiting.append(leased)

    def next(self, now: float) -> list[Leased]:
        """What begins in a free slot; empty where there is none, or nothing for it."""
        if not self._waiting or self._used >= self.size:
            return []
        self._used += 1
        return [self._waiting.popleft()]

    def next_begin_at(self) -> float | None:
        """When what waits for more of its kind begins without."""
        return None

    def next_late_at(self) -> float | None:
        """When the first that waits has waited too long."""
        return _late_at(self._waiting[0]) if self._waiting else None

    def give_back(self, now: float, *, all_: bool) -> list[Leased]:
        """What will not begin: all, or what waits behind one that has for too long."""
        late: list[Leased] = []
        if self._waiting and (all_ or now >= _late_at(self._waiting[0])):
            late += self._waiting
            self._waiting.clear()
        return late

    def note_end(self, now: float, *, frees: bool) -> None:
        """A job has ended; whether its slot is free now."""
        self._used -= frees
        self._turn(now)
        self._ended += 1

    def _turn(self, now: float) -> None:
        if now >= self._since + AHEAD_SECONDS:
            is_next = now < self._since + 2 * AHEAD_SECONDS
            self._ended_before = self._ended if is_next else 0
            self._ended, self._since = 0, now


class BatchPool(Pool):
    """The slots of a type with batches, a call each; its jobs wait by tenant."""

    def __init__(self, job_type: JobType[Any], size: int) -> None:
        super().__init__((job_type.name,), size)
        self.batched = job_type
        self._batch = job_type.batch or 1
        self._wait = job_type.batch_wait
        #: The tenant that was served last is the last.
        self._tenants: dict[WorkspaceId, deque[Leased]] = {}

    def wanted(self, now: float, mean_bytes: float) -> int:
        """What its free slots take, as far as that is not too much at once."""
        most = max(self._batch, int(MOST_BATCHED_BYTES / mean_bytes))
        waiting = sum(map(len, self._tenants.values()))
        return min((self.size - self._used) * self._batch, most) - waiting

    def add(self, leased: Leased) -> None:
        """It waits for others of its tenant, or a slot."""
        self._tenants.setdefault(leased[0].job.workspace_id, deque()).append(leased)

    def next(self, now: float) -> list[Leased]:
        """A full batch, or one that has waited long enough."""
        if self._used >= self.size:
            return []
        for tenant, waiting in self._tenants.items():
            if len(waiting) >= self._batch or now >= waiting[0][1] + self._wait:
                self._used += 1
                del self._tenants[tenant]
                batch = [waiting.popleft() for _ in range(min(self._batch, len(waiting)))]
                if waiting:
                    self._tenants[tenant] = waiting
                return batch
        return []

    def next_begin_at(self) -> float | None:
        """When the first batch begins that is not full; None without a slot for it."""
        if self._used >= self.size:
            return None
        return min((each[0][1] + self._wait for each in self._tenants.values()), default=None)

    def next_late_at(self) -> float | None:
        """When the first has waited for a slot for too long."""
        firsts = (_late_at(each[0]) + self._wait for each in self._tenants.values())
        return min(firsts, default=None)

    def give_back(self, now: float, *, all_: bool) -> list[Leased]:
        """All, or those of tenants whose first has waited for too long."""
        late: list[Leased] = []
        for tenant, waiting in list(self._tenants.items()):
            if all_ or now >= _late_at(waiting[0]) + self._wait:
                late += self._tenants.pop(tenant)
        return late


class Slots:
    """The slots of one run."""

    def __init__(self, run: Run) -> None:
        self._clock = run.clock
        types = {name: run.registry.find(name) for name in run.job_types}
        plain = {name for name, each in types.items() if each is not None and not each.is_async}
        batched = {name for name, each in types.items() if each is not None and each.batch}
        single = [name for name in run.job_types if name not in batched]
        pools = [
            Pool(tuple(n for n in single if n not in plain), run.options.concurrency),
            Pool(tuple(n for n in single if n in plain), run.options.threads),
        ]
        self._pools = [pool for pool in pools if pool.job_types]
        for job_type in types.values():
            if job_type is not None and job_type.batch:
                size = run.options.concurrency if job_type.is_async else run.options.threads
                self._pools.append(BatchPool(job_type, size))
        #: Jobs that may run at once, as far as they run alone.
        self.total = sum(pool.size for pool in self._pools)
        self._by_type = {name: pool for pool in self._pools for name in pool.job_types}
        #: Of a leased job.
        self._mean_bytes = ASSUMED_BYTES

    def wanted(self) -> tuple[LeasePool, ...]:
        """The pools with room, each with its job types and how many jobs to lease for it."""
        now = self._clock.monotonic()
        free = [(pool.wanted(now, self._mean_bytes), pool.job_types) for pool in self._pools]
        free = sorted(each for each in free if each[0] > 0)
        wanted: list[LeasePool] = []
        left = MAX_LEASED
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
            pool.add((lease, sent_at))
        if leases:
            self._mean_bytes = max(1.0, size / len(leases))

    def begin(self) -> Iterator[tuple[JobType[Any] | None, list[Leased]]]:
        """What has a slot now, the first leased first: a job, or a batch and its type."""
        now = self._clock.monotonic()
        for pool in self._pools:
            while leased := pool.next(now):
                yield pool.batched, leased

    def ended(self, attempt: Attempt) -> None:
        """Its slot is free, unless others of its batch run on."""
        pool = self._by_type.get(attempt.job_type, self._pools[0])
        frees = attempt.batch is None or attempt.batch.is_over
        ended_at = attempt.ended_at
        pool.note_end(self._clock.monotonic() if ended_at is None else ended_at, frees=frees)

    @property
    def next_begin_at(self) -> float | None:
        """When a batch begins that is not full."""
        return _first(pool.next_begin_at() for pool in self._pools)

    @property
    def next_late_at(self) -> float | None:
        """When the first that waits has waited too long."""
        return _first(pool.next_late_at() for pool in self._pools)

    def give_back(self, now: float, *, all_: bool) -> list[Lease]:
        """Those that will not begin here: all, or what waits behind one that has for too long."""
        return [lease for pool in self._pools for lease, _ in pool.give_back(now, all_=all_)]


def _first(times: Iterable[float | None]) -> float | None:
    return min((each for each in times if each is not None), default=None)


def _late_at(leased: Leased) -> float:
    lease, sent_at = leased
    return sent_at + min(WAIT_SECONDS, lease.lease_seconds / 4)
