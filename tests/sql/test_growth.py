"""Nothing grows for ever: what leaves, leaves with its cause; what is bounded says what is left."""

from __future__ import annotations

import random
from typing import Any

import pytest

from infra.bench.age import Ageing
from tests.support.databases import Database
from tests.support.engine import ACME, ADA, Engine, handle

pytestmark = pytest.mark.fresh

SEALED = "mh1.a2V5.d3JhcHBlZA==.Ym9keQ=="


def keyed(number: int, **item: Any) -> dict[str, Any]:
    """A job with keys of its own."""
    keys = {"concurrency_key": f"k{number}", "idempotency_key": f"i{number}"}
    return {"job_type": "doc", "payload": {}, **keys, **item}


def count(engine: Engine, table: str) -> int:
    """Rows of a table of the engine."""
    return int(engine.one(f"select count(*) from queue.{table}"))


def churn(database: Database) -> list[str]:
    """The bench of age in small: two windows with two years after each; the tables that grew."""
    return Ageing(database, 600, 3, 2, random.Random(1)).run(2)


def test_a_second_window_leaves_no_more_than_the_first(seeded: Database) -> None:
    """With keys, tags, sessions, rates per key, unique jobs, retries and schedules."""
    assert churn(seeded) == []


def test_age_names_a_table_that_grows(seeded: Database) -> None:
    """The check is worth something only if it sees one."""
    with seeded.connect() as connection:
        connection.execute(
            "create function queue.keep_row() returns trigger language plpgsql"
            " as $$ begin return null; end $$"
        )
        connection.execute(
            "create trigger keep before delete on queue.caps"
            " for each row execute function queue.keep_row()"
        )
    assert [grown.split(" had ")[0] for grown in churn(seeded)] == ["queue.caps"]


def test_a_keys_limit_goes_with_its_last_partition(engine: Engine) -> None:
    """A key per document, user or order: each of them would stay for ever."""
    engine.register("doc", key_concurrency=1)
    items = [keyed(n, priority=priority) for n in range(3) for priority in (10, 20)]
    for item in items:
        item.pop("idempotency_key")
    engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items)

    first = engine.lease(3)
    assert len(first) == count(engine, "caps") == 3
    engine.settle_all(
        [
            {"job_id": one["job"]["id"], "fence": one["fence"], "outcome": "completed"}
            for one in first
        ]
    )
    assert (
        count(engine, "caps") == 3
    )  # the jobs of the other priority are in partitions of their own
    assert engine.run_all() == 3
    assert (count(engine, "caps"), count(engine, "partitions")) == (0, 0)


def test_a_keys_limit_that_another_lease_holds_stays_with_its_partition(engine: Engine) -> None:
    """Who holds it is counting: without its row a third lease would count beside."""
    engine.register("doc", key_concurrency=1)
    engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=[keyed(1)])
    lease = engine.lease_one()
    engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=[keyed(1, idempotency_key="again")])
    engine.lease(1, call=2)  # full: it waits with its partition
    engine.settle(lease)
    with engine.beside() as holder:
        holder.run("begin")
        holder.run("select 1 from queue.caps for update")
        engine.operate("cancel", job_type="doc")
        engine.lease(1, call=2)
        assert (count(engine, "caps"), count(engine, "partitions")) == (1, 1)
        holder.run("commit")
    engine.lease(1, call=2)
    assert (count(engine, "caps"), count(engine, "partitions")) == (0, 0)


@pytest.mark.parametrize("task", ["old_rows", "buckets"])
def test_a_bounded_task_says_that_more_is_due(engine: Engine, task: str) -> None:
    """At a batch a minute it would lose against seventeen new keys a second."""
    engine.register("doc", rate_limit={"limit": 1, "per_seconds": 1, "per_key": True})
    table = {"old_rows": "job_keys", "buckets": "buckets"}[task]
    for start in (0, 500):
        items = [keyed(n) for n in range(start, start + 500)]
        engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items, p_return="ids")
    engine.run_all()
    engine.run("update queue.settings set value = '300' where name = 'retention_batch'")
    engine.advance(86400 + 60)

    answers = [engine.rpc("run_maintenance", p_request={"budget_ms": 5000}) for _ in range(4)]

    assert [answer["done"].get(task) for answer in answers] == [300, 300, 300, None]
    assert [answer["more"] for answer in answers] == [True, True, True, False]
    assert count(engine, table) == 0


def test_rows_that_are_kept_for_a_time_are_found_by_an_index(engine: Engine) -> None:
    """Each minute the oldest of each are looked for."""
    assert engine.rows(
        "select k.relation from queue.kept_rows as k where not exists ("
        " select from pg_index as i join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]"  # noqa: E501
        " where i.indrelid = to_regclass(%s || k.relation) and a.attname = k.since)",
        "queue.",
    ) == []  # fmt: skip


def test_each_table_is_kept_for_as_long_as_its_readers_look_back(engine: Engine) -> None:
    """Charts of a month, runs of a day, keys until they expire: neither less nor a year of it."""
    spans = {
        "00:00:00": "job_keys artefacts",
        "01:00:00": "type_minutes caller_buckets",
        "1 day": "ticks guest_sessions",
        "7 days": "last_deliveries",
        "8 days": "stat_minutes",
        "30 days": "schedule_slots workers named_events",
        "31 days": "stat_hours message_minutes",
    }

    kept = dict(engine.rows("select relation, keep::text from queue.kept_rows"))

    for span, tables in spans.items():
        assert {kept[table] for table in tables.split()} == {span}


def test_nothing_of_a_deleted_tenant_is_left_an_hour_later(engine: Engine) -> None:
    """Asked of the catalogue, so that a new table cannot be left out."""
    gone = str(engine.one("insert into public.workspaces (name) values ('Gone') returning id"))
    engine.run(
        "insert into public.workspace_members (workspace_id, user_id, role)"
        " values (%s, %s, 'manager')",
        gone,
        ADA,
    )
    leave_rows_everywhere(engine, gone)
    with engine.beside() as late:
        late.run("begin")
        late.run(
            "insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)"
            " values (queue.clock(), 'doc', %s, 'failed', 1)",
            gone,
        )
        before = rows_of(engine, gone)
        engine.run("delete from public.workspaces where id = %s", gone)
        late.run("commit")

    for _ in range(12):
        engine.advance(301)
        engine.lease_call(10)

    assert len(before) > 25  # most tables had some
    assert rows_of(engine, gone) == {}
    assert count(engine, "forgotten") == 0


def rows_of(engine: Engine, workspace: str) -> dict[str, int]:
    """Rows that name a workspace or its jobs, in any column of any table."""
    columns = engine.rows(
        "select c.oid::regclass::text, a.attname from pg_class as c"
        " join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
        " where c.relkind = 'r' and a.atttypid in ('uuid'::regtype, 'text'::regtype)"
        " and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)"
    )
    ids = [workspace, *IDS.get(workspace, [])]
    found = {
        f"{table}.{name}": engine.one(
            f"select count(*) from {table} where {name}::text ~ any (%s)", ids
        )
        for table, name in columns
    }
    return {name: rows for name, rows in found.items() if rows}


IDS: dict[str, list[str]] = {}


def leave_rows_everywhere(engine: Engine, workspace: str) -> None:
    """Use each part of the engine once."""
    policy = {"key_concurrency": 1, "workspace_concurrency": 5}
    rate = {"limit": 1, "per_seconds": 1, "per_key": True}
    engine.register("doc", tagged_by=["n"], rate_limit=rate, **policy)
    engine.run(
        "insert into queue.tenant_limits (workspace_id, max_running) values (%s, 9)", workspace
    )
    engine.rpc(
        "put_webhook",
        p_workspace_id=workspace,
        p_webhook={"url": "https://e.com/", "sealed_secret": SEALED},
    )
    engine.rpc(
        "put_schedule",
        p_workspace_id=workspace,
        p_schedule={"name": "s", "cron": "* * * * *", "job_type": "doc"},
    )
    engine.rpc("open_guest_session", p_workspace_id=workspace, p_options={"user_id": ADA})
    engine.rpc("emit_event", p_workspace_id=workspace, p_name="e")
    with engine.member(ADA) as ada:
        ada.rpc(
            "pause_jobs",
            p_request={"kind": "workspace_type", "name": "doc", "workspace_id": workspace},
        )
    jobs = [
        {**keyed(n, job_type="work", payload={"n": n}, unique={"key": str(n)}), "session_id": "s",
         "tags": ["t"], "deadline_at": "2090-01-01T00:00:00Z"}
        for n in range(6)
    ]  # fmt: skip
    engine.rpc("enqueue_jobs", p_workspace_id=workspace, p_jobs=jobs)
    engine.enqueue(workspace=workspace, delay_seconds=60)
    leases = engine.lease(5, job_types=["work"])
    engine.spawn(leases[0], "c", [{"job_type": "work", "payload": {}}])
    file = {"name": "f", "media_type": "a/b", "keep_seconds": 9e6, "content": ""}
    engine.rpc("store_artefact", p_request=handle(leases[0]) | file)
    engine.settle(leases[0], "waiting", wait={"kind": "children", "name": "c"})
    engine.settle(leases[1], "failed", error={"type": "E", "message": "m"})
    engine.settle(leases[2], "retry", error={"type": "E", "message": "m"})
    engine.report(leases[3], steps=[{"name": "one", "result": 1}], step={"name": "two"})
    engine.settle(leases[4], result={"n": 1})
    engine.advance(61)
    engine.maintain()
    engine.lease(5)
    IDS[workspace] = engine.rows(
        "select id::text from public.jobs where workspace_id = %s", workspace
    )
