"""The measurements: each returns rows of a table, and says nothing about good or bad."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import psycopg

from infra.bench.others import spread
from infra.bench.paths import PYTHONPATH, ROOT
from infra.bench.processors import bench_registry
from infra.bench.scratch import WORKSPACE, Scratch, user_token
from minutehand.local.processes import spawn, stop
from minutehand.queue import NewJob, QueueClient, UserQueue
from minutehand.worker import TickOptions, Worker

Row = tuple[str, str]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def rate(url: str, count: str, jobs: int, *, seconds: float = 300.0) -> float:
    """Jobs a second between the first hundredth and the last job, seen from the database."""
    began = None
    give_up = time.monotonic() + seconds
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < give_up:
            row = connection.execute(count.encode()).fetchone()
            done = int(row[0]) if row else 0
            if began is None and done >= jobs // 100:
                began, at = time.monotonic(), done
            if began is not None and done >= jobs:
                return (done - at) / max(0.001, time.monotonic() - began)
            time.sleep(0.02)
    raise TimeoutError(f"{jobs} jobs were not done after {seconds} s")


@contextmanager
def worker_process(scratch: Scratch, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process that is ready, for the length of the block."""
    process = spawn(
        [sys.executable, "-m", "infra.bench.worker_process", *arguments],
        env={**scratch.environment, "PYTHONPATH": PYTHONPATH},
        cwd=ROOT,
    )
    try:
        if process.stdout is None or process.stdout.readline().strip() != b"ready":
            raise RuntimeError("the worker process did not become ready")
        yield process
    finally:
        stop(process)


@dataclass(frozen=True, slots=True)
class PickUps:
    """Seconds from the call of enqueue to the processor, and of the call alone."""

    waits: list[float]
    calls: list[float]


async def pick_up(scratch: Scratch, *, jobs: int = 200) -> list[Row]:
    """From the call of enqueue to the first line of the processor, with an idle worker."""
    seen = await pick_up_waits(scratch, jobs=jobs)
    return [
        ("pick-up p50", f"{percentile(seen.waits, 0.5) * 1000:.1f} ms"),
        ("pick-up p95", f"{percentile(seen.waits, 0.95) * 1000:.1f} ms"),
        ("enqueue call p50", f"{percentile(seen.calls, 0.5) * 1000:.1f} ms"),
    ]


async def pick_up_waits(scratch: Scratch, *, jobs: int) -> PickUps:
    """The single measurements behind `pick_up`."""
    await fill(scratch, "bench_stamp", 0)
    client = QueueClient(scratch.settings)
    queue = client.acting_as(user_token())
    began: dict[str, float] = {}
    calls = []
    rng = random.Random(0)
    with worker_process(scratch):
        await queue.enqueue(WORKSPACE, "bench_stamp")
        await asyncio.sleep(1.0)
        for _ in range(jobs):
            at = time.time()
            enqueued = await queue.enqueue(WORKSPACE, "bench_stamp")
            calls.append(time.time() - at)
            began[enqueued.job.id] = at
            # no one asks for the job meanwhile: the question would compete with its lease
            await asyncio.sleep(spread(rng))
        waits = [await _started(queue, job_id) - at for job_id, at in began.items()]
    await client.aclose()
    return PickUps(waits, calls)


async def _started(queue: UserQueue, job_id: str) -> float:
    while True:
        job = await queue.get_job(job_id)
        if job.status == "completed":
            return float(job.result["started"])
        await asyncio.sleep(0.05)


async def drain(
    scratch: Scratch, *, jobs: int = 10_000, workers: int = 2, concurrency: int = 300
) -> list[Row]:
    """How fast worker processes get through no-op jobs."""
    await fill(scratch, "bench_noop", jobs)
    with drain_processes(scratch, workers=workers, concurrency=concurrency) as processes:
        began = time.monotonic()
        counts = []
        for process in processes:
            output, _ = process.communicate(timeout=600)
            counts.append(int(output.split()[-1]))
    took = time.monotonic() - began
    if sum(counts) != jobs:
        raise RuntimeError(f"{sum(counts)} of {jobs} jobs were completed")
    return [
        (f"drain, {workers} workers of {concurrency} slots", f"{jobs / took:,.0f} jobs/s"),
        ("share of each worker", " / ".join(map(str, counts))),
    ]


@contextmanager
def drain_processes(
    scratch: Scratch, *, workers: int, concurrency: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Worker processes that take what is there and then print how much it was."""
    command = [sys.executable, "-m", "infra.bench.worker_process", "--drain"]
    command += ["--concurrency", str(concurrency)]
    environment = {**scratch.environment, "PYTHONPATH": PYTHONPATH}
    processes = [spawn(command, env=environment, cwd=ROOT) for _ in range(workers)]
    try:
        for process in processes:
            if process.stdout is None or process.stdout.readline().strip() != b"ready":
                raise RuntimeError("a worker process did not become ready")
        yield processes
    finally:
        for process in processes:
            stop(process)


async def tick_of(scratch: Scratch, *, jobs: int, seconds: float, concurrency: int) -> list[Row]:
    """How long one tick takes for jobs that wait, as for a foreign service."""
    worker = Worker(
        scratch.settings,
        registry=bench_registry(),
        options=TickOptions(concurrency=concurrency, linger_seconds=0, quiet=True),
    )
    await fill(scratch, "bench_pause", jobs, {"seconds": seconds})
    began = time.monotonic()
    summary = await worker.tick(budget_seconds=120)
    took = time.monotonic() - began
    await worker.aclose()
    if summary.completed != jobs:
        raise RuntimeError(f"{summary.completed} of {jobs} jobs were completed")
    return [(f"{jobs} jobs of {seconds:g} s, concurrency {concurrency}", f"{took:.2f} s")]


async def idle(scratch: Scratch, *, ticks: int = 10_000) -> list[Row]:
    """What a tick that finds nothing costs, in calls and in memory kept."""
    worker = Worker(
        scratch.settings,
        registry=bench_registry(),
        options=TickOptions(linger_seconds=0, quiet=True),
    )
    process = psutil.Process()
    calls = 0
    warm = max(1, ticks // 4)
    began, before = 0.0, 0
    for number in range(ticks + warm):
        if number == warm:
            gc.collect()
            began, before = time.monotonic(), process.memory_info().rss
        calls += (await worker.tick(budget_seconds=60)).calls
    gc.collect()
    growth = process.memory_info().rss / before - 1
    took = time.monotonic() - began
    await worker.aclose()
    return [
        ("calls of an idle tick", f"{calls / (ticks + warm):.2f}"),
        ("an idle tick", f"{took / ticks * 1000:.1f} ms"),
        (f"memory after {ticks:,} ticks", f"{growth:+.2%}"),
    ]


async def fill(
    scratch: Scratch, job_type: str, jobs: int, payload: dict[str, object] | None = None
) -> None:
    """Publish the types and enqueue jobs in bulk, as a user would."""
    worker = Worker(scratch.settings, registry=bench_registry())
    await worker.register()
    await worker.aclose()
    client = QueueClient(scratch.settings)
    queue = client.acting_as(user_token())
    for start in range(0, jobs, 1000):
        batch = [NewJob(job_type=job_type, payload=payload or {})] * min(1000, jobs - start)
        await queue.enqueue_many(WORKSPACE, batch)
    await client.aclose()
