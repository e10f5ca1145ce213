"""Faults of the chaos run that happen inside the database: nothing is mocked.

They are what a busy project does to itself: locks, cancelled statements, crowds, long maintenance.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import psycopg

from infra.bench.scratch import WORKSPACE

Connection = psycopg.Connection[Any]
#: A crowd's jobs are numbered from here on.
CROWD = 1_000_000


def cancel_statements(connection: Connection, rng: random.Random) -> None:
    """Cancel whatever runs, twenty times in a row."""
    for _ in range(20):
        connection.execute(
            "select pg_cancel_backend(pid) from pg_stat_activity"
            " where datname = current_database() and state = 'active' and pid <> pg_backend_pid()"
        )
        time.sleep(rng.random() * 0.05)


def hold_locks(connection: Connection, rng: random.Random) -> None:
    """Hold the rows of some jobs, leases and waits in an open transaction."""
    with connection.transaction():
        for table in ("public.jobs", "queue.leases", "queue.waits", "queue.partitions"):
            connection.execute(f"select 1 from {table} limit 100 for update skip locked".encode())
        time.sleep(rng.uniform(0.5, 3))


def vacuum_full(connection: Connection, rng: random.Random) -> None:
    """Rewrite a table under an exclusive lock."""
    table = rng.choice(
        ["public.jobs", "queue.job_events", "queue.ready", "queue.leases", "queue.signals"]
    )
    connection.execute(f"vacuum full {table}".encode())


def lengthen_maintenance(connection: Connection, rng: random.Random) -> None:
    """Let maintenance wait for a table longer than it may wait for any."""
    with connection.transaction():
        table = rng.choice(["queue.stat_minutes", "queue.maintenance_tasks", "queue.waits"])
        connection.execute(f"lock table {table} in share mode".encode())
        time.sleep(rng.uniform(2, 4))


def emit_long_events(connection: Connection, _: random.Random) -> None:
    """Emit the events of 200 kB that some jobs wait for; each wins once."""
    for n in range(3):
        connection.execute(
            "select public.emit_event(%s, %s,"
            " jsonb_build_object('text', repeat('a long event ', 15400)))",
            (WORKSPACE, f"long {n}"),
        )


def put_schedules(connection: Connection, _: random.Random) -> None:
    """Keep 120 schedules of every minute, with one run due now."""
    connection.execute(
        "select public.put_schedule(%s, jsonb_build_object('name', 's' || n, 'cron', '* * * * *',"
        " 'job_type', 'chaos', 'payload', jsonb_build_object('number', -n)))"
        " from generate_series(1, 120) as n",
        (WORKSPACE,),
    )
    connection.execute("update queue.schedules set next_at = date_trunc('minute', now())")


def stop_schedules(connection: Connection) -> None:
    """Let no more runs come due."""
    connection.execute("delete from queue.schedules")


def gather_a_crowd(connection: Connection, rng: random.Random) -> None:
    """Let hundreds of jobs come due at one instant."""
    _enqueue(connection, rng, "jsonb_build_object('scheduled_for', now() + interval '2 s')")


def drain_keys(connection: Connection, rng: random.Random) -> None:
    """Give hundreds of jobs a key of their own each."""
    _enqueue(connection, rng, "jsonb_build_object('concurrency_key', 'k' || n)")


def _enqueue(connection: Connection, rng: random.Random, options: str) -> None:
    first = CROWD + rng.randrange(10**6) * 1000
    connection.execute(
        "select public.enqueue_jobs(%s, (select jsonb_agg(jsonb_build_object('job_type', 'chaos',"
        f" 'payload', jsonb_build_object('number', n)) || {options})"
        " from generate_series(%s::int, %s::int) as n), 'ids')".encode(),
        (WORKSPACE, first, first + 199),
    )


FAULTS: dict[str, Callable[[Connection, random.Random], None]] = {
    "statements cancelled": cancel_statements,
    "locks held": hold_locks,
    "vacuum full": vacuum_full,
    "long maintenance": lengthen_maintenance,
    "200 kB events": emit_long_events,
    "many schedules": put_schedules,
    "promoted crowd": gather_a_crowd,
    "drained keys": drain_keys,
}
