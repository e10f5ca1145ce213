"""Calls of one job: enqueued by one and by 16 clients, leased and settled by 1, 16 and 64 workers.

`python -m infra.bench.singles` runs every queue in turns on one Postgres with its defaults, prints
the medians, and of ours how many active calls waited for a lock. Peers are fetched as by `queues`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from infra.bench.queues import BROADCASTS, Bench, Peers
from minutehand.local.postgres import Postgres
from minutehand.local.users import ACME
from minutehand.node import node_binary

HERE = Path(__file__).parent / "queue_peers"
QUEUES = (
    "minutehand, with broadcast",
    "minutehand",
    "pgqueuer",
    "pg-boss",
    "graphile-worker",
    "procrastinate",
    "dbos",
)
NODE = ("pg-boss", "graphile-worker")
WARM_CALLS = 10


def enqueue_rate(bench: Bench, name: str, calls: int, clients: int) -> float:
    """Enqueue calls a second of one queue, of one job each.

    Raises:
        RuntimeError: The peer could not be fetched or failed.
    """
    ours = name.startswith("minutehand")
    with bench.database(minutehand=ours, broadcast=BROADCASTS.get(name, "")) as url:
        program: list[Any]
        if name in NODE:
            program = [node_binary(), HERE / "single_peer.mjs", name]
        else:
            # ours over PgQueuer's driver, so that no difference is the client's
            python = bench.peers.python("pgqueuer" if ours else name)
            program = [python, HERE / "single_peer.py", name.split(",")[0]]
        done = subprocess.run(
            [*map(str, program), url, str(calls), str(clients)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            cwd=bench.peers.node() if name in NODE else None,
        )
    for line in done.stdout.splitlines():
        if line.startswith("SEEN"):
            return float(line.removeprefix("SEEN"))
    raise RuntimeError((done.stderr.strip() or "failed").splitlines()[-1][:120])


@dataclass(slots=True)
class Leasing:
    """What workers reached that lease one job at a time."""

    rate: float
    cpu_ms: float
    """Postgres's CPU a job, lease and settle."""
    waiting: float
    """Of the calls under way the share that waited for a lock."""


def lease_rate(
    bench: Bench, workers: int, jobs: int, *, broadcast: str = "within the budget"
) -> Leasing:
    """Settle one job and lease the next, on a warm connection for each worker.

    A session decides on the plans it keeps at its sixth call, so ten go before.
    """
    with bench.database(minutehand=True, broadcast=broadcast) as url:
        with psycopg.connect(url, autocommit=True) as filler:
            for _ in range(0, jobs + 2 * WARM_CALLS * workers, 1000):
                filler.execute(
                    "select public.enqueue_jobs(%s, %s, 'ids')",
                    (ACME, Jsonb([{"job_type": "bench"}] * 1000)),
                )
        gate = threading.Barrier(workers + 1)
        connections = [psycopg.connect(url, autocommit=True) for _ in range(workers)]

        def work(connection: psycopg.Connection[Any]) -> None:
            tick = str(uuid.uuid4())
            request = {"worker_id": f"bench-{tick}", "tick_id": tick, "limit": 1}
            items: list[dict[str, Any]] = []
            for call in range(1, 1 + WARM_CALLS + jobs // workers):
                if call == 1 + WARM_CALLS:
                    gate.wait()
                row = connection.execute(
                    "select public.settle_jobs(%s)",
                    (Jsonb({"items": items, "lease": {**request, "call": call}}),),
                ).fetchone()
                items = [
                    {"job_id": one["job"]["id"], "fence": one["fence"], "outcome": "completed"}
                    for one in (row[0]["lease"]["leases"] if row else [])
                ]

        with ThreadPoolExecutor(workers) as pool, psycopg.connect(url, autocommit=True) as watch:
            under_way = [pool.submit(work, connection) for connection in connections]
            gate.wait()
            before, began = bench.meter.read(), time.perf_counter()
            active = waiting = 0
            while not all(one.done() for one in under_way):
                row = watch.execute(
                    "select count(*), count(*) filter (where wait_event_type = 'Lock')"
                    " from pg_stat_activity where state = 'active' and pid <> pg_backend_pid()"
                    " and datname = current_database()"
                ).fetchone()
                active, waiting = active + (row or (0, 0))[0], waiting + (row or (0, 0))[1]
                time.sleep(0.02)
            seconds, cpu = time.perf_counter() - began, bench.meter.read() - before
            for one in under_way:
                one.result()
        for connection in connections:
            connection.close()
        done = jobs // workers * workers
        return Leasing(done / seconds, cpu / done * 1000, waiting / max(1, active))


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queues", nargs="*", default=list(QUEUES))
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "minutehand-bench-peers"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="minutehand-bench-") as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            bench = Bench(server, Peers(options.cache))
            bench.prepare()
            rates: dict[tuple[str, int], list[float]] = defaultdict(list)
            missing: dict[str, str] = {}
            leases: dict[int, list[Leasing]] = defaultdict(list)
            for _ in range(options.rounds):
                for name in options.queues:
                    try:
                        for clients in (1, 16):
                            calls = options.calls if clients > 1 else options.calls // 4
                            seen = enqueue_rate(bench, name, calls, clients)
                            rates[name, clients].append(seen)
                    except (RuntimeError, subprocess.TimeoutExpired) as error:
                        missing[name] = str(error)[:120]
                for workers in (1, 16, 64):
                    jobs = max(30 * workers, options.calls // 2)
                    leases[workers].append(lease_rate(bench, workers, jobs))
        finally:
            server.destroy()
    print(f"enqueues a second, one job a call, medians of {options.rounds}")
    for name in options.queues:
        if name in missing:
            print(f"{name:<28} not measured: {missing[name]}")
            continue
        one, many = (statistics.median(rates[name, clients]) for clients in (1, 16))
        print(f"{name:<28} one client {one:>7,.0f}   16 clients {many:>7,.0f}   {many / one:>5.1f}")
    print("ours, with broadcast: jobs a second, leased and settled one by one")
    for workers, runs in leases.items():
        print(
            f"{workers:>3} workers {statistics.median(one.rate for one in runs):>7,.0f}/s"
            f"   {statistics.median(one.cpu_ms for one in runs):.2f} ms of Postgres's CPU a job"
            f"   {statistics.median(one.waiting for one in runs):.1%} of calls waited for a lock"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
