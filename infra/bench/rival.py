"""`python -m infra.bench.rival`: a victim's waits beside a rival, as ratios to the quiet run.

The rival plays random mixes of `rival_attacks` over the Data API, as a manager of its own
workspace; two workers serve both. Rival, workers and victim are processes of their own, and the
rival's client yields to the others. What must hold is asserted in tests/sql/test_rival.py by
counts; here are the times of one machine, and only their ratios mean something. `started` is from
the enqueueing to the start, `read` a page of a list, `heard` from the enqueueing to an event of the
job over Realtime, on the Pro plan's budget of messages, which the rival's jobs use up too: what it
holds back is announced, and read then.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.bench.listener import Listener, realtime
from infra.bench.measure import percentile, worker_process
from infra.bench.paths import PYTHONPATH, ROOT
from infra.bench.person import Person
from infra.bench.rival_attacks import ATTACKS
from infra.bench.scratch import WORKSPACE, Scratch, scratch_project
from minutehand.local.processes import spawn, stop

#: The victim's p95 beside a rival, in multiples of its quiet p95.
MOST = 3.0


@dataclass
class Waits:
    """Seconds, by what was waited for."""

    started: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)


async def timed(into: list[float], work: Awaitable[object]) -> object:
    """Await, and note how long it took."""
    began = time.perf_counter()
    answer = await work
    into.append(time.perf_counter() - began)
    return answer


async def one_job(victim: Person, listener: Listener, waits: Waits) -> None:
    """Enqueue, wait for the start and for the first live event, read a page."""
    began = time.perf_counter()
    made = await victim.call("enqueue_job", p_workspace_id=WORKSPACE, p_job_type="bench_stamp")
    assert isinstance(made, dict)
    job_id = made["job"]["id"]
    heard = asyncio.ensure_future(note_heard(listener, job_id, began, waits))
    while True:
        job = await victim.call("get_job", p_job_id=job_id)
        assert isinstance(job, dict)
        if job["started_at"] is not None:
            break
        await asyncio.sleep(0.005)
    waits.started.append(time.perf_counter() - began)
    page = {"p_filter": {"workspace_id": WORKSPACE}, "p_limit": 50}
    await timed(waits.read, victim.call("list_jobs", **page))
    await heard


async def note_heard(listener: Listener, job_id: str, began: float, waits: Waits) -> None:
    """Note how long after `began` a live event of the job came."""
    await listener.heard(job_id)
    waits.heard.append(time.perf_counter() - began)


async def watch(victim: Person, listener: Listener, until: Callable[[], bool]) -> Waits:
    """One job after the other until it is over."""
    waits = Waits()
    while not until() or len(waits.started) < 20:
        await one_job(victim, listener, waits)
    return waits


@contextmanager
def rival(scratch: Scratch, seed: int, attacks: Sequence[str]) -> Iterator[None]:
    """The rival's process, for the length of the block."""
    process = spawn(
        [sys.executable, "-m", "infra.bench.rival_process", str(seed), *attacks],
        env={**scratch.environment, "PYTHONPATH": PYTHONPATH},
        cwd=ROOT,
    )
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the rival's process ended with {process.returncode}")
    finally:
        stop(process)


async def measure(
    scratch: Scratch, port: int, seed: int, seconds: float, attacks: Sequence[str]
) -> bool:
    """Print the table; whether every ratio is small enough."""
    victim = Person(scratch.gateway.url)
    try:
        async with Listener(port, victim.call) as listener:
            quiet_until = time.monotonic() + seconds / 3
            quiet = await watch(victim, listener, lambda: time.monotonic() >= quiet_until)
            announced = listener.look_agains
            over = time.monotonic() + seconds
            with rival(scratch, seed, attacks):
                beside = await watch(victim, listener, lambda: time.monotonic() >= over)
            announced = listener.look_agains - announced
    finally:
        await victim.aclose()
    ok = True
    print(f"{'':22}{'quiet p95':>12}{'beside p95':>12}{'ratio':>8}   jobs")
    for name in ("started", "read", "heard"):
        before = percentile(getattr(quiet, name), 0.95)
        after = percentile(getattr(beside, name), 0.95)
        ok = ok and after <= MOST * before
        times = f"{before * 1000:>9.1f} ms{after * 1000:>9.1f} ms{after / before:>8.2f}"
        print(f"{name:22}{times}   {len(getattr(beside, name))}")
    print(f"asked to read again {announced} times beside the rival")
    return ok


def main() -> int:
    """Measure and print; 1 when a ratio is too large."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.rival", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the attack")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--attack", action="append", default=[], choices=sorted(ATTACKS), help="only these"
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-bench-") as folder,
        scratch_project(Path(folder)) as scratch,
        realtime(scratch) as port,
        worker_process(scratch),
        worker_process(scratch),
    ):
        run = measure(scratch, port, options.seed, options.seconds, options.attack)
        return 0 if asyncio.run(run) else 1


if __name__ == "__main__":
    raise SystemExit(main())
