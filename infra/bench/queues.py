# ruff: noqa: E501 - commands and table rows stay on one line
"""The queue's SQL functions beside other queues: one Postgres, rounds in turns, medians, ratios.

`python -m infra.bench.queues` (`make bench-queue`) fetches the others into a folder of their
own under the system's temporary folder. One worker, no-op jobs, batches of 500 where a queue can.
Beside the rate stands the CPU a drained job costs, worker and Postgres together: on a busy machine
that is the figure to trust.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.types.json import Jsonb, set_json_dumps, set_json_loads
from pydantic_core import from_json, to_json

from infra.bench.measure import rate
from infra.bench.others import COUNT
from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from minutehand.local.processes import spawn, stop
from minutehand.local.users import ACME, create_demo_users
from minutehand.node import node_binary

HERE = Path(__file__).parent
BATCH = 500
RECOVERY = 5000
PYTHON_PEERS = {
    "pgqueuer": "pgqueuer[asyncpg]==1.6.0",
    "procrastinate": "procrastinate==3.10.0",
    "dbos": "dbos==3.4.0",
    "absurd": "absurd-sdk==0.5.1",
}
NODE_PACKAGES = ("graphile-worker@0.18.0", "pg-boss@12.35.0")
NODE_PEERS = ("graphile-worker", "pg-boss", "pg-boss, two workers", "pg-boss, by hand")
SLOW = ("procrastinate", "dbos", "absurd")  # job by job: a tenth of the jobs tells as much
LEFT_OUT = {
    "limit": "everything: attempts, fencing, events, limits, fairness, retries",
    "pgqueuer": "fencing, events, exact limits, fairness, tenants",
    "graphile-worker": "history of ended jobs (deleted), fencing, events, limits, fairness",
    "pg-boss": "fencing, events, exact limits, fairness",
    "pg-boss, two workers": "the same",
    "pg-boss, by hand": "the same, and its worker: fetch and complete called in turn",
    "procrastinate": "fencing, limits beyond one lock, fairness",
    "dbos": "fencing, fairness; steps are durable",
    "absurd": "limits, fairness; steps are durable",
    "minutehand": "sending each event to Realtime",
    "minutehand, minimal events": "the same, events of creation and lease, the line of a success",
    "minutehand, minimal, two calls": "the same; two calls under way at once",
    "minutehand, with broadcast": "nothing; also sends to Realtime within Pro's budget, which no peer does",
    "minutehand, with broadcast, two workers": "nothing",
    "minutehand, with broadcast, 5 % fail": "nothing; of 100 jobs 3 are retried and 2 fail",
    "minutehand, broadcast of all": "the budget: every message is sent, 2.01 a job",
    "minutehand, broadcast of states": "the budget, and messages on the jobs' own topics",
}
BROADCASTS = {
    "minutehand, with broadcast": "within the budget",
    "minutehand, with broadcast, two workers": "within the budget",
    "minutehand, with broadcast, 5 % fail": "within the budget",
    "minutehand, broadcast of all": "all",
    "minutehand, broadcast of states": "states",
}


@dataclass(slots=True)
class Line:
    """One queue's figures, gathered round by round."""

    name: str
    fills: list[float] = field(default_factory=list)
    drains: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    missing: str = ""


@dataclass(slots=True)
class Seen:
    """One measurement: jobs per second, and CPU seconds of the worker while it drained."""

    fill: float
    drain: float
    cpu: float
    drained: int


class Meter:
    """CPU seconds of a Postgres: its living processes, and those that have ended."""

    def __init__(self, server: Postgres) -> None:
        assert server.process is not None
        self.postmaster = psutil.Process(server.process.pid)
        self.at_drain = 0.0
        self.at_end = 0.0
        self.before_drain: Callable[[], object] = lambda: None

    def read(self) -> float:
        """CPU seconds so far."""
        own = self.postmaster.cpu_times()
        total: float = own.user + own.system + own.children_user + own.children_system
        for child in self.postmaster.children():
            with suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                total += times.user + times.system
        return total

    def draining(self) -> None:
        """Note where the drain begins."""
        self.before_drain()
        self.at_drain = self.read()

    def drained(self) -> None:
        """Note where it ends, while the worker's sessions are still there."""
        self.at_end = self.read()


# --- ours and the hand-written limit ---------------------------------------------------------


def ours(
    meter: Meter,
    url: str,
    jobs: int,
    *,
    job_type: str = "bench",
    most: int | None = None,
    calls: int = 1,
    failing: bool = False,
) -> Seen:
    """Fill and drain through the SQL functions.

    Args:
        most: Drain only so many of them.
        calls: Calls that the worker keeps under way at once, each on a connection of its own.
        failing: Of each 100 jobs 3 ask for another attempt, and 2 fail.
    """
    with ExitStack() as held:
        connections = [
            held.enter_context(psycopg.connect(url, autocommit=True)) for _ in range(calls)
        ]
        for connection in connections:
            set_json_loads(from_json, connection)  # as `minutehand.queue` reads and writes
            set_json_dumps(to_json, connection)
        item = {"job_type": job_type, "payload": {}}
        began = time.perf_counter()
        for _ in range(0, jobs, 1000):
            connections[0].execute(
                "select public.enqueue_jobs(%s, %s, 'ids')", (ACME, Jsonb([item] * 1000))
            )
        filled = time.perf_counter() - began
        done = [0] * calls

        def drain(number: int) -> None:
            """Settle what the last call leased and lease the next, until nothing is left."""
            request = {"worker_id": "bench", "tick_id": str(uuid.uuid4()), "limit": BATCH}
            items: list[dict[str, Any]] = []
            call = 0
            while (call == 0 or items) and (most is None or sum(done) < most):
                call += 1
                row = (
                    connections[number]
                    .execute(
                        "select public.settle_jobs(%s)",
                        (Jsonb({"items": items, "lease": {**request, "call": call}}),),
                    )
                    .fetchone()
                )
                answer: dict[str, Any] = row[0] if row else {}
                done[number] += len(items)
                items = [
                    {
                        "job_id": lease["job"]["id"],
                        "fence": lease["fence"],
                        "outcome": _outcome(number) if failing else "completed",
                    }
                    for number, lease in enumerate(answer["lease"]["leases"])
                ]

        meter.draining()
        cpu = time.process_time()
        began = time.perf_counter()
        with ThreadPoolExecutor(calls) as pool:
            list(pool.map(drain, range(calls)))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        meter.drained()
        return Seen(jobs / filled, sum(done) / seconds, cpu, sum(done))


def _outcome(number: int) -> str:
    return {0: "retry", 1: "retry", 2: "retry", 3: "failed", 4: "failed"}.get(
        number % 100, "completed"
    )


LIMIT = """
create table plain (id bigint generated always as identity primary key, payload jsonb, state int default 0);
create index on plain (id) where state = 0;
"""


def limit(meter: Meter, url: str, jobs: int, *, most: int | None = None) -> Seen:
    """What SKIP LOCKED on one plain table gives: the ceiling of this machine."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(LIMIT)
        began = time.perf_counter()
        for _ in range(0, jobs, 1000):
            connection.execute(
                "insert into plain (payload) select '{}' from generate_series(1, 1000)"
            )
        filled = time.perf_counter() - began
        done = 0
        meter.draining()
        cpu = time.process_time()
        began = time.perf_counter()
        while most is None or done < most:
            ids = [
                row[0]
                for row in connection.execute(
                    "update plain set state = 1 where id = any(array(select id from plain where state = 0"
                    " order by id limit %s for update skip locked)) returning id",
                    (BATCH,),
                )
            ]
            if not ids:
                break
            connection.execute("update plain set state = 2 where id = any(%s)", (ids,))
            done += len(ids)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        meter.drained()
        return Seen(jobs / filled, done / seconds, cpu, done)


# --- the others, by their own programs --------------------------------------------------------


class Peers:
    """Where the other queues are installed, each in an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def python(self, name: str) -> Path:
        """An interpreter with that package, installed at the first call."""
        home = self.folder / name
        interpreter = home / "bin" / "python"
        if not interpreter.exists():
            uv = str(Path(sys.executable).with_name("uv"))
            self._run([uv, "venv", "--quiet", "--python", sys.executable, str(home)])
            self._run(
                [
                    uv,
                    "pip",
                    "install",
                    "--quiet",
                    "--python",
                    str(interpreter),
                    PYTHON_PEERS[name],
                    "psycopg[binary]",
                ]
            )
        return interpreter

    def node(self) -> Path:
        """A folder with the npm packages."""
        home = self.folder / "-".join(["node", *NODE_PACKAGES]).replace("@", "-")
        if not (home / "node_modules" / "pg-boss").exists():
            home.mkdir(parents=True, exist_ok=True)
            (home / "package.json").write_text('{"private": true}')
            npm = Path(sys.executable).with_name("npm")
            self._run(
                [
                    str(npm),
                    "install",
                    "--no-progress",
                    "--ignore-scripts",
                    "--loglevel=error",
                    *NODE_PACKAGES,
                    "pg@8",
                ],
                cwd=home,
            )
        return home

    def run(self, meter: Meter, name: str, url: str, jobs: int) -> Seen:
        """Fill and drain with a peer's program.

        Raises:
            RuntimeError: It could not be fetched or failed; the message is its last line.
        """
        if name in NODE_PEERS:
            return self._seen(
                meter,
                jobs,
                [node_binary(), HERE / "queue_peers" / "node_peers.mjs", name, url, jobs],
                cwd=self.node(),
            )
        if name == "pgqueuer":
            return self._seen(
                meter,
                jobs,
                [self.python(name), HERE / "queue_peers" / "pgqueuer_peer.py", url, jobs],
            )
        return self._one_worker(meter, name, url, jobs)

    def _one_worker(self, meter: Meter, name: str, url: str, jobs: int) -> Seen:
        command = [self.python(name), HERE / "others.py", name]
        began = time.perf_counter()
        self._run([*command, "fill", "--url", url, "--jobs", str(jobs)])
        filled = time.perf_counter() - began
        meter.draining()
        worker = spawn(
            [*map(str, command), "drain", "--url", url, "--jobs", str(jobs)],
            env=os.environ,
            output=subprocess.DEVNULL,
        )
        try:
            drained = rate(url, COUNT[name], jobs)
            meter.drained()
            times = psutil.Process(worker.pid).cpu_times()
            return Seen(jobs / filled, drained, times.user + times.system, jobs)
        finally:
            stop(worker)

    def _seen(self, meter: Meter, jobs: int, command: list[Any], cwd: Path | None = None) -> Seen:
        with subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                if line.startswith("FILLED"):
                    meter.draining()
                elif line.startswith("SEEN"):
                    meter.drained()
                    seen = json.loads(line.removeprefix("SEEN"))
                    return Seen(jobs / seen["fill"], jobs / seen["drain"], seen["cpu"], jobs)
            raise RuntimeError((process.stderr.read().strip() or "failed").splitlines()[-1])

    def _run(self, command: list[Any], cwd: Path | None = None) -> str:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "NODE_OPTIONS": "--use-system-ca",
        }
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=environment,
            timeout=900,
        )
        if done.returncode:
            raise RuntimeError(
                (done.stderr.strip() or done.stdout.strip() or "failed").splitlines()[-1]
            )
        return done.stdout


# --- the run ----------------------------------------------------------------------------------


@dataclass
class Bench:
    """One server; every measurement gets a fresh database on it."""

    server: Postgres
    peers: Peers
    number: int = 0

    def __post_init__(self) -> None:
        self.meter = Meter(self.server)

    @contextmanager
    def database(self, *, minutehand: bool = False, broadcast: str = "") -> Iterator[str]:
        """An empty database, or one with our migrations.

        Args:
            broadcast: "within the budget", "all" or "states"; without it the trigger is off.
        """
        self.number += 1
        name = f"bench_{self.number}"
        template = "template bench_template" if minutehand else ""
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(f"create database {name} {template}".encode())
        url = self.server.url(database=name)
        if minutehand:
            with psycopg.connect(url, autocommit=True) as connection:
                if not broadcast:
                    connection.execute("drop trigger job_events_publish on queue.job_events")
                elif broadcast != "within the budget":
                    budget = Jsonb({"realtime_messages_per_second": 1_000_000})
                    connection.execute("select public.set_settings(%s)", (budget,))
                    live = "states" if broadcast == "states" else "full"
                    types = Jsonb([{"job_type": "bench", "live": live}])
                    connection.execute("select public.register_job_types(%s)", (types,))
        yield url
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(f"drop database {name} with (force)".encode())

    def prepare(self) -> None:
        """Make the template with our migrations and the bench's two types."""
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute("create database bench_template")
        url = self.server.url(database="bench_template")
        migrations.prepare_hosted(url)
        migrations.set_project_owner(url, self.server.password)
        migrations.apply_migrations(migrations.as_user(url, "postgres"))
        create_demo_users(url)
        migrations.apply_seed(migrations.as_user(url, "postgres"), migrations.seed_files()[0])
        with psycopg.connect(url, autocommit=True) as connection:
            types = [{"job_type": "bench"}, {"job_type": "quiet", "events": "minimal"}]
            connection.execute("select public.register_job_types(%s)", (Jsonb(types),))

    def measure(self, line: Line, jobs: int) -> None:
        """One round of one queue."""
        with self.database(
            minutehand=line.name.startswith("minutehand"), broadcast=BROADCASTS.get(line.name, "")
        ) as url:
            seen = self.run(line.name, url, min(jobs, 2000) if line.name in SLOW else jobs)
            line.costs.append(self.cost(seen))
        line.fills.append(seen.fill)
        line.drains.append(seen.drain)

    def run(self, name: str, url: str, jobs: int) -> Seen:
        """Fill and drain one queue."""
        if name.startswith("minutehand"):
            kind = "quiet" if "minimal" in name else "bench"
            calls = 2 if "two" in name else 1
            return ours(self.meter, url, jobs, job_type=kind, calls=calls, failing="fail" in name)
        if name == "limit":
            return limit(self.meter, url, jobs)
        return self.peers.run(self.meter, name, url, jobs)

    def cost(self, seen: Seen) -> float:
        """CPU microseconds a drained job, worker and Postgres together."""
        return (self.meter.at_end - self.meter.at_drain + seen.cpu) / seen.drained * 1e6


def deep(bench: Bench, queue: Callable[..., Seen], *, minutehand: bool, pairs: int) -> str:
    """The first 10,000 of 100,000 against 10,000 alone, by rate and by CPU: 1 is flat."""
    rates, costs = [], []
    for _ in range(pairs):
        with bench.database(minutehand=minutehand) as url:
            alone = queue(bench.meter, url, 10_000)
            cost = bench.cost(alone)
        with bench.database(minutehand=minutehand) as url:
            first = queue(bench.meter, url, 100_000, most=10_000)
            costs.append(cost / bench.cost(first))
        rates.append(first.drain / alone.drain)
    return f"{statistics.median(rates):.2f} by rate, {statistics.median(costs):.2f} by CPU"


@dataclass(slots=True)
class Held:
    """What a snapshot held open through a whole run does to a queue."""

    kept: float
    """CPU a job without it against with it: 1 is untouched."""
    recovery: float | None = None
    """Seconds after its end until a job costs at most a tenth more than before; ours only."""


def held(bench: Bench, name: str, jobs: int) -> Held:
    """Run twice, the second time its drain beside a session that is idle in a transaction."""
    ours_here = name.startswith("minutehand")
    if name in SLOW:
        jobs = min(jobs, 10_000)
    with bench.database(minutehand=ours_here) as url:
        free = bench.cost(bench.run(name, url, jobs))
        usual = bench.cost(bench.run(name, url, RECOVERY)) if ours_here else 0.0
    with bench.database(minutehand=ours_here) as url, psycopg.connect(url) as holder:

        def hold() -> None:
            # not before the fill: some migrate there, and wait for every older snapshot
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select 1 from pg_class limit 1")

        bench.meter.before_drain = hold
        try:
            found = Held(free / bench.cost(bench.run(name, url, jobs)))
        finally:
            bench.meter.before_drain = lambda: None
        holder.rollback()
        if ours_here:
            began = time.perf_counter()
            while (waited := time.perf_counter() - began) < 120:
                if bench.cost(bench.run(name, url, RECOVERY)) <= 1.1 * usual:
                    found.recovery = waited
                    break
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--held", type=int, default=50_000, help="jobs beside a held snapshot; 0 skips it"
    )
    parser.add_argument(
        "--deep", type=int, default=3, help="pairs of runs with 100,000 waiting; 0 skips it"
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        default=["pgqueuer", *NODE_PEERS, "procrastinate", "dbos"],
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "minutehand-bench-peers"
    )
    options = parser.parse_args()
    if os.environ.get("ABSURD_SQL") and "absurd" not in options.peers:
        options.peers.append("absurd")
    names = [
        *BROADCASTS,
        "minutehand",
        "minutehand, minimal events",
        "minutehand, minimal, two calls",
        *options.peers,
        "limit",
    ]
    lines = [Line(name) for name in names]
    with tempfile.TemporaryDirectory(prefix="minutehand-bench-") as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            bench = Bench(server, Peers(options.cache))
            bench.prepare()
            for _ in range(options.rounds):
                for line in lines:
                    if not line.missing:
                        try:
                            bench.measure(line, options.jobs)
                        except (RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
                            line.missing = str(error)[:120]
            print(f"{options.jobs:,} no-op jobs, one worker, medians of {options.rounds}")
            print(f"{'':<40}{'bulk/s':>9}{'drain/s':>9}{'ratio':>7}{'CPU µs':>8}  leaves out")
            base = statistics.median(lines[0].drains)
            for line in lines:
                if line.missing:
                    print(f"{line.name:<40} not measured: {line.missing}")
                    continue
                drained = statistics.median(line.drains)
                print(
                    f"{line.name:<40}{statistics.median(line.fills):>9,.0f}{drained:>9,.0f}{drained / base:>7.2f}{statistics.median(line.costs):>8,.0f}  {LEFT_OUT[line.name]}"
                )
            if options.deep:
                print("\nfirst 10,000 of 100,000 against 10,000 alone")
            for name, queue in (("minutehand", ours), ("limit", limit)) if options.deep else ():
                flat = deep(bench, queue, minutehand=queue is ours, pairs=options.deep)
                print(f"{name:<40} {flat}", flush=True)
            if options.held:
                print(
                    "\nCPU a job without ÷ with a snapshot held for the whole drain: 1 is untouched;"
                    f" {options.held:,} jobs, at most 10,000 where they go job by job"
                )
            for line in lines if options.held else []:
                if line.missing or "broadcast" in line.name or "two" in line.name:
                    continue
                try:
                    found = held(bench, line.name, options.held)
                except (RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
                    print(f"{line.name:<40} not measured: {str(error)[:120]}")
                    continue
                after = "" if found.recovery is None else f"  {found.recovery:.1f} s to recover"
                print(f"{line.name:<40}{found.kept:>9.2f}{after}", flush=True)
        finally:
            server.destroy()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
