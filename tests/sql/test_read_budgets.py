# ruff: noqa: E501 - queries and requests stay on one line
"""A page costs what it shows, whatever there is around it; the server counts the blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from minutehand.local.postgres import Postgres
from tests.sql.test_lease_budgets import FILL, QUIET, settle_down
from tests.support.databases import SEEDED, fresh_database
from tests.support.engine import ACME, ADA, GLOBEX, Engine
from tests.support.weekly import weekly

EVENTS = weekly(240_000, otherwise=120_000)


def blocks(engine: Engine, call: str) -> int:
    """Blocks that a call touches, once its session has read the catalogue."""
    # it reads it again whenever autovacuum has been at a table
    return min(engine.blocks(f"select {call}") for _ in range(3))


@contextmanager
def filled(postgres: Postgres) -> Iterator[Engine]:
    """A database that several tests read."""
    with (
        fresh_database(postgres, template=SEEDED) as database,
        database.connect() as connection,
    ):
        engine = Engine(database, connection)
        engine.register("work", lease_seconds=60)
        yield engine


@pytest.fixture(scope="module")
def fed(postgres: Postgres) -> Iterator[Engine]:
    """Many jobs' events: three state changes each, in one transaction."""
    with filled(postgres) as engine:
        engine.run(
            "insert into queue.job_events (job_id, seq, workspace_id, session_id, type)"
            " select md5((n / 3)::text)::uuid, n %% 3 + 1, %s, 's', 'job.created'"
            " from generate_series(0, %s) as n",
            ACME,
            EVENTS - 1,
        )
        engine.run("vacuum analyze queue.job_events")
        yield engine


@pytest.mark.parametrize("limit", [20, 100, 500])
def test_a_page_of_a_feed_costs_its_events(fed: Engine, limit: int) -> None:
    """From the beginning, and from the middle, with thousands of events behind."""
    start = f"public.event_feed('{ACME}', '1:1:', {limit})"
    page = fed.one(f"select {start}")
    assert (len(page["events"]), page["more"]) == (limit, True)
    assert blocks(fed, start) <= 25 * limit + 300
    middle = f"public.event_feed('{ACME}', '{page['cursor']}', {limit})"
    assert blocks(fed, middle) <= 25 * limit + 300
    told = [(e["job_id"], e["seq"]) for e in page["events"] + fed.one(f"select {middle}")["events"]]
    assert told == sorted(set(told))


def test_a_page_among_events_it_does_not_show_is_short(engine: Engine) -> None:
    """Of a talkative job a workspace's feed shows little: a page reads a slice, and goes on."""
    job_id = engine.enqueue()
    engine.run(
        "insert into queue.job_events (job_id, seq, workspace_id, type)"
        " select gen_random_uuid(), 1, %s, 'job.progress' from generate_series(1, 30000)",
        ACME,
    )
    last = engine.enqueue()
    engine.run("vacuum analyze queue.job_events")
    told, cursor, pages, more = [], "1:1:", 0, True
    try:
        while more:
            call = f"public.event_feed('{ACME}', '{cursor}', 100)"
            assert blocks(engine, call) <= 3000
            page = engine.one(f"select {call}")
            told += [event["job_id"] for event in page["events"]]
            cursor, pages, more = page["cursor"], pages + 1, page["more"]
    finally:
        engine.run("delete from queue.job_events where type = 'job.progress'")

    assert told == [job_id, last]
    assert pages > 10


@pytest.mark.weekly
def test_an_explanation_beside_thousands_of_keys_looks_at_some(engine: Engine) -> None:
    """At the head of the backlog, and at its end."""
    keys = weekly(50_000, otherwise=15_000)
    engine.run(FILL.format(workspace=f"'{ACME}'", job_type="'work'", key="'k' || n", count=keys))
    settle_down(engine)
    engine.lease_call(0)

    for order in ("", "desc"):
        job_id = engine.one(f"select job_id from queue.ready order by ready_at {order} limit 1")
        assert blocks(engine, f"public.explain_job('{job_id}')") <= 6000


@pytest.fixture(scope="module")
def crowded(postgres: Postgres) -> Iterator[Engine]:
    """30,000 pending jobs, and 60,000 log lines of one that failed."""
    with filled(postgres) as engine:
        [failed] = engine.enqueue_many(1)
        engine.settle(engine.lease_one(), "failed", error={"type": "E", "message": "m"})
        engine.run(
            "insert into public.jobs (workspace_id, job_type) select %s, 'work' from generate_series(1, 30000)",
            ACME,
        )
        engine.run(
            "insert into public.job_logs (job_id, workspace_id, attempt, message)"
            " select %s, %s, 1, 'line ' || n from generate_series(1, 60000) as n",
            failed,
            ACME,
        )
        engine.run("delete from queue.held_topics")
        engine.run("vacuum")
        yield engine


@pytest.mark.parametrize(
    ("call", "most"),
    [
        (f"public.search_logs('{ACME}')", 1000),
        (f"""public.search_logs('{ACME}', '{{"search": "nothing like it"}}')""", 6000),
        ("(select public.job_trace(id) from public.jobs order by created_at limit 1)", 1000),
        ("(select public.job_replays(id) from public.jobs order by created_at limit 1)", 1000),
        (f"public.count_jobs('{ACME}')", 40_000),
        (f"(select id from public.jobs where id = '{ADA}')", 20),
    ],
)
def test_a_read_of_people_and_operators_stops(crowded: Engine, call: str, most: int) -> None:
    """With all known to the planner, with nothing, and with tables that were empty a moment ago."""
    crowded.run("analyze")
    assert blocks(crowded, call) <= most
    for statement in QUIET:
        crowded.run(statement)
        with crowded.beside() as other:
            assert blocks(other, call) <= most


def test_a_small_tenants_figures_are_read_from_its_own_rows(crowded: Engine) -> None:
    """Before Postgres 18 every plan of such a function is made without its values."""
    with crowded.beside() as other:
        other.run("set plan_cache_mode = 'force_generic_plan'")
        assert blocks(other, f"public.queue_stats('{GLOBEX}')") <= 60
