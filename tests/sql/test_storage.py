# ruff: noqa: E501 - statements stay on one line
"""The database's size and growth: measured by workers once an hour, read by whoever asks."""

from __future__ import annotations

import psycopg
import pytest

from minutehand.queue.errors import DatabaseReadOnly, error_from_response, read_only_fix
from tests.support.databases import Database
from tests.support.engine import Engine, handle

SAMPLE = "insert into queue.storage_samples values (queue.clock() - make_interval(hours => %s), %s, 0, 0)"


def test_a_worker_measures_once_an_hour(engine: Engine) -> None:
    """Walking the files is not for every tick."""
    assert engine.rpc("storage")["database_bytes"] is None

    first, second = engine.rpc("record_storage"), engine.rpc("record_storage")
    engine.advance(3600)
    engine.rpc("record_storage")

    assert first["database_bytes"] > first["jobs_bytes"] > 0
    assert first["messages_bytes"] > 0
    tables = "select sum(pg_total_relation_size(format('%I.%I', schemaname, tablename)))::bigint from pg_tables"
    assert first["jobs_bytes"] < 1.1 * engine.one(
        f"{tables} where schemaname in ('queue', 'public')"
    )
    assert (first["growth_bytes_per_day"], second["sampled_at"]) == (None, first["sampled_at"])
    assert engine.one("select count(*) from queue.storage_samples") == 2


def test_growth_is_that_of_a_week_at_most(engine: Engine) -> None:
    """One large job of this morning is no trend, and last month's import is none any more."""
    engine.stop_clock()
    for hours, size in ((24 * 20, 10_000_000), (48, 1_000_000), (1, 2_000_000)):
        engine.run(SAMPLE, hours, size)

    assert engine.rpc("storage")["growth_bytes_per_day"] == pytest.approx(
        1_000_000 * 24 / 47, abs=1
    )


@pytest.mark.parametrize(("hours", "known"), [(5, False), (6, True)])
def test_growth_is_not_that_of_less_than_six_hours(engine: Engine, hours: int, known: bool) -> None:
    """The alarm of a full plan is not for one large job."""
    engine.stop_clock()
    engine.run(SAMPLE, hours, 1_000_000)
    engine.run(SAMPLE, 0, 9_000_000)

    assert (engine.rpc("storage")["growth_bytes_per_day"] is not None) is known


def test_what_shrinks_grows_by_less_than_nothing(engine: Engine) -> None:
    """After retention was shortened."""
    engine.stop_clock()
    engine.run(SAMPLE, 24, 3_000_000)
    engine.run(SAMPLE, 0, 2_000_000)

    now = engine.rpc("storage")
    assert now["growth_bytes_per_day"] == pytest.approx(-1_000_000, abs=100)
    assert now["share"] == 0.0002, "of the latest"


def test_samples_are_kept_for_thirty_days(engine: Engine) -> None:
    """What measures growth must not grow."""
    engine.run(SAMPLE, 24 * 31, 1)
    engine.rpc("record_storage")
    engine.maintain()

    assert engine.one("select count(*) from queue.storage_samples") == 1


def test_people_learn_nothing_of_it(database: Database) -> None:
    """It tells of every tenant together."""
    for role in ("anon", "authenticated"):
        with (
            database.as_role(role) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("select public.storage()")


def test_the_limit_is_that_of_the_plan(engine: Engine) -> None:
    """One setting says which plan it is, and another one a size that no plan has."""

    def limit() -> int:
        return int(engine.rpc("storage")["limit_bytes"]) // 1024**2

    assert limit() == 8192
    engine.rpc("set_settings", p_settings={"realtime_messages_per_second": "free"})
    assert limit() == 500
    engine.rpc("set_settings", p_settings={"database_limit_mb": 20_000})
    assert limit() == 20_000
    engine.rpc("set_settings", p_settings={"database_limit_mb": "plan"})
    assert limit() == 500
    with pytest.raises(psycopg.Error, match="is not a setting, or its value is invalid"):
        engine.rpc("set_settings", p_settings={"database_limit_mb": "large"})


@pytest.mark.parametrize(("size", "left"), [(0.84, ["failed"]), (0.86, [])])
def test_a_nearly_full_plan_shortens_retention_to_the_floor(
    engine: Engine, size: float, left: list[str]
) -> None:
    """Also that of types with days of their own, of which fewer stay; and health says so."""
    floor = {"completed": 5, "cancelled": 2, "failed": 3}
    engine.rpc("set_settings", p_settings={"retention_floor_days": floor})
    engine.rpc("set_retention", p_job_type="work", p_days={"completed": 1, "failed": 60})
    engine.enqueue()
    engine.run_all()
    engine.enqueue()
    engine.run_all("failed", error={"type": "E", "message": "m"})
    engine.advance(4 * 86400)
    engine.run(SAMPLE, 0, int(size * 8192 * 1024**2))

    engine.maintain()

    assert engine.rows("select status from public.jobs") == left
    state = engine.rpc("queue_health")["storage"]
    assert (state["share"], state["retention_shortened"]) == (pytest.approx(size), not left)


@pytest.mark.parametrize(("share", "samples"), [(0.69, 1), (0.71, 2)])
def test_the_last_part_is_measured_more_often(engine: Engine, share: float, samples: int) -> None:
    """An hour is long for what is left of a small plan."""
    engine.run(SAMPLE, 0, int(share * 8192 * 1024**2))
    engine.advance(301)
    engine.rpc("record_storage")

    assert engine.one("select count(*) from queue.storage_samples") == samples


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
