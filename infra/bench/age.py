"""What a queue is like after years: churn many jobs, and print each window's rate, work and size.

Jobs of many tenants, with keys, retries, failures, delays, schedules and retention. A queue that
ages well has windows that are alike.

Half-way and at the end it lets the work run out and two years pass. What is in any table then is
kept permanently: when one has more rows the second time, the command fails and names it.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from infra.bench.scratch import Scratch, scratch_project

Connection = psycopg.Connection[Any]
TYPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "keyed": {"key_concurrency": 1},
    "rated": {"rate_limit": {"limit": 50, "per_seconds": 1, "per_key": True}},
    "limited": {"workspace_concurrency": 50},
    "quiet": {"events": "minimal"},
    "failing": {"max_attempts": 2, "backoff": {"first_seconds": 0, "cap_seconds": 0}},
}
SIZES = ("public.jobs", "queue.job_events", "queue.feed", "queue.ready", "queue.leases")
BULK, LEASE = 500, 250
CLOCK = """
create or replace function queue.clock() returns timestamptz
language sql volatile parallel safe set search_path = ''
as $$ select clock_timestamp() + interval '{days} days' $$
"""


@dataclass
class Ageing:
    """One run: producers, workers and maintenance beside each other, each with its own session."""

    scratch: Scratch
    jobs: int
    tenants: int = 1_000
    workers: int = 2
    ids: list[str] = field(default_factory=list)
    settled: int = 0
    days: float = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, windows: int) -> list[str]:
        """Churn, printing a line per window; a sentence for each table that only grows."""
        kept: list[dict[str, int]] = []
        works = (self._maintain, *[self._work] * self.workers)
        with self.scratch.connect() as connection, ThreadPoolExecutor(len(works)) as threads:
            self._prepare(connection)
            running = [threads.submit(self._guard, work) for work in works]
            try:
                print("     jobs  jobs/s  MB of jobs, events, feed, ready, leases", flush=True)
                for number in range(1, windows + 1):
                    self._window(connection, self.jobs // windows)
                    if number in (windows // 2, windows):
                        kept.append(self._rest(connection))
            finally:
                self.stopped.set()
        _ = [each.result() for each in running]
        was = kept[0]
        grown = {t: n for t, n in kept[-1].items() if n > was.get(t, 0) * 1.1 + 10}  # ticks go
        return [f"{t} had {was.get(t, 0)} rows, and {n} a window later" for t, n in grown.items()]

    def _rest(self, connection: Connection) -> dict[str, int]:
        """Let the work run out and two years pass; return what is left in each table."""
        connection.execute("update queue.schedules set enabled = false")
        while _value(connection, "select count(*) from public.jobs where finished_at is null"):
            time.sleep(0.1)
        self.days += 730
        quiet = 0
        while quiet < 5:  # retention goes in slices, some seconds apart
            self.days += 0.001
            connection.execute(CLOCK.format(days=self.days).encode())
            answer = _rpc(connection, "run_maintenance", p_request={})
            quiet = 0 if answer["done"] or answer["busy"] else quiet + 1
        tables = connection.execute(
            "select relid::regclass::text from pg_stat_user_tables"
            " where schemaname ~ '^(public|queue)$'"
        ).fetchall()
        left = {table: _value(connection, f"select count(*) from {table}") for (table,) in tables}
        connection.execute("update queue.schedules set enabled = true")
        return left

    def _guard(self, work: Any) -> None:
        while not self.stopped.is_set():
            try:
                with self.scratch.connect() as connection:
                    work(connection)
            except psycopg.errors.DeadlockDetected as error:
                print(f"deadlock: {error}", flush=True)

    def _prepare(self, connection: Connection) -> None:
        types = [{"job_type": name, "backoff": {"cap_seconds": 1}, **TYPES[name]} for name in TYPES]
        _rpc(connection, "register_job_types", p_types=types)
        made = connection.execute(
            "insert into public.workspaces (name) select 'T' || n from generate_series(1, %s) as n"
            " returning id::text",
            (self.tenants,),
        )
        self.ids = [id for (id,) in made]
        for n, workspace in enumerate(self.ids[:20]):
            schedule = {"name": f"s{n}", "cron": "* * * * *", "job_type": "plain"}
            _rpc(connection, "put_schedule", p_workspace_id=workspace, p_schedule=schedule)

    def _window(self, connection: Connection, jobs: int) -> None:
        began, done = time.monotonic(), self.settled
        waiting = min(5000, jobs)
        ready = f"select count(*) from (select 1 from queue.ready limit {waiting}) as r"
        while self.settled - done < jobs:
            if _value(connection, ready) < waiting:
                self._enqueue(connection)
            else:
                time.sleep(0.02)
        rate = (self.settled - done) / (time.monotonic() - began)
        sizes = [_value(connection, f"select pg_table_size('{table}')") / 1e6 for table in SIZES]
        shown = " ".join(f"{size:.0f}" for size in sizes)
        print(f"{self.settled:>9} {rate:>7.0f}  {shown}", flush=True)

    def _enqueue(self, connection: Connection) -> None:
        items = []
        for job_type in random.choices(list(TYPES), k=BULK):
            luck, item = random.random(), {"job_type": job_type, "payload": {}}
            if job_type in ("keyed", "rated"):
                item |= {"concurrency_key": f"k{luck:.6f}", "idempotency_key": str(uuid.uuid4())}
            if job_type == "limited":
                item |= {"tags": [f"{luck}"], "session_id": f"{luck}", "unique": {"key": f"{luck}"}}
            items.append(item | ({"delay_seconds": 0.1 + luck * 150} if luck < 0.02 else {}))
        workspace = random.choice(self.ids)
        _rpc(connection, "enqueue_jobs", p_workspace_id=workspace, p_jobs=items, p_return="ids")

    def _work(self, connection: Connection) -> None:
        items: list[dict[str, Any]] = []
        call, tick = 1, str(uuid.uuid4())
        while not self.stopped.is_set():
            call += 1
            lease = {"worker_id": tick, "tick_id": tick, "call": call, "limit": LEASE}
            request = {"worker_id": tick, "tick_id": tick, "items": items, "lease": lease}
            answer = _rpc(connection, "settle_jobs", p_request=request)
            self.settled += len(items)
            items = [
                {"job_id": one["job"]["id"], "fence": one["fence"], **_outcome(one["job"])}
                for one in answer["lease"]["leases"]
            ]
            if not items:
                time.sleep(0.01)

    def _maintain(self, connection: Connection) -> None:
        while not self.stopped.is_set():
            began = time.monotonic()
            done = _rpc(connection, "run_maintenance", p_request={"budget_ms": 1000})
            print(*(f"maintenance task {task} failed\n" for task in done["failed"]), end="")
            # half of the time at most, as a worker does
            time.sleep(max(0.02, time.monotonic() - began) if done["more"] else 0.2)


def _outcome(job: dict[str, Any]) -> dict[str, Any]:
    luck = random.random()
    if luck < 0.03 or (job["job_type"] == "failing" and luck < 0.3):
        return {"outcome": "retry", "error": {"type": "E", "message": "as planned"}}
    if luck < 0.04:
        return {"outcome": "snoozed", "delay_seconds": 1}
    return {"outcome": "completed", "duration_ms": 10, "result": {"ok": True}}


def _rpc(connection: Connection, function: str, **arguments: Any) -> Any:
    places = ", ".join(f"{name} => %({name})s" for name in arguments)
    values = {n: Jsonb(v) if isinstance(v, dict | list) else v for n, v in arguments.items()}
    row = connection.execute(f"select public.{function}({places})".encode(), values).fetchone()
    return None if row is None else row[0]


def _value(connection: Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    return 0 if row is None else int(row[0])


def main() -> None:
    """Run it; arguments are jobs and windows."""
    jobs, windows = (int(each) for each in (*sys.argv[1:], *("1000000", "20")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder, scratch_project(Path(folder)) as scratch:
        if grown := Ageing(scratch, jobs).run(windows):
            raise SystemExit("these tables grow without end:\n" + "\n".join(grown))


if __name__ == "__main__":
    main()
