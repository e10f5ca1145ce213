# ruff: noqa: E501 - queries stay on one line
"""Every rule by every way in: plain inserts and updates of public.jobs beside the functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal

Way = Callable[..., str]


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


def by_call(engine: Engine, payload: Any = None, **options: Any) -> str:
    """Enqueue one."""
    return engine.enqueue(payload, **options)


def by_bulk(engine: Engine, payload: Any = None, **options: Any) -> str:
    """Enqueue one of two: with options they go one by one, without in one statement."""
    items = [{"job_type": "work", "payload": payload or {}, **options}, {"job_type": "work"}]
    return str(
        engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items, p_return="ids")["ids"][0]
    )


def by_child(engine: Engine, payload: Any = None, **options: Any) -> str:
    """Let a processor spawn one."""
    engine.register("parent")
    engine.enqueue(job_type="parent")
    lease = engine.lease_one(job_types=["parent"])
    child = {"job_type": "work", "payload": payload or {}, **options}
    return engine.spawn(lease, "s", [child])[0]


WAYS = pytest.mark.parametrize("way", [by_call, by_bulk, by_child, insert])
IGNORED = ["id", "created_at", "updated_at", "ord", "parent_id", "scheduled_for", "worker"]


@WAYS
def test_a_job_is_the_same_however_it_came(engine: Engine, way: Way) -> None:
    """Column by column, its first event and its place too."""
    engine.register("work", max_attempts=3, tagged_by=["to"], key_concurrency=1)
    options = {"priority": 7, "concurrency_key": "k", "session_id": "s"}
    plain = engine.job(engine.enqueue({"to": "ann"}, **options))

    job_id = way(engine, {"to": "ann"}, **options)

    row = engine.job(job_id)
    assert {name: row[name] for name in row if name not in IGNORED} == {
        name: plain[name] for name in plain if name not in IGNORED
    }
    assert engine.events(job_id) == ["job.created"]
    assert engine.rpc("explain_job", p_job_id=job_id)["reason"] == "no_worker" or way is by_child


@WAYS
@pytest.mark.parametrize(
    ("payload", "options", "hint"),
    [({"n": "text"}, {}, "payload_invalid"), ({}, {"priority": 5000}, "invalid_argument"), ({}, {"concurrency_key": "x" * 300}, "invalid_argument"),
     ({"big": "x" * 300_000}, {}, "payload_too_large"), ({}, {"session_id": ""}, "invalid_argument")],
)  # fmt: skip
def test_what_is_refused_is_refused_however_it_came(
    engine: Engine, way: Way, payload: Any, options: dict[str, Any], hint: str
) -> None:
    """With the same word; nothing of it is left."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    engine.register("work", payload_schema=schema)

    with pytest.raises(psycopg.Error) as refused:
        way(engine, payload, **options)

    assert refusal(refused.value)[1] == hint
    assert engine.one("select count(*) from public.jobs where job_type = 'work'") == 0


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


def test_what_is_inserted_has_no_past(engine: Engine) -> None:
    """A row that says it has run would have no events and no place."""
    past = {
        "fence": 3,
        "result": "{}",
        "progress": '{"percentage": 5}',
        "started_at": "2026-01-01T00:00:00Z",
        "attempts": 2,
    }
    row = engine.job(insert(engine, **past))
    assert {name: row[name] for name in past} == {
        "fence": 0,
        "result": None,
        "progress": None,
        "started_at": None,
        "attempts": 0,
    }
    with pytest.raises(psycopg.Error) as refused:
        insert(engine, status="completed")
    assert refusal(refused.value)[2] == "status"


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
