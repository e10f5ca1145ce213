"""The Worker that a user runs beside other queues' workers: jobs a second, CPU of a job by part.

Run as a module it is that worker: `minutehand serve`'s loop with one processor. Over HTTPS by the
local gateway, and directly; as shipped and tuned, ours by 200 slots; jobs of nothing, of 5 ms and
of 100 ms; of two tenants; by a plain function; by several processes. Then what a user waits for:
from an enqueue to the processor's first line, and the memory that a worker has in the end.
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
from minutehand.worker.loop import collect_seldom

PEERS = ("pgqueuer", "procrastinate", "pg-boss", "graphile-worker")
LEFT = "select exists (select from queue.ready) or exists (select from queue.leases)"
WAL = "select pg_current_wal_insert_lsn() - '0/0'"
#: As shipped, its rate is its pause between two looks.
PAUSES: Final = {"pg-boss": "looks each 2 s"}
ENQUEUE = "select public.enqueue_job(%s, 'bench', '{}')"

Seen = dict[str, float]


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
        """As it is printed."""
        more = [", two tenants"] * (self.tenants > 1) + [", one def"] * self.is_plain
        more += [f", {self.processes} processes"] * (self.processes > 1)
        return f"{self.how}, {self.way}, {self.ms} ms{''.join(more)}"


@contextmanager
def workers(project: Scratch, case: Case) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Its processes, which wait for a line."""
    environment = {**os.environ, **project.environment, "BENCH_MS": str(case.ms)}
    environment["WORKER_CONCURRENCY"] = "200" if case.way == "tuned" else ""
    environment |= {"MINUTEHAND_APPS": "", "BENCH_PLAIN": "yes" * case.is_plain}
    if case.how == "HTTPS":
        environment.pop("DATABASE_URL", None)
    command, pipe = [sys.executable, "-m", "infra.bench.worker"], subprocess.PIPE
    with ExitStack() as held:
        found = []
        for _ in range(case.processes):
            made = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe)
            found.append(held.enter_context(made))
            held.callback(made.kill)
        for each in found:
            assert each.stdout is not None
            each.stdout.readline()
        yield found


def go(process: subprocess.Popen[bytes], *, says: bool = False) -> None:
    """Let it work, and maybe say when each job begins."""
    assert process.stdin is not None
    process.stdin.write(b"say\n" if says else b"go\n")
    process.stdin.flush()


def measure(project: Scratch, jobs: int, case: Case) -> Seen:
    """Drain `jobs` by its processes."""
    with project.connect() as session, workers(project, case) as processes:
        for workspace in (ACME, GLOBEX)[: case.tenants]:
            fill(session, jobs // case.tenants, workspace=workspace)
        session.execute("vacuum analyze")
        assert project.gateway.process is not None
        meter, gateway = Meter(project.postgres), project.gateway.process.pid

        def read() -> tuple[float, float, float]:
            return meter.read(), _cpu(gateway), sum(_cpu(each.pid) for each in processes)

        before, wal, began = read(), _one(session, WAL), time.perf_counter()
        for each in processes:
            go(each)
        while session.execute(LEFT).fetchall() != [(False,)]:
            time.sleep(0.02)
        seconds, after = time.perf_counter() - began, read()
        wal = _one(session, WAL) - wal
        memory = max(psutil.Process(each.pid).memory_info().rss for each in processes) / 1e6
    parts = zip(("postgres", "gateway", "worker"), before, after, strict=True)
    spent = {name: (end - start) / jobs * 1e6 for name, start, end in parts}
    more = {"all": sum(spent.values()), "wal": float(wal) / jobs, "memory": memory}
    return {"jobs a second": jobs / seconds, **spent, **more}


def measure_peer(project: Scratch, jobs: int, name: str, way: str, ms: int) -> Seen:
    """Drain by a peer's own worker, in a database of its own on the same server."""
    with psycopg.connect(project.postgres.url(), autocommit=True) as session:
        session.execute("drop database if exists peer with (force)")
        session.execute("create database peer")
    url = project.postgres.url(database="peer")
    seen = Peers(CACHE).drain(Meter(project.postgres), name, url, jobs, str(ms), way)
    return {"jobs a second": seen.drain, "all": seen.cost}


def measure_wait(project: Scratch, count: int, how: str) -> Seen:
    """Milliseconds from an enqueue to the processor's first line, of an idle worker."""
    waits = []
    with project.connect() as session, workers(project, Case(how)) as [process]:
        assert process.stdout is not None
        go(process, says=True)
        time.sleep(1)  # it listens
        for _ in range(count):
            began = time.time()
            session.execute(ENQUEUE, (ACME,))
            waits.append((float(process.stdout.readline()) - began) * 1000)
            while session.execute(LEFT).fetchall() != [(False,)]:
                time.sleep(0.02)
    cuts = statistics.quantiles(waits, n=20)
    return {"p50": statistics.median(waits), "p95": cuts[-1]}


def _one(session: psycopg.Connection[Any], query: str) -> Any:
    return session.execute(query.encode()).fetchall()[0][0]


def _cpu(process: int) -> float:
    return float(sum(psutil.Process(process).cpu_times()[:2]))


async def work() -> None:
    """Be the worker."""
    settings = Settings.from_env(os.environ)
    configure_logging("INFO", stream=io.StringIO())
    seconds, says = int(os.environ["BENCH_MS"]) / 1000, False
    registry = Registry()

    async def bench(job: Job[Any], ctx: JobContext) -> None:
        if says:
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
    collect_seldom()
    await worker.register()
    print("ready", flush=True)
    says = await asyncio.to_thread(sys.stdin.readline) == "say\n"
    wakeups = asyncio.Event()
    listener = asyncio.create_task(listen(url, wakeups.set)) if url else None
    await worker.run_forever(wakeups)
    if listener is not None:
        listener.cancel()


def runs_of(project: Scratch, jobs: int) -> dict[str, Callable[[], Seen]]:
    """What is measured in turns, by name; jobs of 100 ms are a tenth as many."""
    runs: dict[str, Callable[[], Seen]] = {}
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


def table(seen: dict[str, Seen]) -> Iterator[str]:
    """The rows of the pages' table, from the medians."""
    yield "| One process, jobs a second (CPU a job) | Shipped | 5 ms | 100 ms | Tuned | 5 ms |"
    yield "|---|--:|--:|--:|--:|--:|"
    cells = (("shipped", 0), ("shipped", 5), ("shipped", 100), ("tuned", 0), ("tuned", 5))
    for name in ("HTTPS", "direct", *PEERS):
        row = []
        for way, ms in cells:
            found = seen[f"{name}, {way}, {ms} ms"]
            said = f"{found['jobs a second']:,.0f} ({found['all']:,.0f} µs)"
            row.append(PAUSES.get(name, said) if way == "shipped" else said)
        yield f"| {name} | {' | '.join(row)} |"


def main() -> None:
    """Print the medians of rounds in turns, and the table; arguments: jobs a round, rounds."""
    jobs, rounds = (int(each) for each in (*sys.argv[1:], *("10000", "3")[len(sys.argv) - 1 :]))
    logging.disable(logging.INFO)
    seen: dict[str, list[Seen]] = defaultdict(list)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder, scratch_project(Path(folder)) as project:
        runs = runs_of(project, jobs)
        for how in ("HTTPS", "direct"):
            runs[f"{how}, first line, ms"] = partial(measure_wait, project, 40, how)
        for _ in range(rounds):
            for name, run in runs.items():
                seen[name].append(run())
                print(name, json.dumps(seen[name][-1]), flush=True)
                load.append(os.getloadavg()[0])
        last = measure(project, 10 * jobs, Case("direct"))
    medians = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for name, found in seen.items()
    }
    print()
    for name, found in medians.items():
        print(f"{name}: {json.dumps({key: round(value) for key, value in found.items()})}")
    print(
        f"memory after {10 * jobs:,} jobs: {last['memory']:.0f} MB; WAL {last['wal']:.0f} B a job"
    )
    print(f"load of the machine: {min(load):.1f} to {max(load):.1f} (ours included)\n")
    print("\n".join(table(medians)))


if __name__ == "__main__":
    asyncio.run(work())
