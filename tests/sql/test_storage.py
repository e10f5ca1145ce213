# ruff: noqa: E501 - statements stay on one line
"""What a job keeps, and a database that a full plan made read-only."""

from __future__ import annotations

import psycopg
import pytest

from minutehand.queue.errors import DatabaseReadOnly, error_from_response, read_only_fix
from tests.support.databases import Database
from tests.support.engine import Engine, handle


def test_a_read_only_database_is_ended_by_the_statements_that_name_it(seeded: Database) -> None:
    """As Supabase makes it when the plan is full: even retention is refused."""
    name = seeded.name
    with seeded.connect() as connection:
        engine = Engine(seeded, connection)
        engine.register("work")
        engine.enqueue_many(20)
        engine.run_all()
        engine.advance(8 * 86400)
        engine.run(f"alter database {name} set default_transaction_read_only = on")
    with seeded.connect() as connection:
        engine = Engine(seeded, connection)
        for call in (engine.enqueue, engine.lease, engine.maintain):
            with pytest.raises(psycopg.Error) as refused:
                call()
            assert refused.value.sqlstate == "25006"
        error = error_from_response(405, {"code": "25006", "message": str(refused.value)})
        assert isinstance(error, DatabaseReadOnly)
        fix = read_only_fix()
        assert all(statement in str(error) for statement in fix)
        assert engine.rpc("queue_health")["storage"]["read_only"]

        for statement in fix:
            engine.run(statement)

        assert engine.one("select count(*) from public.jobs") == 0
        engine.run(f"alter database {name} reset default_transaction_read_only")
    with seeded.connect() as connection:
        assert Engine(seeded, connection).enqueue()


@pytest.mark.fresh
@pytest.mark.parametrize(("events", "most"), [("full", 900), ("minimal", 1000)])
def test_what_a_job_keeps(engine: Engine, events: str, most: int) -> None:
    """Rows, their room and their indexes, of jobs that went as planned, ten an hour in many workspaces."""
    tables = [
        "public.jobs",
        *map("queue.{}".format, ("job_events", "histories", "ended", "attempts")),
    ]
    size = "select sum(pg_total_relation_size(t)) from unnest(%s::regclass[]) t"
    engine.register("kept", events=events)
    tenants = engine.rows(
        "insert into public.workspaces (name) select 'T' || n from generate_series(1, 40) n returning id::text"
    )
    kept = []
    for _ in range(6):
        for tenant in tenants:
            engine.enqueue_many(10, workspace=tenant, job_type="kept", payload={"document": "d"})
        while leases := engine.lease(50):
            engine.settle_all([{**handle(one), "outcome": "completed"} for one in leases])
        engine.advance(3660)
        engine.maintain()
        for table in tables:
            engine.run(f"vacuum {table}")
        kept.append(engine.one(size, tables))

    # what is not packed yet is an hour's, however long there have been jobs
    assert (kept[-1] - kept[1]) / (400 * (len(kept) - 2)) <= most
