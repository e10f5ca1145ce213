"""Comparison of the queue's SQL functions with other queues, in rounds on one Postgres.

`make bench` installs the others into the system's temporary folder. Each queue has one connection
and no-op jobs, enqueues in bulk calls of 1,000, and drains in batches of 500. The tables have
medians and ratios. The CPU time per drained job, of worker and Postgres together, is more reliable
on a busy machine than the rate. Postgres has its default settings. Ours has events and messages on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psutil
import psycopg
from psycopg.types.json import Jsonb, set_json_dumps, set_json_loads
from pydantic_core import from_json, to_json

from infra.bench.scratch import prepare_database
from minutehand.local.users import ACME
from minutehand.node import node_binary
from supabase_local.postgres import Postgres

HERE = Path(__file__).parent
CACHE = Path(tempfile.gettempdir()) / "minutehand-bench-peers"
BATCH = 500
PGQUEUER = ("pgqueuer[asyncpg]==1.6.0", "psycopg[binary]", "procrastinate==3.10.0")
NODE_PACKAGES = ("graphile-worker@0.18.0", "pg-boss@12.35.0", "pg@8")
NODE_PEERS = ("pg-boss", "graphile-worker")
QUEUES = ("minutehand", "minutehand, two workers", "pgqueuer", *NODE_PEERS)
#: Query for the bytes of all tables with their indexes, except the feed, and of the feed.
SIZE = """
  select sum(pg_total_relation_size(c.oid)) filter (where c.relname <> 'feed'),
    sum(pg_total_relation_size(c.oid)) filter (where c.relname = 'feed')
  from pg_class as c
  where c.relkind = 'r' and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)
"""


class Result(NamedTuple):
    """Jobs enqueued and drained per second, and CPU microseconds per drained job."""

    fill: float
    drain: float
    cost: float


class Meter:
    """CPU seconds of a Postgres, including its ended processes."""

    def __init__(self, server: Postgres) -> None:
        assert server.process is not None
        self.postmaster = psutil.Process(server.process.pid)

    def read(self) -> float:
        """Return the CPU seconds so far."""
        times = self.postmaster.cpu_times()
        total: float = times.user + times.system + times.children_user + times.children_system
        for child in self.postmaster.children():
            with suppress(psutil.NoSuchProcess):
                total += sum(child.cpu_times()[:2])
        return total


def measure_engine(meter: Meter, url: str, jobs: int, *, workers: int = 1) -> Result:
    """Fill and drain through the SQL functions, with a connection per worker."""
    with ExitStack() as stack:
        connections = (psycopg.connect(url, autocommit=True) for _ in range(workers))
        sessions = [stack.enter_context(connection) for connection in connections]
        for session in sessions:
            set_json_loads(from_json, session)  # the functions that `minutehand.queue` uses
            set_json_dumps(to_json, session)
        started = time.perf_counter()
        fill(sessions[0], jobs)
        fill_seconds = time.perf_counter() - started
        before, cpu, started = meter.read(), time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            done = sum(pool.map(work, sessions, [BATCH] * workers))
        seconds = time.perf_counter() - started
        cpu_seconds = time.process_time() - cpu + meter.read() - before
        return Result(jobs / fill_seconds, done / seconds, cpu_seconds / done * 1e6)


def fill(session: psycopg.Connection[Any], jobs: int, *, workspace: UUID = ACME) -> None:
    """Enqueue jobs in bulks of 1,000."""
    items = Jsonb([{"job_type": "bench", "payload": {}}] * 1000)
    for _ in range(0, jobs, 1000):
        session.execute("select public.enqueue_jobs(%s, %s, 'ids')", (workspace, items))


def work(session: psycopg.Connection[Any], batch: int) -> int:
    """Settle the jobs of the last call and lease more, until the queue is empty."""
    request = {"worker_id": "bench", "tick_id": str(uuid.uuid4()), "limit": batch}
    items: list[dict[str, Any]] = []
    call = done = 0
    while call == 0 or items:
        call += 1
        row = session.execute(
            "select public.settle_jobs(%s)",
            (Jsonb({"items": items, "lease": {**request, "call": call}}),),
        ).fetchone()
        done += len(items)
        items = [
            {"job_id": lease["job"]["id"], "fence": lease["fence"], "outcome": "completed"}
            for lease in (row[0]["lease"]["leases"] if row else [])
        ]
    return done


class Peers(NamedTuple):
    """Installations of the other queues."""

    folder: Path

    def python(self) -> Path:
        """Return an interpreter with PgQueuer and its driver, installed on first use."""
        interpreter = self.folder / "pgqueuer" / "bin" / "python"
        if not interpreter.exists():
            uv = str(Path(sys.executable).with_name("uv"))
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(interpreter.parents[1])])
            _run([uv, "pip", "install", "--quiet", "--python", str(interpreter), *PGQUEUER])
        return interpreter

    def node(self) -> Path:
        """Return a folder with the npm packages, installed on first use."""
        home = self.folder / "node"
        if not (home / "node_modules" / "pg-boss").exists():
            home.mkdir(parents=True, exist_ok=True)
            (home / "package.json").write_text('{"private": true}')
            npm = str(Path(sys.executable).with_name("npm"))
            _run([npm, "install", "--ignore-scripts", "--loglevel=error", *NODE_PACKAGES], cwd=home)
        return home

    def program(self, measurement: str, name: str) -> tuple[list[str], Path | None]:
        """Return the command of a measurement and its working folder."""
        if name in NODE_PEERS:
            return [str(node_binary()), str(HERE / "peers.mjs"), measurement, name], self.node()
        return [str(self.python()), str(HERE / "peers.py"), measurement, name], None

    def drain(self, meter: Meter, name: str, url: str, jobs: int, *options: str) -> Result:
        """Fill and drain with a peer's program.

        Raises:
            RuntimeError: The program failed; the message is its last line.
        """
        command, cwd = self.program("drain", name)
        command += [url, str(jobs), *(options or ("0", "tuned"))]
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
                    return Result(jobs / result["fill"], result["done"] / result["drain"], cost)
            raise RuntimeError((process.stderr.read().strip() or "failed").splitlines()[-1])

    def single(self, name: str, url: str, calls: int, clients: int) -> float:
        """Return enqueue calls per second, one job each; ours use PgQueuer's driver."""
        command, cwd = self.program("single", name)
        output = _run([*command, url, str(calls), str(clients)], cwd=cwd)
        return float(output.split("SEEN")[1])


def _run(command: list[str], cwd: Path | None = None) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "NODE_OPTIONS": "--use-system-ca"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=900
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip() or "failed")[-300:])
    return done.stdout


class Bench:
    """A server with a new database for every measurement."""

    def __init__(self, folder: Path) -> None:
        self.server = Postgres(folder)
        self.server.start()
        self.number = 0
        url = prepare_database(self.server, "bench_template")
        with psycopg.connect(url, autocommit=True) as connection:
            types = Jsonb([{"job_type": "bench"}])
            connection.execute("select public.register_job_types(%s)", (types,))
        self.meter = Meter(self.server)

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Create a database for a queue, with our migrations for ours and empty for others."""
        self.number += 1
        database = f"bench_{self.number}"
        template = "template bench_template" if name.startswith("minutehand") else ""
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(f"create database {database} {template}".encode())
            yield self.server.url(database=database)
            connection.execute(f"drop database {database} with (force)".encode())

    def drain(self, peers: Peers, jobs: int, name: str) -> Result:
        """Fill and drain a queue once."""
        with self.database(name) as url:
            if name.startswith("minutehand"):
                return measure_engine(self.meter, url, jobs, workers=2 if "two" in name else 1)
            return peers.drain(self.meter, name, url, jobs)

    def size_per_job(self, jobs: int = 10_000) -> tuple[float, float]:
        """Return the bytes of a completed job in steady state, and its bytes in the feed."""
        sizes, connect = [], psycopg.connect
        with self.database("minutehand") as url, connect(url, autocommit=True) as connection:
            for _ in range(3):
                fill(connection, jobs)
                work(connection, BATCH)
                connection.execute("vacuum")
                row = connection.execute(SIZE).fetchone() or (0, 0)
                sizes.append((int(row[0]), int(row[1] or 0)))
            return (sizes[2][0] - sizes[1][0]) / jobs, (sizes[2][1] - sizes[1][1]) / jobs


def _rounds(
    number: int, names: tuple[str, ...], measure: Callable[[str], object]
) -> dict[str, list[Any]]:
    """Measure the queues in rounds; omit a queue that fails and print the reason."""
    results: dict[str, list[Any]] = {name: [] for name in names}
    for _ in range(number):
        for name in list(results):
            try:
                results[name].append(measure(name))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                del results[name]
                print(f"{name}: not measured: {str(error)[:200]}", flush=True)
    return results


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("--jobs", 10_000), ("--calls", 1_600), ("--rounds", 3)):
        parser.add_argument(option, type=int, default=default)
    parser.add_argument("--queues", nargs="*", default=list(QUEUES))
    options = parser.parse_args()
    names = tuple(options.queues)
    median, columns = statistics.median, partial(zip, strict=True)
    with tempfile.TemporaryDirectory(prefix="minutehand-bench-") as folder:
        bench, peers = Bench(Path(folder)), Peers(CACHE)
        try:
            print(f"{options.jobs:,} no-op jobs, medians of {options.rounds}; (÷ pgqueuer)")
            print(f"{'':<26}{'bulk/s':>16}{'drain/s':>16}{'CPU µs a job':>16}")
            drain = partial(bench.drain, peers, options.jobs)
            rows = _rounds(options.rounds, names, drain)
            for name, row in rows.items():
                pairs = zip(columns(*row), columns(*rows.get("pgqueuer", row)), strict=True)
                cells = [f"{median(a):,.0f} ({median(a) / median(b):.2f})" for a, b in pairs]
                print(f"{name:<26}" + "".join(f"{cell:>16}" for cell in cells), flush=True)

            print("\nenqueue calls per second, one job each: one client, sixteen")
            singles = tuple(name for name in names if "two" not in name)

            def single(name: str) -> list[float]:
                rates = []
                for clients, calls in ((1, options.calls // 4), (16, options.calls)):
                    with bench.database(name) as url:
                        rates.append(peers.single(name, url, calls, clients))
                return rates

            for name, rates in _rounds(options.rounds, singles, single).items():
                single_rate, parallel_rate = (median(column) for column in columns(*rates))
                print(f"{name:<26}{single_rate:>16,.0f}{parallel_rate:>16,.0f}", flush=True)

            job, feed = bench.size_per_job()
            print(f"\na completed job takes {job:,.0f} bytes, and {feed:,.0f} of feed for hours")
        finally:
            bench.server.destroy()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
