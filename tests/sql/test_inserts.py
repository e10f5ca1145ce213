# ruff: noqa: E501 - queries stay on one line
"""Every rule by every way in: plain inserts and updates of public.jobs beside the functions."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine


def insert(engine: Engine, payload: Any = None, **columns: Any) -> str:
    """Insert a row into public.jobs; its id."""
    columns = {
        "workspace_id": ACME,
        "job_type": "work",
        "payload": json.dumps(payload or {}),
        "status": "pending",
        **columns,
    }
    names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
    return str(
        engine.one(
            f"insert into public.jobs ({names}) values ({places}) returning id::text",
            *columns.values(),
        )
    )


def test_a_member_inserts_as_themselves_and_nothing_else(engine: Engine) -> None:
    """Row level security and the triggers together."""
    with engine.member(BOB) as bob:
        job_id = insert(bob, user_id=BOB)
        own = insert(bob, user_id=ADA)  # in another's name
        for columns in (
            {"user_id": BOB, "workspace_id": GLOBEX},
            {"user_id": BOB, "status": "completed"},
            {"user_id": BOB, "job_type": "webhook_delivery"},
            {"user_id": BOB, "attempts": 3},
        ):
            with pytest.raises(psycopg.Error):
                insert(bob, **columns)
    assert engine.job(job_id)["user_id"] == engine.job(own)["user_id"] == BOB
    assert engine.lease(1)[0]["job"]["id"] == job_id
    with engine.member(EVE) as eve:
        assert eve.rows("select id from public.jobs where id = %s", job_id) == []


def test_an_insert_is_an_enqueue_only_if_it_commits(engine: Engine) -> None:
    """Also within a savepoint that is undone."""
    engine.run("begin")
    kept = insert(engine)
    engine.run("savepoint one")
    insert(engine)
    engine.run("rollback to savepoint one")
    engine.run("commit")

    assert [lease["job"]["id"] for lease in engine.lease(5)] == [kept]


def test_deleting_a_job_takes_everything_of_it_and_nothing_else(engine: Engine) -> None:
    """Places, events, logs, steps, keys, waits."""
    engine.register("keyed", key_concurrency=1)
    kept = engine.enqueue()
    gone = [
        engine.enqueue(idempotency_key="i", unique={"key": "u"}),
        engine.enqueue(delay_seconds=60),
        engine.enqueue(job_type="keyed", concurrency_key="k"),
    ]
    lease = engine.lease_one(job_types=["keyed"])
    engine.report(
        lease, logs=[{"level": "info", "message": "m"}], steps=[{"name": "s", "result": 1}]
    )

    engine.run("delete from public.jobs where id = any (%s::uuid[])", gone)

    tables = engine.rows(
        "select c.oid::regclass::text from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'job_id' where c.relkind = 'r' and c.relnamespace in ('queue'::regnamespace, 'public'::regnamespace)"
    )
    left = {
        table: engine.one(f"select count(*) from {table} where job_id = any (%s::uuid[])", gone)
        for table in tables
    }
    assert {table for table, count in left.items() if count} == set()
    assert engine.status(kept) == "pending"
    assert engine.report(lease) == "lost"


def test_deleting_a_workspace_takes_its_jobs(engine: Engine) -> None:
    """And leaves the others'."""
    for workspace in (ACME, GLOBEX):
        engine.enqueue(workspace=workspace)
        engine.enqueue(workspace=workspace, delay_seconds=60)
    engine.lease(1)
    engine.run("delete from public.workspaces where id = %s", ACME)
    engine.lease(1)
    engine.advance(7200)
    engine.maintain()

    assert engine.rows("select distinct workspace_id::text from public.jobs") == [GLOBEX]
    tables = engine.rows(
        "select c.oid::regclass::text from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'workspace_id' where c.relkind = 'r' and c.relnamespace in ('queue'::regnamespace, 'public'::regnamespace)"
    )
    left = {
        table: engine.one(f"select count(*) from {table} where workspace_id = %s", ACME)
        for table in tables
    }
    assert {table for table, count in left.items() if count} <= {"queue.feed", "queue.stats"}


def test_a_statement_for_many_tenants_takes_few_locks(engine: Engine) -> None:
    """A digest for all users: the server's table of locks is as small as its max_connections."""
    ids = engine.rows(
        "insert into public.workspaces (name) select n::text from generate_series(1, 600) as n"
        " returning id::text"
    )
    engine.run("begin")
    engine.run(
        "insert into public.jobs (workspace_id, job_type) select id, 'work'"
        " from unnest(%s::uuid[]) as t (id)",
        ids,
    )
    held = engine.one(
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
    )
    engine.run("commit")

    assert held <= 210
    engine.run_all()
    assert engine.one("select count(*) from public.jobs where finished_at is null") == 0
