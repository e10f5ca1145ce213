"""An app's functions in SQL: called under a role, as the Data API does, and who may call which.

Nothing is asserted here but that a job asked for was leased.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from psycopg.types.json import Jsonb

from minutehand.local.postgres import Postgres
from tests.support.databases import SEEDED, Database, fresh_database
from tests.support.stacks import RunningStack

#: Whoever comes through the Data API.
ROLES = ("anon", "authenticated", "job_worker", "service_role")


@contextmanager
def database_of_an_app(postgres: Postgres, *job_types: str) -> Iterator[Database]:
    """A seeded database that knows the app's own job types, for tests with rows of their own."""
    with fresh_database(postgres, template=SEEDED) as database:
        types = [{"job_type": name, "internal": True} for name in job_types]
        with database.connect() as connection:
            connection.execute("select public.register_job_types(%s)", (Jsonb(types),))
        yield database


def call(database: Database, role: str, claims: dict[str, str], statement: str, *args: Any) -> Any:
    """One statement's value as a role with claims."""
    with database.connect() as connection, connection.transaction():
        connection.execute(
            "select set_config('request.jwt.claims', %s, true)", (json.dumps(claims),)
        )
        connection.execute(f"set local role {role}".encode())
        row = connection.execute(statement.encode(), args).fetchone()
        return None if row is None else row[0]


def as_user(database: Database, user: str, statement: str, *args: Any) -> Any:
    """As a signed-in user."""
    return call(database, "authenticated", {"sub": user, "role": "authenticated"}, statement, *args)


def as_worker(database: Database, function: str, request: dict[str, Any]) -> Any:
    """As a worker, which has its functions and nothing else."""
    statement = f"select public.{function}(%s)"
    return call(database, "job_worker", {"role": "job_worker"}, statement, Jsonb(request))


def lease(database: Database, job_id: str, *job_types: str) -> dict[str, Any]:
    """A worker takes what is due, of these types where named; what it proves this job with."""
    request = {
        "worker_id": "w",
        "tick_id": str(uuid.uuid4()),
        "call": 1,
        "limit": 100,
        "job_types": list(job_types) or None,
    }
    answer = as_worker(database, "lease_jobs", request)
    [held] = [each for each in answer["leases"] if each["job"]["id"] == job_id]
    return {"job_id": job_id, "fence": held["fence"]}


def open_to(database: Database, role: str, schema: str, beginning: str = "") -> list[str]:
    """The schema's functions that a role may call, by name."""
    with database.connect() as connection:
        found = connection.execute(
            "select proname from pg_proc where pronamespace = %s::regnamespace"
            " and starts_with(proname, %s) and has_function_privilege(%s, oid, 'execute')",
            (schema, beginning, role),
        )
        return sorted(name for (name,) in found)


def rights(database: Database, role: str, relation: str) -> list[str]:
    """What a role may do to all rows of a table or view, before row level security."""
    with database.connect() as connection:
        found = connection.execute(
            "select r from unnest('{delete,insert,select,truncate,update}'::text[]) as r"
            " where has_table_privilege(%s, %s, r)",
            (role, relation),
        )
        return sorted(right for (right,) in found)


def unkempt(database: Database, schema: str) -> list[str]:
    """Functions without a comment or without a search path of their own."""
    with database.connect() as connection:
        found = connection.execute(
            "select proname from pg_proc where pronamespace = %s::regnamespace"
            " and (obj_description(oid, 'pg_proc') is null or proconfig is null"
            " or not proconfig @> array['search_path=\"\"'])",
            (schema,),
        )
        return [name for (name,) in found]


def users_of(database: Database, schema: str) -> list[str]:
    """Who may name things in a schema, of all but the service."""
    with database.connect() as connection:
        found = connection.execute(
            "select rolname from pg_roles where rolname in ('anon', 'authenticated', 'job_worker')"
            " and has_schema_privilege(oid, %s, 'usage')",
            (schema,),
        )
        return [name for (name,) in found]


def until(database: Database | RunningStack, statement: str, value: int) -> None:
    """Wait until a statement answers at least this."""
    give_up = time.monotonic() + 60
    with database.connect() as connection:
        while time.monotonic() < give_up:
            row = connection.execute(statement.encode()).fetchone()
            if row is not None and row[0] >= value:
                return
            time.sleep(0.02)
    raise AssertionError(f"not {value}: {statement}")


def open_turn(run: Callable[..., object], workspace: str, job_type: str) -> None:
    """Open the turn of a workspace in a type, as an earlier job or a lease under way leaves it.

    Args:
        run: Executes a statement with its values.
        workspace: Whose turn.
        job_type: Of which type, in the queue `default`.
    """
    run(
        "insert into queue.turns (lane, workspace_id, served_at)"
        " select lane, %s, queue.clock() from queue.lanes"
        " where job_type = %s and queue = 'default' on conflict do nothing",
        *(workspace, job_type),
    )


def until_waiting(database: Database, sessions: int = 1) -> None:
    """Wait until so many sessions of the database wait for a lock."""
    until(
        database,
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        " and datname = current_database()",
        sessions,
    )
