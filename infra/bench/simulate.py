"""A simulation of the wake-ups, ticks and extra workers on Lambda: waits, invocations, cost.

`python -m infra.bench.simulate` prints a table. The policy under test is the real one,
`minutehand.worker.fanout`; only Lambda, the database and time are simulated. The parameters are
measured ones: `python -m infra.bench` and the import times in tests/artefact.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from minutehand.worker.deadlines import Deadlines
from minutehand.worker.fanout import FanOut

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the world looks like; seconds unless named otherwise.

    Attributes:
        lease: One lease or settle-and-lease call, local stack, quiet: 6 ms and the way to a
            hosted project, 20 ms.
        cold_start: Import and init of the worker with pre-compiled bytecode, on one vCPU.
        invoke: An asynchronous invoke until the handler runs, warm.
        database_calls: Calls a second the database answers; beyond it they queue.
        extra_workers: The product's own cap, EXTRA_WORKERS: most that a tick starts.
    """

    lease: float = 0.026
    cold_start: float = 0.45
    invoke: float = 0.08
    keep_warm: float = 300.0
    timeout: float = 300.0
    concurrency: int = 5
    most_workers: int = 10
    extra_workers: int = FanOut().most
    database_calls: float = 500.0
    dead_ticks: float = 0.0
    lost_wakeups: float = 0.0
    lease_seconds: float = 60.0
    linger: float = 55.0
    gigabytes: float = 1.73
    usd_per_gigabyte_second: float = 0.0000133334
    usd_per_invocation: float = 0.0000002


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of it: arrivals as (second, jobs), and how long a job runs."""

    name: str
    arrivals: tuple[tuple[float, int], ...]
    run: Callable[[random.Random], float]
    until: float = 600.0


@dataclass(slots=True)
class Result:
    """What came of it."""

    waits: list[float] = field(default_factory=list)
    invocations: int = 0
    throttled: int = 0
    cold: int = 0
    reclaimed: int = 0
    billed: float = 0.0
    most_running: int = 0

    def wait(self, share: float) -> float:
        """The queue wait that `share` of the jobs did not exceed."""
        ordered = sorted(self.waits) or [0.0]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def usd(self, parameters: Parameters) -> float:
        """What Lambda would bill."""
        seconds = self.billed * parameters.gigabytes * parameters.usd_per_gigabyte_second
        return seconds + self.invocations * parameters.usd_per_invocation


@dataclass(slots=True)
class _Tick:
    deadlines: Deadlines
    extra_worker: bool
    doomed_at: float | None
    running: int = 0
    fanned_out: bool = False
    over: bool = False
    run_seconds: float = 0.0
    runs: int = 0


class Simulation:
    """One load under one set of parameters; deterministic by seed."""

    def __init__(self, load: Load, parameters: Parameters, *, seed: int = 0) -> None:
        self._load = load
        self._world = parameters
        self._rng = random.Random(seed)
        self._policy = FanOut(most=parameters.extra_workers)
        self._now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._due: deque[tuple[float, float]] = deque()
        self._ticks: list[_Tick] = []
        self._warm: list[float] = []
        self._database_free_at = 0.0
        self._wake_asked_at: float | None = None
        self.result = Result()

    def run(self) -> Result:
        """Let the load through and return what came of it."""
        for at, jobs in self._load.arrivals:
            self._at(at, functools.partial(self._arrive, jobs))
        for minute in range(int(self._load.until / MINUTE) + 30):
            self._at(minute * MINUTE, lambda: self._invoke(extra_worker=False))
        wanted = sum(jobs for _, jobs in self._load.arrivals)
        while self._events and len(self.result.waits) < wanted:
            self._now, _, act = heapq.heappop(self._events)
            act()
        for tick in self._ticks:
            if not tick.over:
                self._end(tick)
        return self.result

    # Events -----------------------------------------------------------------------------------

    def _at(self, at: float, act: Callable[[], object]) -> None:
        heapq.heappush(self._events, (at, next(self._order), act))

    def _after_call(self, act: Callable[[], object]) -> None:
        """The database answers calls one after another, as fast as it can."""
        self._database_free_at = (
            max(self._now, self._database_free_at) + 1 / self._world.database_calls
        )
        self._at(self._database_free_at + self._world.lease, act)

    def _arrive(self, jobs: int) -> None:
        self._due.extend((self._now, self._load.run(self._rng)) for _ in range(jobs))
        asked = self._wake_asked_at
        if asked is not None and self._now - asked < 2.0:
            return  # debounced in SQL
        self._wake_asked_at = self._now
        if self._rng.random() >= self._world.lost_wakeups:
            self._invoke(extra_worker=False)

    def _invoke(self, *, extra_worker: bool) -> bool:
        running = sum(not tick.over for tick in self._ticks)
        if running >= self._world.most_workers:
            self.result.throttled += 1
            return False
        self.result.invocations += 1
        self._warm = [at for at in self._warm if self._now - at < self._world.keep_warm]
        start = self._world.invoke
        if self._warm:
            self._warm.pop()
        else:
            self.result.cold += 1
            start += self._world.cold_start
            self.result.billed += self._world.cold_start
        dead = self._rng.random() < self._world.dead_ticks
        tick = _Tick(
            Deadlines.until(self._now + start, self._world.timeout),
            extra_worker,
            self._now + start + self._rng.uniform(0, 30) if dead else None,
        )
        self._ticks.append(tick)
        self.result.most_running = max(self.result.most_running, running + 1)
        self._at(self._now + start, lambda: self._after_call(lambda: self._lease(tick)))
        if tick.doomed_at is not None:
            self._at(tick.doomed_at, lambda: self._die(tick))
        return True

    def _lease(self, tick: _Tick) -> None:
        if tick.over:
            return
        self._wake_asked_at = None
        if self._now < tick.deadlines.stop_leasing:
            while tick.running < self._world.concurrency and self._due:
                self._start(tick, *self._due.popleft())
            self._fan_out(tick)
        if tick.running == 0:
            self._end(tick)

    def _start(self, tick: _Tick, arrived: float, seconds: float) -> None:
        tick.running += 1
        began = self._now

        def finish() -> None:
            if tick.over:
                return
            self.result.waits.append(began - arrived)
            tick.run_seconds += seconds
            tick.runs += 1

            def settled() -> None:
                tick.running -= 1
                self._lease(tick)

            self._after_call(settled)

        def lose() -> None:
            # the tick died with it: its lease expires and the next lease call reclaims it
            self.result.reclaimed += 1
            self._due.append((arrived, seconds))

        if tick.doomed_at is not None and began + seconds > tick.doomed_at:
            self._at(tick.doomed_at + self._world.lease_seconds, lose)
        elif began + seconds > tick.deadlines.stop_working:
            self._at(tick.deadlines.stop_working, lambda: self._due.append((arrived, seconds)))
        else:
            self._at(began + seconds, finish)

    def _fan_out(self, tick: _Tick) -> None:
        if tick.extra_worker or tick.fanned_out:
            return
        wanted = self._policy.extra_workers(
            due=min(1000, len(self._due)),
            slots=self._world.concurrency,
            seconds_left=tick.deadlines.stop_leasing - self._now,
            mean_seconds=tick.run_seconds / tick.runs if tick.runs else None,
        )
        if wanted:
            tick.fanned_out = True
            for _ in range(wanted):
                self._invoke(extra_worker=True)

    def _die(self, tick: _Tick) -> None:
        if not tick.over:
            self._end(tick)

    def _end(self, tick: _Tick) -> None:
        tick.over = True
        self._warm.append(self._now)
        self.result.billed += max(0.001, self._now - tick.deadlines.start)


def loads(seed: int) -> Iterator[Load]:
    """The loads of the table."""
    rng = random.Random(seed)
    trickle = tuple((rng.uniform(0, 600), 1) for _ in range(300))
    yield Load("a job every 2 s, 0.2 s each", trickle, lambda r: r.expovariate(1 / 0.2))
    yield Load("1,000 at once, 0.5 s each", ((5.0, 1000),), lambda r: r.expovariate(1 / 0.5))
    yield Load("10,000 at once, 0.1 s each", ((5.0, 10_000),), lambda r: r.expovariate(10))
    yield Load("200 at once, 30 s each", ((5.0, 200),), lambda r: r.uniform(20, 40))
    waves = tuple((60.0 * minute + 7, 300) for minute in range(10))
    yield Load("300 every minute, 1 s each", waves, lambda r: r.expovariate(1))


def table(
    seed: int, workers: tuple[int, ...], *, extra_workers: int = FanOut().most
) -> Iterator[str]:
    """The table, line by line."""
    common = Parameters(extra_workers=extra_workers)
    head = f"{'load':<30}{'workers':>12}{'p50 s':>8}{'p95 s':>8}{'p99 s':>8}"
    yield f"{head}{'invoked':>9}{'429':>6}{'cold':>6}{'lost':>6}{'USD':>10}"
    worlds = [(str(count), replace(common, most_workers=count)) for count in workers]
    worlds.append(("10, 1/3 die", replace(common, dead_ticks=1 / 3)))
    worlds.append(("10, no wake", replace(common, lost_wakeups=1.0)))
    for load in loads(seed):
        for name, world in worlds:
            result = Simulation(load, world, seed=seed).run()
            waits = "".join(f"{result.wait(share):>8.2f}" for share in (0.5, 0.95, 0.99))
            yield (
                f"{load.name:<30}{name:>12}{waits}{result.invocations:>9}"
                f"{result.throttled:>6}{result.cold:>6}{result.reclaimed:>6}"
                f"{result.usd(world):>10.5f}"
            )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 500])
    parser.add_argument("--extra-workers", type=int, default=FanOut().most, help="EXTRA_WORKERS")
    options = parser.parse_args()
    for line in table(options.seed, tuple(options.workers), extra_workers=options.extra_workers):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
