"""Comparison of our worker with other queues' workers: jobs per second, CPU per job by part.

The cases differ in these respects:

- over HTTPS by the local gateway, or directly
- as shipped, or tuned (ours with 200 slots)
- jobs that do nothing, or take 5 ms or 100 ms
- two tenants, a synchronous processor, several processes

Then it measures the time from an enqueue to the processor's first line, and the worker's memory at
the end. Run as a module, this file is the worker, with the loop of `minutehand serve` and one
processor.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg

from infra.bench.queues import CACHE, Meter, Peers, fill
from infra.bench.scratch import Scratch, scratch_project
from minutehand.config import Settings
from minutehand.local.users import ACME, GLOBEX
from minutehand.log import configure_logging
from minutehand.queue.direct import DirectApi, listen
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.loop import tune_gc

PEERS = ("pgqueuer", "procrastinate", "pg-boss", "graphile-worker")
LEFT = "select exists (select from queue.ready) or exists (select from queue.leases)"
WAL = "select pg_current_wal_insert_lsn() - '0/0'"
#: Polling interval of queues whose rate as shipped depends only on it.
PAUSES: Final = {"pg-boss": "polls every 2 s"}
ENQUEUE = "select public.enqueue_job(%s, 'bench', '{}')"

Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A way to run our worker."""

    how: str
    way: str = "shipped"
    ms: int = 0
    tenants: int = 1
    is_plain: bool = False
    processes: int = 1

    @property
    def name(self) -> str:
        """Name of the case in the output."""
        more = [", two tenants"] * (self.tenants > 1) + [", one def"] * self.is_plain
        more += [f", {self.processes} processes"] * (self.processes > 1)
        return f"{self.how}, {self.way}, {self.ms} ms{''.join(more)}"


@contextmanager
def workers(project: Scratch, case: Case) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the processes of a case, which wait for a line before they work."""
    environment = {**os.environ, **project.environment, "BENCH_MS": str(case.ms)}
    environment["WORKER_CONCURRENCY"] = "200" if case.way == "tuned" else ""
    environment |= {"MINUTEHAND_APPS": "", "BENCH_PLAIN": "yes" * case.is_plain}
    if case.how == "HTTPS":
        environment.pop("DATABASE_URL", None)
    command, pipe = [sys.executable, "-m", "infra.bench.worker"], subprocess.PIPE
    with ExitStack() as stack:
        processes = []
        for _ in range(case.processes):
            process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield processes


def go(process: subprocess.Popen[bytes], *, prints_starts: bool = False) -> None:
    """Let a process work, and optionally print the start of each job."""
    assert process.stdin is not None
    process.stdin.write(b"print\n" if prints_starts else b"go\n")
    process.stdin.flush()


def measure(project: Scratch, jobs: int, case: Case) -> Figures:
    """Drain jobs with the processes of a case."""
    with project.connect() as session, workers(project, case) as processes:
        for workspace in (ACME, GLOBEX)[: case.tenants]:
            fill(session, jobs // case.tenants, workspace=workspace)
        session.execute("vacuum analyze")
        assert project.gateway.process is not None
        meter, gateway = Meter(project.postgres), project.gateway.process.pid

        def read() -> tuple[float, float, float]:
            return meter.read(), _cpu(gateway), sum(_cpu(process.pid) for process in processes)

        before, wal, started = read(), _query(session, WAL), time.perf_counter()
        for process in processes:
            go(process)
        while session.execute(LEFT).fetchall() != [(False,)]:
            time.sleep(0.02)
        seconds, after = time.perf_counter() - started, read()
        wal = _query(session, WAL) - wal
        memory = max(psutil.Process(process.pid).memory_info().rss for process in processes) / 1e6
    parts = zip(("postgres", "gateway", "worker"), before, after, strict=True)
    cpu = {name: (end - start) / jobs * 1e6 for name, start, end in parts}
    more = {"all": sum(cpu.values()), "wal": float(wal) / jobs, "memory": memory}
    return {"jobs per second": jobs / seconds, **cpu, **more}


def measure_peer(project: Scratch, jobs: int, name: str, way: str, ms: int) -> Figures:
    """Drain with a peer's own worker, in its own database on the same server."""
    with psycopg.connect(project.postgres.url(), autocommit=True) as session:
        session.execute("drop database if exists peer with (force)")
        session.execute("create database peer")
    url = project.postgres.url(database="peer")
    result = Peers(CACHE).drain(Meter(project.postgres), name, url, jobs, str(ms), way)
    return {"jobs per second": result.drain, "all": result.cost}


def measure_wait(project: Scratch, count: int, how: str) -> Figures:
    """Measure milliseconds from an enqueue to the processor's first line, of an idle worker."""
    waits = []
    with project.connect() as session, workers(project, Case(how)) as [process]:
        assert process.stdout is not None
        go(process, prints_starts=True)
        time.sleep(1)  # until it listens
        for _ in range(count):
            started = time.time()
            session.execute(ENQUEUE, (ACME,))
            waits.append((float(process.stdout.readline()) - started) * 1000)
            while session.execute(LEFT).fetchall() != [(False,)]:
                time.sleep(0.02)
    cuts = statistics.quantiles(waits, n=20)
    return {"p50": statistics.median(waits), "p95": cuts[-1]}


def _query(session: psycopg.Connection[Any], query: str) -> Any:
    return session.execute(query.encode()).fetchall()[0][0]


def _cpu(process: int) -> float:
    return float(sum(psutil.Process(process).cpu_times()[:2]))


async def work() -> None:
    """Run the worker."""
    settings = Settings.from_env(os.environ)
    configure_logging("INFO", stream=io.StringIO())
    seconds, prints_starts = int(os.environ["BENCH_MS"]) / 1000, False
    registry = Registry()

    async def bench(job: Job[Any], ctx: JobContext) -> None:
        if prints_starts:
            print(time.time(), flush=True)
        if seconds:
            await asyncio.sleep(seconds)

    def plain(job: Job[Any], ctx: JobContext) -> None:
        if seconds:
            time.sleep(seconds)

    registry.processor("bench", payload=dict)(plain if os.environ["BENCH_PLAIN"] else bench)
    options = TickOptions(concurrency=settings.worker_concurrency, ends_blocked=True)
    url = os.environ.get("DATABASE_URL")
    api = DirectApi(url, schema=settings.schema_name) if url else None
    queue = WorkerQueue(settings, api=api)
    worker = Worker(settings, registry=registry, queue=queue, options=options)
    tune_gc()
    await worker.register()
    print("ready", flush=True)
    prints_starts = await asyncio.to_thread(sys.stdin.readline) == "print\n"
    wakeups = asyncio.Event()
    listener = asyncio.create_task(listen(url, wakeups.set)) if url else None
    await worker.run_forever(wakeups)
    if listener is not None:
        listener.cancel()


def list_runs(project: Scratch, jobs: int) -> dict[str, Callable[[], Figures]]:
    """Return the measurements of a round by name; with 100 ms, there are a tenth of the jobs."""
    runs: dict[str, Callable[[], Figures]] = {}
    cases = []
    for way in ("shipped", "tuned"):
        for ms in (0, 5, 100):
            count = jobs if ms < 100 else max(1000, jobs // 10)
            for how in ("HTTPS", "direct"):
                cases.append((count, Case(how, way, ms)))
            for name in PEERS:
                run = partial(measure_peer, project, count, name, way, ms)
                runs[f"{name}, {way}, {ms} ms"] = run
    direct = Case("direct")
    cases += [(jobs, replace(direct, tenants=2)), (jobs, replace(direct, is_plain=True))]
    cases += [(jobs, replace(direct, processes=count)) for count in (2, 4)]
    return {case.name: partial(measure, project, count, case) for count, case in cases} | runs


def table(medians: dict[str, Figures]) -> Iterator[str]:
    """Yield the rows of the pages' table from the medians."""
    yield "| One process, jobs per second (CPU per job) | Shipped | 5 ms | 100 ms | Tuned | 5 ms |"
    yield "|---|--:|--:|--:|--:|--:|"
    cells = (("shipped", 0), ("shipped", 5), ("shipped", 100), ("tuned", 0), ("tuned", 5))
    for name in ("HTTPS", "direct", *PEERS):
        row = []
        for way, ms in cells:
            figures = medians[f"{name}, {way}, {ms} ms"]
            text = f"{figures['jobs per second']:,.0f} ({figures['all']:,.0f} µs)"
            row.append(PAUSES.get(name, text) if way == "shipped" else text)
        yield f"| {name} | {' | '.join(row)} |"


def main() -> None:
    """Print the medians of the rounds and the table; arguments: jobs per round, rounds."""
    defaults = ("10000", "3")[len(sys.argv) - 1 :]
    jobs, rounds = (int(argument) for argument in (*sys.argv[1:], *defaults))
    logging.disable(logging.INFO)
    results: dict[str, list[Figures]] = defaultdict(list)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder, scratch_project(Path(folder)) as project:
        runs = list_runs(project, jobs)
        for how in ("HTTPS", "direct"):
            runs[f"{how}, first line, ms"] = partial(measure_wait, project, 40, how)
        for _ in range(rounds):
            for name, run in runs.items():
                results[name].append(run())
                print(name, json.dumps(results[name][-1]), flush=True)
                load.append(os.getloadavg()[0])
        last = measure(project, 10 * jobs, Case("direct"))
    medians = {
        name: {key: statistics.median(figures[key] for figures in rows) for key in rows[0]}
        for name, rows in results.items()
    }
    print()
    for name, figures in medians.items():
        print(f"{name}: {json.dumps({key: round(value) for key, value in figures.items()})}")
    print(
        f"memory after {10 * jobs:,} jobs: {last['memory']:.0f} MB; WAL {last['wal']:.0f} B per job"
    )
    print(f"load of the machine: {min(load):.1f} to {max(load):.1f} (including ours)\n")
    print("\n".join(table(medians)))


if __name__ == "__main__":
    asyncio.run(work())
