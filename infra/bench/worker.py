"""Compares our worker with workers of other queues, by jobs per second and CPU time per job.

The measured cases differ in the following respects:

- calls over HTTPS by the local gateway, or over a connection to Postgres
- default options, or tuned options (ours with 200 slots)
- jobs that do nothing, or that take 5 ms or 100 ms
- several processes

`make bench` installs the packages of the other queues into the system's temporary folder. If this
file runs as a module, the process is the measured worker, with the loop of `minutehand serve` and
one processor.
"""

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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
from psycopg.types.json import Jsonb

from infra.bench.scratch import Scratch, scratch_project
from minutehand.config import Settings
from minutehand.local.users import ACME
from minutehand.log import configure_logging
from minutehand.node import node_binary
from minutehand.queue.direct import DirectApi, listen
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.loop import tune_gc
from supabase_local.postgres import Postgres

HERE = Path(__file__).parent
CACHE = Path(tempfile.gettempdir()) / "minutehand-bench-peers"
PGQUEUER = "pgqueuer[asyncpg]==1.6.0"
NODE_PACKAGES = ("graphile-worker@0.18.0", "pg-boss@12.35.0", "pg@8")
NODE_PEERS = ("pg-boss", "graphile-worker")
PEERS = ("pgqueuer", *NODE_PEERS)
LEFT = "select exists (select from queue.ready) or exists (select from queue.leases)"
WAL = "select pg_current_wal_insert_lsn() - '0/0'"

Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A configuration of our worker that the benchmark measures."""

    how: str
    way: str = "shipped"
    ms: int = 0
    processes: int = 1

    @property
    def name(self) -> str:
        """Name of the case in the printed tables."""
        more = f", {self.processes} processes" if self.processes > 1 else ""
        return f"{self.how}, {self.way}, {self.ms} ms{more}"


class Meter:
    """Counts the CPU seconds of a Postgres server, including its processes that have ended."""

    def __init__(self, server: Postgres) -> None:
        assert server.process is not None
        self.postmaster = psutil.Process(server.process.pid)

    def read(self) -> float:
        """Return the CPU seconds that the Postgres server has used so far."""
        times = self.postmaster.cpu_times()
        total: float = times.user + times.system + times.children_user + times.children_system
        for child in self.postmaster.children():
            with suppress(psutil.NoSuchProcess):
                total += sum(child.cpu_times()[:2])
        return total


class Peers(NamedTuple):
    """Installations of the packages of pg-boss, graphile-worker and other job queues."""

    folder: Path

    def python(self) -> Path:
        """Return a Python interpreter with PgQueuer and its database driver.

        The first call of this method installs both packages.
        """
        interpreter = self.folder / "pgqueuer" / "bin" / "python"
        if not interpreter.exists():
            uv = str(Path(sys.executable).with_name("uv"))
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(interpreter.parents[1])])
            _run([uv, "pip", "install", "--quiet", "--python", str(interpreter), PGQUEUER])
        return interpreter

    def node(self) -> Path:
        """Return a folder with the npm packages of other queues, which the first call installs."""
        home = self.folder / "node"
        if not (home / "node_modules" / "pg-boss").exists():
            home.mkdir(parents=True, exist_ok=True)
            (home / "package.json").write_text('{"private": true}')
            npm = str(Path(sys.executable).with_name("npm"))
            _run([npm, "install", "--ignore-scripts", "--loglevel=error", *NODE_PACKAGES], cwd=home)
        return home

    def drain(self, meter: Meter, name: str, url: str, jobs: int, ms: int, way: str) -> Figures:
        """Enqueue jobs, and run all of them with another queue's worker.

        Raises:
            RuntimeError: The worker failed. The error's message is the last line of the worker's
                output.
        """
        command, cwd = [str(self.python()), str(HERE / "peers.py")], None
        if name in NODE_PEERS:
            command, cwd = [str(node_binary()), str(HERE / "peers.mjs")], self.node()
        command += [name, url, str(jobs), str(ms), way]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            before = 0.0
            for line in process.stdout:
                if line.startswith("FILLED"):
                    before = meter.read()
                elif line.startswith("SEEN"):
                    cpu, result = meter.read() - before, json.loads(line.removeprefix("SEEN"))
                    cost = (cpu + result["cpu"]) / result["done"] * 1e6
                    return {"jobs per second": result["done"] / result["drain"], "all": cost}
            raise RuntimeError((process.stderr.read().strip() or "failed").splitlines()[-1])


def _run(command: list[str], cwd: Path | None = None) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "NODE_OPTIONS": "--use-system-ca"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=900
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip() or "failed")[-300:])


def fill(session: psycopg.Connection[Any], jobs: int) -> None:
    """Enqueue jobs in groups of 1,000."""
    items = Jsonb([{"job_type": "bench", "payload": {}}] * 1000)
    for _ in range(0, jobs, 1000):
        session.execute("select public.enqueue_jobs(%s, %s, 'ids')", (ACME, items))


@contextmanager
def workers(project: Scratch, case: Case) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the worker processes of a case. Each process waits for a line on its standard input."""
    environment = {**os.environ, **project.environment, "BENCH_MS": str(case.ms)}
    environment["WORKER_CONCURRENCY"] = "200" if case.way == "tuned" else ""
    environment["MINUTEHAND_APPS"] = ""
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


def measure(project: Scratch, jobs: int, case: Case) -> Figures:
    """Run jobs with the worker processes of a case until no job is left."""
    with project.connect() as session, workers(project, case) as processes:
        fill(session, jobs)
        session.execute("vacuum analyze")
        assert project.gateway.process is not None
        meter, gateway = Meter(project.postgres), project.gateway.process.pid

        def read() -> tuple[float, float, float]:
            return meter.read(), _cpu(gateway), sum(_cpu(process.pid) for process in processes)

        before, wal, started = read(), _query(session, WAL), time.perf_counter()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
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
    """Run jobs of another queue with its own worker, in a separate database on the same server."""
    with psycopg.connect(project.postgres.url(), autocommit=True) as session:
        session.execute("drop database if exists peer with (force)")
        session.execute("create database peer")
    url = project.postgres.url(database="peer")
    return Peers(CACHE).drain(Meter(project.postgres), name, url, jobs, ms, way)


def _query(session: psycopg.Connection[Any], query: str) -> Any:
    return session.execute(query.encode()).fetchall()[0][0]


def _cpu(process: int) -> float:
    return float(sum(psutil.Process(process).cpu_times()[:2]))


async def work() -> None:
    """Run the worker until it is killed."""
    settings = Settings.from_env(os.environ)
    configure_logging("INFO", stream=io.StringIO())
    seconds = int(os.environ["BENCH_MS"]) / 1000
    registry = Registry()

    @registry.processor("bench", payload=dict)
    async def bench(job: Job[Any], ctx: JobContext) -> None:
        if seconds:
            await asyncio.sleep(seconds)

    options = TickOptions(concurrency=settings.worker_concurrency, ends_blocked=True)
    url = os.environ.get("DATABASE_URL")
    api = DirectApi(url, schema=settings.schema_name) if url else None
    queue = WorkerQueue(settings, api=api)
    worker = Worker(settings, registry=registry, queue=queue, options=options)
    tune_gc()
    await worker.register()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    wakeups = asyncio.Event()
    listener = asyncio.create_task(listen(url, wakeups.set)) if url else None
    await worker.run_forever(wakeups)
    if listener is not None:
        listener.cancel()


def list_runs(project: Scratch, jobs: int) -> dict[str, Callable[[], Figures]]:
    """Return the measurements of one round by name.

    A case whose jobs take 100 ms runs a tenth of `jobs`, but at least 1,000.
    """
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
    cases += [(jobs, Case("direct", processes=count)) for count in (2, 4)]
    return {case.name: partial(measure, project, count, case) for count, case in cases} | runs


def main() -> None:
    """Print the medians of all rounds.

    The arguments of the command are the number of jobs per round and the number of rounds.
    """
    defaults = ("10000", "3")[len(sys.argv) - 1 :]
    jobs, rounds = (int(argument) for argument in (*sys.argv[1:], *defaults))
    logging.disable(logging.INFO)
    results: dict[str, list[Figures]] = defaultdict(list)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder, scratch_project(Path(folder)) as project:
        runs = list_runs(project, jobs)
        for _ in range(rounds):
            for name, run in runs.items():
                results[name].append(run())
                print(name, json.dumps(results[name][-1]), flush=True)
                load.append(os.getloadavg()[0])
    medians = {
        name: {key: statistics.median(figures[key] for figures in rows) for key in rows[0]}
        for name, rows in results.items()
    }
    print()
    for name, figures in medians.items():
        print(f"{name}: {json.dumps({key: round(value) for key, value in figures.items()})}")
    print(f"load of the machine: {min(load):.1f} to {max(load):.1f} (including ours)")


if __name__ == "__main__":
    asyncio.run(work())
