# ruff: noqa: E501 - queries stay on one line
"""Among many waiting, deferred and ended jobs, calls touch rows by their limit; weekly a million."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from minutehand.local.postgres import Postgres
from tests.support.databases import SEEDED, Database, fresh_database
from tests.support.engine import ACME, ADA, GLOBEX, Engine, handle
from tests.support.weekly import weekly

pytestmark = pytest.mark.weekly

# more than 10,000 of each state: that is where counts stop
WAITING = DEFERRED = weekly(100_000, otherwise=15_000)
ENDED = weekly(1_000_000, otherwise=100_000)
FILL = f"""
set session_replication_role = replica;
insert into public.jobs (id, workspace_id, job_type, queue, max_attempts, schema_version, status, outcome, finished_at, completed_at, created_at, updated_at, attempts, fence, last_seq)
select md5('ended' || n)::uuid, case when n % 10 = 0 then '{GLOBEX}' else '{ACME}' end::uuid, 'work', 'default', 5, 1, o, o, now() - n * interval '1 second', case when o = 'completed' then now() - n * interval '1 second' end, now() - n * interval '1 second', now(), 1, 1, 0
from generate_series(1, {ENDED}) n cross join lateral (select case when n % 8 = 7 then 'failed' when n % 1000 = 8 then 'cancelled' else 'completed' end as o) x;
create temp table live as
select md5('live' || n)::uuid as id, n, case when n % 10 = 0 then '{GLOBEX}' else '{ACME}' end::uuid as workspace_id, n > {WAITING} as later from generate_series(1, {WAITING + DEFERRED}) n;
insert into public.jobs (id, workspace_id, job_type, queue, max_attempts, schema_version, status, created_at, updated_at, last_seq, scheduled_for)
select id, workspace_id, 'work', 'default', 5, 1, 'pending', now() - n * interval '1 millisecond', now(), 0, case when later then now() + n * interval '1 second' end from live;
insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority)
select queue.partition_id(w, 'default', 'work', null, 100), w, 'default', 'work', '', 100 from unnest(array['{ACME}', '{GLOBEX}']::uuid[]) w;
insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at) select queue.partition_id(workspace_id, 'default', 'work', null, 100), created_at, id, workspace_id, created_at from public.jobs where id in (select id from live where not later);
insert into queue.deferred (job_id, run_at, partition_id, workspace_id, job_created_at) select id, scheduled_for, queue.partition_id(workspace_id, 'default', 'work', null, 100), workspace_id, created_at from public.jobs where id in (select id from live where later);
insert into queue.ended (workspace_id, outcome, job_created_at, job_id, job_type, ended_at) select workspace_id, outcome, created_at, id, job_type, finished_at from public.jobs where outcome is not null;
set session_replication_role = origin;
analyze public.jobs, queue.ready, queue.deferred, queue.ended;
"""


@pytest.fixture(scope="module")
def full(postgres: Postgres) -> Iterator[Engine]:
    """One big database for the whole module; each test rolls back what it did."""
    with fresh_database(postgres, template=SEEDED) as database, database.connect() as connection:
        engine = Engine(database, connection)
        engine.register("work", lease_seconds=3600)
        for statement in FILL.split(";\n"):
            engine.run(statement)
        engine.lease_call(0)
        yield engine


def touched(engine: Engine, action: Callable[[], Any]) -> int:
    """Rows of our tables that `action` reads, whichever way; its effects are rolled back."""
    count = (
        "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_user_tables"
        " where schemaname in ('public', 'queue')"
    )
    engine.run("begin")
    try:
        before = engine.one(count)
        action()
        return int(engine.one(count) - before)
    finally:
        engine.run("rollback")


def leased(engine: Engine, limit: int) -> list[dict[str, Any]]:
    """Lease as a later call of a tick, which does no maintenance tasks."""
    return engine.lease(limit, call=2, tick_id=str(uuid.uuid4()))


@pytest.mark.parametrize("limit", [10, 200])
def test_a_lease_reads_in_proportion_to_its_limit(full: Engine, limit: int) -> None:
    """Flat cost is what makes a backlog harmless."""
    assert touched(full, lambda: leased(full, limit)) <= 20 * limit + 400


@pytest.mark.parametrize("outcome", ["completed", "retry", "failed", "released", "snoozed"])
def test_a_settle_reads_in_proportion_to_its_items(full: Engine, outcome: str) -> None:
    """Neither the live nor the ended jobs around it matter."""
    full.run("begin")
    leases = leased(full, 100)
    full.run("commit")
    items = [
        {**handle(lease), "outcome": outcome, "error": {"type": "E", "message": "m"}}
        for lease in leases
    ]

    try:
        assert touched(full, lambda: full.settle_all(items)) <= 20 * 100 + 400
        assert (
            touched(
                full,
                lambda: full.report_all(
                    [{**handle(lease), "progress": {"percentage": 1}} for lease in leases]
                ),
            )
            <= 12 * 100 + 400
        )
    finally:
        full.settle_all([{**handle(lease), "outcome": "released"} for lease in leases])


def test_promotion_reads_what_is_due(full: Engine) -> None:
    """A thousand at a time, however many are deferred."""
    full.run("begin")
    try:
        full.run(
            "update queue.deferred set run_at = now() - interval '1 second' where job_id in (select job_id from queue.deferred order by run_at limit 1000)"
        )
        before = full.one(
            "select sum(seq_tup_read + idx_tup_fetch)::bigint from pg_stat_xact_user_tables where relname in ('jobs', 'deferred', 'openings')"
        )
        full.run("select queue.promote(queue.due_items('promotion', 500, now())::uuid[], now())")
        after = full.one(
            "select sum(seq_tup_read + idx_tup_fetch)::bigint from pg_stat_xact_user_tables where relname in ('jobs', 'deferred', 'openings')"
        )
    finally:
        full.run("rollback")

    assert after - before <= 8 * 1000


def test_reclaim_reads_the_leases_only(full: Engine) -> None:
    """Their number is bounded by concurrency."""
    leases = leased(full, 50)
    full.run("begin")
    try:
        full.run(
            "update queue.leases set expires_at = now() - interval '1 second', look_at = '-infinity'"
        )
        count = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_user_tables where schemaname in ('public', 'queue')"
        before = full.one(count)
        full.run("select queue.reclaim(queue.due_items('reclaim', 500, now())::uuid[], now())")
        assert full.one(count) - before <= 20 * 50 + 400
    finally:
        full.run("rollback")
        full.settle_all([{**handle(lease), "outcome": "released"} for lease in leases])


@pytest.mark.parametrize(
    ("call", "most"),
    [
        (lambda e: e.rpc("queue_health"), 35_000),  # its counts stop at 10,000
        (lambda e: e.rpc("dead_letters", p_workspace_id=ACME), 35_000),  # of 10,000
        (lambda e: e.enqueue(), 200),
        (lambda e: e.enqueue_many(100), 1000),
    ],
    ids=["health", "dead_letters", "enqueue", "enqueue_jobs"],
)
def test_calls_of_people_are_bounded(
    full: Engine, call: Callable[[Engine], Any], most: int
) -> None:
    """A click must not read the history."""
    assert touched(full, lambda: call(full)) <= most


def test_an_explanation_counts_a_bounded_line(full: Engine) -> None:
    """The last of them is told that it is behind more than 1,000."""
    last = full.one("select job_id::text from queue.ready order by ready_at desc limit 1")

    assert touched(full, lambda: full.rpc("explain_job", p_job_id=last)) <= 2600


@pytest.mark.parametrize(
    "condition",
    [
        "workspace_id = %(w)s order by created_at desc, id desc limit 50",
        "id = (select id from public.jobs limit 1)",
    ],
    ids=["newest", "one"],
)
def test_lists_read_a_page(full: Engine, condition: str) -> None:
    """As a member, under row level security."""
    with full.member(ADA) as ada:

        def page() -> None:
            ada.connection.execute(
                f"select * from public.jobs where {condition}".encode(), {"w": ACME}
            ).fetchall()

        assert touched(ada, page) <= 400


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"workspace_id": ACME},
        {"workspace_id": ACME, "status": ["waiting"]},
        {"workspace_id": ACME, "status": ["processing"]},
        {"workspace_id": ACME, "status": ["pending", "failed", "cancelled"]},
        {"status": ["pending", "processing", "waiting"]},
        {"status": ["completed", "failed"], "created_before": "2030-01-01T00:00:00Z"},
        {"workspace_id": ACME, "created_after": "2020-01-01T00:00:00Z"},
        {"parent_id": str(uuid.UUID(int=1))},
        {"session_id": "many"},
        {"id_prefix": "abcdef"},
    ],
    ids=lambda filters: "+".join(filters) + ":" + "+".join(filters.get("status", [])),
)
def test_lists_of_every_kind_read_by_their_limit(full: Engine, filters: dict[str, Any]) -> None:
    """Some jobs wait, older than the backlog; a family and a session are large."""
    full.run("begin")
    full.run("set local session_replication_role = replica")
    full.run(
        "with old as (select id from public.jobs where outcome = 'completed' and workspace_id = %s order by created_at limit 40)"
        " update public.jobs set status = 'waiting', outcome = null, finished_at = null, completed_at = null where id in (select id from old)",
        ACME,
    )
    full.run(
        "insert into queue.waits (job_id, workspace_id, kind, name, job_created_at)"
        " select id, workspace_id, 'sleep', 'nap', created_at from public.jobs where status = 'waiting'"
    )
    full.run(
        "update public.jobs set parent_id = %s, session_id = 'many' where id in"
        " (select id from public.jobs where outcome = 'completed' and workspace_id = %s order by created_at limit 5000)",
        str(uuid.UUID(int=1)), ACME,
    )  # fmt: skip
    claims = f'{{"role": "authenticated", "sub": "{ADA}"}}'
    full.run("select set_config('request.jwt.claims', %s, true)", claims)
    count = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_user_tables where schemaname in ('public', 'queue')"
    try:
        before = full.one(count)
        page = full.rpc("list_jobs", p_filter=filters, p_limit=20)
        assert full.one(count) - before <= 8 * 20 + 200
        assert page["jobs"] or filters.get("status") == ["processing"] or "id_prefix" in filters
    finally:
        full.run("rollback")


@pytest.mark.parametrize(
    "filters", [{"job_type": "rare"}, {"queue": "rare"}, {"search": "rare"}, {"payload": {"rare": 1}}, {"error": "rare"}, {"job_type": "rare", "status": ["completed", "pending"]}]
)  # fmt: skip
def test_a_sparse_list_reads_a_slice(full: Engine, filters: dict[str, Any]) -> None:
    """What no index holds together is looked for in parts that grow with the limit alone."""
    with full.member(ADA) as ada:

        def page() -> None:
            assert ada.rpc("list_jobs", p_filter=filters, p_limit=20)["next"] is not None

        assert touched(ada, page) <= 2 * 200 * 20 * len(filters.get("status", "1")) + 400


@pytest.mark.parametrize(
    "filters",
    [{"tag": "rare"}, {"tag": "rare", "state": ["completed"]}, {"tag": "rare", "job_type": "work"}],
)
def test_a_tag_is_found_among_all_jobs(full: Engine, filters: dict[str, Any]) -> None:
    """The oldest jobs of all have it: a search by a field of the payload costs what its page does."""
    full.run("begin")
    full.run("set local session_replication_role = replica")
    full.run(
        "with old as (select id, created_at from public.jobs where outcome = 'completed' and workspace_id = %s order by created_at limit 60),"
        " tagged as (update public.jobs set tags = '{rare}' where id in (select id from old))"
        " insert into queue.job_tags (workspace_id, tag, job_created_at, job_id) select %s, 'rare', created_at, id from old",
        ACME, ACME,
    )  # fmt: skip
    claims = f'{{"role": "authenticated", "sub": "{ADA}"}}'
    full.run("select set_config('request.jwt.claims', %s, true)", claims)
    count = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_user_tables where schemaname in ('public', 'queue')"
    try:
        before = full.one(count)
        page = full.rpc("list_jobs", p_filter={"workspace_id": ACME, **filters}, p_limit=20)
        assert full.one(count) - before <= 8 * 20 + 200
        assert page["jobs"]
        assert len(page["jobs"]) == 20 or page["next"]  # a slow machine's page ends early
    finally:
        full.run("rollback")


def test_the_next_of_many_scheduled_jobs_are_read_in_their_order(
    full: Engine,
) -> None:
    """By their own index: bounded, and the soonest first although they were not the last enqueued."""
    with full.member(ADA) as ada:
        pages: list[dict[str, Any]] = []

        def page() -> None:
            pages.append(
                ada.rpc(
                    "sort_jobs",
                    p_filter={"workspace_id": ACME, "state": ["scheduled"]},
                    p_by="next_run_at",
                    p_descending=False,
                    p_limit=20,
                )
            )

        assert touched(ada, page) <= 4 * 10_000 + 400
    due = [job["next_run_at"] for job in pages[0]["jobs"]]
    soonest = full.rows(
        "select to_jsonb(run_at) #>> '{}' from queue.deferred where workspace_id = %s order by run_at limit 20",
        ACME,
    )
    assert due == soonest


def test_a_webhooks_deliveries_are_read_alone(full: Engine) -> None:
    """The newest page of them may be older than all other jobs."""
    hook = str(uuid.UUID(int=3))
    full.run("begin")
    full.run("set local session_replication_role = replica")
    full.run(
        "insert into public.jobs (workspace_id, job_type, queue, max_attempts, schema_version, status, outcome, finished_at, completed_at, created_at, concurrency_key)"
        " select %s, 'webhook_delivery', 'default', 5, 1, 'completed', 'completed', now(), now(), now() - interval '30 days', %s from generate_series(1, 60)",
        ACME,
        hook,
    )
    count = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_user_tables where schemaname in ('public', 'queue')"
    try:
        full.run("set local role authenticated")
        full.run(
            "select set_config('request.jwt.claims', %s, true)",
            f'{{"role": "authenticated", "sub": "{ADA}"}}',
        )
        before = full.one(count)
        found = full.rows(
            "select id from public.jobs where workspace_id = %s and job_type = 'webhook_delivery' and concurrency_key = %s"
            " order by created_at desc, id desc limit 51",
            ACME,
            hook,
        )
        assert full.one(count) - before <= 200
        assert len(found) == 51
    finally:
        full.run("rollback")


def test_counts_of_a_workspace_stop(full: Engine) -> None:
    """The console asks for them again whenever something happens."""
    with full.member(ADA) as ada:

        def count() -> None:
            told = ada.rpc("count_jobs", p_workspace_id=ACME)
            assert told["at_least"] == ["pending", "completed", "failed"]

        # 10,000 jobs a status, and as many to tell what is queued, scheduled or retrying apart
        assert touched(ada, count) <= 100_000


def test_a_list_of_running_jobs_reads_those_alone(full: Engine) -> None:
    """Running jobs are older than the backlog, which a scan of live jobs would read first."""
    leases = leased(full, 20)
    mine = {lease["job"]["id"] for lease in leases if lease["job"]["workspace_id"] == ACME}
    seen: set[str] = set()
    try:
        with full.member(ADA) as ada:

            def page() -> None:
                rows = ada.connection.execute(
                    b"select id::text from public.running_jobs where workspace_id = %s"
                    b" and status in ('processing') and finished_at is null"
                    b" order by created_at desc, id desc limit 50",
                    (ACME,),
                ).fetchall()
                seen.update(row[0] for row in rows)

            assert touched(ada, page) <= 400
    finally:
        full.settle_all([{**handle(lease), "outcome": "released"} for lease in leases])

    assert seen == mine


def test_a_members_enqueue_into_a_backlog_counts_it_once_in_ten_seconds(full: Engine) -> None:
    """The quota must not make a large tenant's enqueue slow."""
    with full.member(ADA) as ada:
        ada.run("begin")
        ada.run("rollback")
        full.run(
            "insert into queue.live_counts values (%s, 5, queue.clock()) on conflict (workspace_id) do update set counted_at = queue.clock()",
            ACME,
        )

        # a count would read 10,000
        assert touched(ada, lambda: ada.enqueue()) <= 500


def test_a_settle_looks_for_what_it_has_answered_in_a_hash(database: Database) -> None:
    """Compared one by one, a failure among 1,000 completions cost as much as all of them."""
    with database.connect() as connection:
        engine = Engine(database, connection)
        body = engine.one("select prosrc from pg_proc where proname = 'settled_before'")
        query = body[body.index("select string_agg") : body.rindex(");\nend;")]
        for name, value in (
            ("p_items", "'{}'::queue.worker_item[]"),
            ("p_answered", "'{}'::uuid[]"),
            ("p_fences", "'{}'::bigint[]"),
        ):
            query = query.replace(name, value)
        plan = engine.rows(f"explain {query}")

    assert any("hashed SubPlan" in line for line in plan), plan


@pytest.mark.parametrize("limit", [1, 10])
def test_a_lease_takes_no_row_lock_it_waits_for(full: Engine, limit: int) -> None:
    """Beside a lease that is still open, and one that holds every row the first has read."""
    full.run("begin")
    try:
        leased(full, limit)
        with full.beside() as other:
            other.run("set lock_timeout = '1ms'")
            other.run("begin")
            assert len(leased(other, limit)) == limit
            other.run("rollback")
    finally:
        full.run("rollback")
