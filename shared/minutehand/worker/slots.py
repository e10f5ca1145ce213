"""The slots of a run, which are many for coroutine processors, and a few for synchronous ones.

Each job type with batches has its own slots, and each slot runs one call for a batch. The slots
determine how many jobs to lease, and which jobs start next. While jobs are short, the run leases
some jobs before a slot is free.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from minutehand.queue.models import MAX_LEASED, Lease, LeasedJob, LeasePool
from minutehand.worker.attempt import Attempt
from minutehand.worker.registry import JobType
from minutehand.worker.run import Run

#: A lease request asks for as many additional jobs as ended within this many seconds, up to a
#: maximum number of jobs and of bytes.
WINDOW_SECONDS = 0.1
MAX_PREFETCH = 800
MAX_PREFETCH_BYTES = 2_000_000
#: Maximum seconds that a leased job waits for a slot, or a quarter of its lease if this is shorter.
#: After the maximum time, the job's lease is released.
WAIT_SECONDS = 1.0
#: Approximate maximum bytes of the jobs that one request leases for a type with batches. A request
#: may always lease one full batch. A job's size is assumed until the first job is leased.
MAX_BATCH_BYTES = 8_000_000
ASSUMED_BYTES = 64_000.0

#: A leased job, and the time at which its lease was requested.
Leased = tuple[Lease, float]


class Pool:
    """Slots for some job types, and leased jobs that wait for a slot, the oldest first."""

    #: The only job type of the pool, if the type takes batches.
    batch_type: JobType[Any] | None = None
    #: Maximum jobs of one call of the processor, and seconds that a call waits for more jobs.
    _batch = 1
    _wait = 0.0

    def __init__(self, job_types: tuple[str, ...], size: int) -> None:
        self.job_types = job_types
        self.size = size
        self._used = 0
        #: Waiting jobs by a key. Jobs with the same key run in one call. The key that was served
        #: last is at the end.
        self._waiting: dict[str | None, deque[Leased]] = {}
        #: Number of jobs that ended since `_window_start`, and in the period before
        #: `_window_start`.
        self._ended = self._ended_before = 0
        self._window_start = 0.0

    @property
    def max_jobs(self) -> int:
        """Maximum number of jobs of the pool that run at once, in full batches."""
        return self.size * self._batch

    def free_capacity(self, now: float, average_size: float) -> int:
        """Return the number of jobs to lease for the free slots, with some jobs in advance."""
        self._rotate(now)
        extra = min(max(self._ended, self._ended_before), MAX_PREFETCH)
        extra = min(extra, int(MAX_PREFETCH_BYTES / average_size))
        return self.size + extra - self._used - self._count_waiting()

    def add(self, leased: Leased) -> None:
        """Add a leased job, which waits for a slot."""
        self._waiting.setdefault(self._key_of(leased[0].job), deque()).append(leased)

    def next(self, now: float) -> list[Leased]:
        """Return the jobs of the next call of a processor, or no jobs if no call may start now."""
        if self._used >= self.size:
            return []
        for key, waiting in self._waiting.items():
            if len(waiting) >= self._batch or now >= waiting[0][1] + self._wait:
                self._used += 1
                del self._waiting[key]
                jobs = [waiting.popleft() for _ in range(min(self._batch, len(waiting)))]
                if waiting:
                    self._waiting[key] = waiting
                return jobs
        return []

    def next_start_at(self) -> float | None:
        """Return the time at which a batch starts although it is not full."""
        return None

    def next_release_at(self) -> float | None:
        """Return the time at which the first waiting job is released if no slot is free."""
        return min(map(self._release_at, self._waiting.values()), default=None)

    def remove_waiting(self, now: float, *, all_: bool) -> list[Leased]:
        """Remove and return all waiting jobs, or jobs of keys with a job that waited too long."""
        removed: list[Leased] = []
        for key, waiting in list(self._waiting.items()):
            if all_ or now >= self._release_at(waiting):
                removed += self._waiting.pop(key)
        return removed

    def record_end(self, now: float, *, frees: bool) -> None:
        """Record the end of a job. `frees` is true if the job's slot is now free."""
        self._used -= frees
        self._rotate(now)
        self._ended += 1

    def _key_of(self, job: LeasedJob) -> str | None:
        return None

    def _count_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _release_at(self, waiting: deque[Leased]) -> float:
        lease, sent_at = waiting[0]
        return sent_at + self._wait + min(WAIT_SECONDS, lease.lease_seconds / 4)

    def _rotate(self, now: float) -> None:
        if now >= self._window_start + WINDOW_SECONDS:
            is_next = now < self._window_start + 2 * WINDOW_SECONDS
            self._ended_before = self._ended if is_next else 0
            self._ended, self._window_start = 0, now


class BatchPool(Pool):
    """Slots of a type with batches, one slot per call. Jobs of the same tenant wait together."""

    def __init__(self, job_type: JobType[Any], size: int) -> None:
        super().__init__((job_type.name,), size)
        self.batch_type = job_type
        self._batch = job_type.batch or 1
        self._wait = job_type.batch_wait

    def free_capacity(self, now: float, average_size: float) -> int:
        """Return the number of jobs to lease for the free slots, up to a maximum of bytes."""
        limit = max(self._batch, int(MAX_BATCH_BYTES / average_size))
        return min((self.size - self._used) * self._batch, limit) - self._count_waiting()

    def next_start_at(self) -> float | None:
        """Return the start time of the oldest incomplete batch. Return None if no slot is free."""
        if self._used >= self.size:
            return None
        return min((jobs[0][1] + self._wait for jobs in self._waiting.values()), default=None)

    def _key_of(self, job: LeasedJob) -> str:
        """Return the job's tenant, whose jobs may run in one call.

        The key of a job in its last attempt is its own id, so that no other job of the same call
        can make the job fail.
        """
        is_last = job.attempts > 1 and job.attempts >= job.max_attempts
        return job.id if is_last else job.workspace_id


class Slots:
    """The slots of one run."""

    def __init__(self, run: Run) -> None:
        self._clock = run.clock
        types = [found for name in run.job_types if (found := run.registry.find(name))]
        self._pools: list[Pool] = []
        for is_async, size in ((True, run.options.concurrency), (False, run.options.threads)):
            of_kind = [job_type for job_type in types if job_type.is_async == is_async]
            single = tuple(job_type.name for job_type in of_kind if not job_type.batch)
            self._pools += [Pool(single, size)] if single else []
            self._pools += [BatchPool(job_type, size) for job_type in of_kind if job_type.batch]
        #: Maximum concurrent calls of processors in the run. A batch is one call.
        self.total = sum(pool.size for pool in self._pools)
        self._by_type = {name: pool for pool in self._pools for name in pool.job_types}
        #: Mean size of a leased job in bytes.
        self._job_size = ASSUMED_BYTES

    def free_capacity(self) -> tuple[LeasePool, ...]:
        """Return the pools with free slots, their job types and the number of jobs to lease."""
        now = self._clock.monotonic()
        free = [(pool.free_capacity(now, self._job_size), pool.job_types) for pool in self._pools]
        free = sorted(pool for pool in free if pool[0] > 0)
        pools: list[LeasePool] = []
        left = MAX_LEASED
        # begin with the smallest pool, so that larger pools get the part of the limit that a
        # smaller pool does not use
        for remaining, (count, job_types) in zip(reversed(range(len(free))), free, strict=True):
            limit = min(count, left // (1 + remaining))
            pools.append(LeasePool(job_types=job_types, limit=limit))
            left -= limit
        return tuple(pools)

    @property
    def pools(self) -> tuple[LeasePool, ...]:
        """All pools, each with the maximum number of its jobs that run at once."""
        return tuple(LeasePool(job_types=p.job_types, limit=p.max_jobs) for p in self._pools)

    def is_all(self, pools: tuple[LeasePool, ...]) -> bool:
        """Return whether a lease request for these pools covers all pools."""
        return len(pools) == len(self._pools)

    def add(self, leases: tuple[Lease, ...], sent_at: float, *, size: int) -> None:
        """Add the leased jobs of a lease response with `size` bytes."""
        for lease in leases:
            pool = self._by_type.get(lease.job.job_type, self._pools[0])
            pool.add((lease, sent_at))
        if leases:
            self._job_size = max(1.0, size / len(leases))

    def begin(self) -> Iterator[tuple[JobType[Any] | None, list[Leased]]]:
        """Yield the jobs of each call that gets a slot now, with their type if it has batches."""
        now = self._clock.monotonic()
        for pool in self._pools:
            while leased := pool.next(now):
                yield pool.batch_type, leased

    def ended(self, attempt: Attempt) -> None:
        """Record the end of an attempt.

        The end frees the attempt's slot, unless the attempt's batch continues.
        """
        pool = self._by_type.get(attempt.job_type, self._pools[0])
        frees = attempt.batch is None or attempt.batch.has_ended
        ended_at = attempt.ended_at
        pool.record_end(self._clock.monotonic() if ended_at is None else ended_at, frees=frees)

    @property
    def next_start_at(self) -> float | None:
        """Time at which a batch starts although it is not full."""
        return _first(pool.next_start_at() for pool in self._pools)

    @property
    def next_release_at(self) -> float | None:
        """Time at which the first waiting job's lease is released if no slot is free."""
        return _first(pool.next_release_at() for pool in self._pools)

    def remove_waiting(self, now: float, *, all_: bool) -> list[Lease]:
        """Remove and return all waiting jobs, or the jobs that have waited too long for a slot."""
        return [lease for pool in self._pools for lease, _ in pool.remove_waiting(now, all_=all_)]


def _first(times: Iterable[float | None]) -> float | None:
    return min((time for time in times if time is not None), default=None)
