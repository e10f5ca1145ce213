"""The queue's SQL functions beside other queues: one Postgres, rounds in turns, medians, ratios.

`make bench` fetches the others into a folder of their own under the system's temporary folder. One
connection each, no-op jobs, every queue by its own bulk call of 1,000; drained in batches of 500.
Beside the rate is the CPU of a drained job, worker and Postgres together: on a busy machine
that is the figure to trust. Postgres has its defaults; ours has events and messages on.
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

from infra.bench.scratch import prepared
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
#: What a completed job keeps: all tables and their indexes, apart from the feed of some hours.
KEPT = """
  select sum(pg_total_relation_size(c.oid)) filter (where c.relname <> 'feed'),
    sum(pg_total_relation_size(c.oid)) filter (where c.relname = 'feed')
  from pg_class as c
  where c.relkind = 'r' and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)
"""


class Seen(NamedTuple):
    """Jobs enqueued and drained a second, and CPU microseconds of a drained job."""

    fill: float
    drain: float
    cost: float


class Meter:
    """CPU seconds of a Postgres: its living processes, and those that have ended."""

    def __init__(self, server: Postgres) -> None:
        assert server.process is not None
        self.postmaster = psutil.Process(server.process.pid)

    def read(self) -> float:
        """CPU seconds so far."""
        own = self.postmaster.cpu_times()
        total: float = own.user + own.system + own.children_user + own.children_system
        for child in self.postmaster.children():
            with suppress(psutil.NoSuchProcess):
                total += sum(child.cpu_times()[:2])
        return total


def ours(meter: Meter, url: str, jobs: int, *, workers: int = 1) -> Seen:
    """Fill and drain through the SQL functions, each worker on a connection of its own."""
    with ExitStack() as held:
        opened = (psycopg.connect(url, autocommit=True) for _ in range(workers))
        sessions = [held.enter_context(session) for session in opened]
        for session in sessions:
            set_json_loads(from_json, session)  # as `minutehand.queue` reads and writes
            set_json_dumps(to_json, session)
        began = time.perf_counter()
        fill(sessions[0], jobs)
        filled = time.perf_counter() - began
        before, cpu, began = meter.read(), time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            done = sum(pool.map(work, sessions, [BATCH] * workers))
        seconds = time.perf_counter() - began
        spent = time.process_time() - cpu + meter.read() - before
        return Seen(jobs / filled, done / seconds, spent / done * 1e6)


def fill(session: psycopg.Connection[Any], jobs: int, *, workspace: UUID = ACME) -> None:
    """Enqueue by bulks of 1,000."""
    items = Jsonb([{"job_type": "bench", "payload": {}}] * 1000)
    for _ in range(0, jobs, 1000):
        session.execute("select public.enqueue_jobs(%s, %s, 'ids')", (workspace, items))


def work(session: psycopg.Connection[Any], batch: int) -> int:
    """Settle what the last call leased and lease the next, until nothing is left."""
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
            {"job_id": one["job"]["id"], "fence": one["fence"], "outcome": "completed"}
            for one in (row[0]["lease"]["leases"] if row else [])
        ]
    return done


class Peers(NamedTuple):
    """Where the other queues are installed."""

    folder: Path

    def python(self) -> Path:
        """An interpreter with PgQueuer and its driver, installed at the first call."""
        interpreter = self.folder / "pgqueuer" / "bin" / "python"
        if not interpreter.exists():
            uv = str(Path(sys.executable).with_name("uv"))
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(interpreter.parents[1])])
            _run([uv, "pip", "install", "--quiet", "--python", str(interpreter), *PGQUEUER])
        return interpreter

    def node(self) -> Path:
        """A folder with the npm packages."""
        home = self.folder / "node"
        if not (home / "node_modules" / "pg-boss").exists():
            home.mkdir(parents=True, exist_ok=True)
            (home / "package.json").write_text('{"private": true}')
            npm = str(Path(sys.executable).with_name("npm"))
            _run([npm, "install", "--ignore-scripts", "--loglevel=error", *NODE_PACKAGES], cwd=home)
        return home

    def program(self, what: str, name: str) -> tuple[list[str], Path | None]:
        """The command that drains or makes single calls, and where it runs."""
        if name in NODE_PEERS:
            return [str(node_binary()), str(HERE / "peers.mjs"), what, name], self.node()
        return [str(self.python()), str(HERE / "peers.py"), what, name], None

    def drain(self, meter: Meter, name: str, url: str, jobs: int, *how: str) -> Seen:
        """Fill and drain with a peer's program; RuntimeError with its last line if it failed."""
        command, cwd = self.program("drain", name)
        command += [url, str(jobs), *(how or ("0", "tuned"))]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            before = 0.0
            for line in process.stdout:
                if line.startswith("FILLED"):
                    before = meter.read()
                elif line.startswith("SEEN"):
                    spent, seen = meter.read() - before, json.loads(line.removeprefix("SEEN"))
                    cost = (spent + seen["cpu"]) / seen["done"] * 1e6
                    return Seen(jobs / seen["fill"], seen["done"] / seen["drain"], cost)
            raise RuntimeError((process.stderr.read().strip() or "failed").splitlines()[-1])

    def single(self, name: str, url: str, calls: int, clients: int) -> float:
        """Enqueue calls a second, one job each; ours over PgQueuer's driver."""
        command, cwd = self.program("single", name)
        said = _run([*command, url, str(calls), str(clients)], cwd=cwd)
        return float(said.split("SEEN")[1])


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
    """One server; every measurement gets a fresh database on it."""

    def __init__(self, folder: Path) -> None:
        self.server = Postgres(folder)
        self.server.start()
        self.number = 0
        url = prepared(self.server, "bench_template")
        with psycopg.connect(url, autocommit=True) as connection:
            types = Jsonb([{"job_type": "bench"}])
            connection.execute("select public.register_job_types(%s)", (types,))
        self.meter = Meter(self.server)

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """A new database for one queue: with our migrations where it is ours, else empty."""
        self.number += 1
        database = f"bench_{self.number}"
        template = "template bench_template" if name.startswith("minutehand") else ""
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(f"create database {database} {template}".encode())
            yield self.server.url(database=database)
            connection.execute(f"drop database {database} with (force)".encode())

    def drain(self, peers: Peers, jobs: int, name: str) -> Seen:
        """One round of one queue."""
        with self.database(name) as url:
            if name.startswith("minutehand"):
                return ours(self.meter, url, jobs, workers=2 if "two" in name else 1)
            return peers.drain(self.meter, name, url, jobs)

    def kept(self, jobs: int = 10_000) -> tuple[float, float]:
        """Bytes of a completed job in steady state, and in the feed beside them."""
        sizes, connect = [], psycopg.connect
        with self.database("minutehand") as url, connect(url, autocommit=True) as connection:
            for _ in range(3):
                fill(connection, jobs)
                work(connection, BATCH)
                connection.execute("vacuum")
                row = connection.execute(KEPT).fetchone() or (0, 0)
                sizes.append((int(row[0]), int(row[1] or 0)))
            return (sizes[2][0] - sizes[1][0]) / jobs, (sizes[2][1] - sizes[1][1]) / jobs


def _rounds(
    number: int, names: tuple[str, ...], measure: Callable[[str], object]
) -> dict[str, list[Any]]:
    """Each queue's measurements, in turns; a queue that fails is omitted, with its reason."""
    seen: dict[str, list[Any]] = {name: [] for name in names}
    for _ in range(number):
        for name in list(seen):
            try:
                seen[name].append(measure(name))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                del seen[name]
                print(f"{name}: not measured: {str(error)[:200]}", flush=True)
    return seen


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
            for name, seen in rows.items():
                pairs = zip(columns(*seen), columns(*rows.get("pgqueuer", seen)), strict=True)
                cells = [f"{median(a):,.0f} ({median(a) / median(b):.2f})" for a, b in pairs]
                print(f"{name:<26}" + "".join(f"{cell:>16}" for cell in cells), flush=True)

            print("\nenqueue calls a second, one job each: one client, sixteen")
            singles = tuple(name for name in names if "two" not in name)

            def single(name: str) -> list[float]:
                found = []
                for clients, calls in ((1, options.calls // 4), (16, options.calls)):
                    with bench.database(name) as url:
                        found.append(peers.single(name, url, calls, clients))
                return found

            for name, both in _rounds(options.rounds, singles, single).items():
                one, many = (median(found) for found in zip(*both, strict=True))
                print(f"{name:<26}{one:>16,.0f}{many:>16,.0f}", flush=True)

            job, feed = bench.kept()
            print(f"\na completed job keeps {job:,.0f} bytes, {feed:,.0f} of feed for hours")
        finally:
            bench.server.destroy()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
