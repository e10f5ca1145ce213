"""Plain jobs and plain statements: bulks, deletes, inserts for many tenants."""

from __future__ import annotations

from tests.support.engine import ACME, GLOBEX, Engine


def that_name(engine: Engine, column: str, ids: list[str]) -> set[str]:
    """The tables with a row that has one of the ids in a column."""
    tables = engine.rows(
        "select table_schema || '.' || table_name from information_schema.columns"
        " where table_schema in ('queue', 'public') and column_name = %s",
        column,
    )
    found = "select exists (select from {} where {} = any (%s::uuid[]))"
    return {table for table in tables if engine.one(found.format(table, column), ids)}


def test_deleting_a_job_takes_everything_of_it_and_nothing_else(engine: Engine) -> None:
    engine.register("keyed", key_concurrency=1)
    kept = engine.enqueue()
    gone = [
        engine.enqueue(idempotency_key="i", unique={"key": "u"}),
        engine.enqueue(delay_seconds=60),
        engine.enqueue(job_type="keyed", concurrency_key="k"),
    ]
    assert engine.enqueue(idempotency_key="j", unique={"key": "u"}) == gone[0]
    lease = engine.lease_one(job_types=["keyed"])
    log, step = {"level": "info", "message": "m"}, {"name": "s", "result": 1}
    engine.report(lease, logs=[log], steps=[step])

    engine.run("delete from public.jobs where id = any (%s::uuid[])", gone)

    assert that_name(engine, "job_id", gone) == set()
    assert engine.status(kept) == "pending"
    assert engine.report(lease) == "lost"


def test_deleting_a_workspace_takes_its_jobs(engine: Engine) -> None:
    for workspace in (ACME, GLOBEX):
        engine.enqueue(workspace=workspace)
        engine.enqueue(workspace=workspace, delay_seconds=60)
    engine.lease(1)
    with engine.open_transaction() as other, engine.beside() as ada:
        other.run("lock table queue.dead in access exclusive mode")
        deleted = engine.blocked(ada.run, "delete from public.workspaces where id = %s", ACME)
        engine.enqueue()
        other.run("commit")
        deleted.result()
    engine.lease(1)
    engine.advance(7200)
    engine.maintain()

    assert engine.rows("select distinct workspace_id::text from public.jobs") == [GLOBEX]
    assert that_name(engine, "workspace_id", [ACME]) <= {"queue.feed", "queue.stats"}


def test_a_bulk_of_plain_jobs_leaves_the_rows_that_one_alone_leaves(engine: Engine) -> None:
    """It is a way of its own, for a tenth of the cost."""
    engine.stop_clock()
    engine.register("quiet", queue="slow", max_attempts=2, schema_version=3, events="minimal")
    left = (
        "select distinct to_jsonb(j) - '{id,ord,created_at}'::text[], r.lane, r.workspace_id,"
        " r.ord = j.ord, r.ready_at = j.created_at"
        " from public.jobs as j left join queue.ready as r on r.job_id = j.id"
        " where j.job_type = %s"
    )
    for job_type in ("work", "quiet"):
        alone = engine.enqueue(job_type=job_type)
        several = engine.enqueue_many(2, job_type=job_type)
        assert len(engine.rows(left, job_type)) == 1
        assert engine.events(alone) == engine.events(several[1])


def test_a_statement_for_many_tenants_takes_few_locks(engine: Engine) -> None:
    """A digest for all users: the server's table of locks is as small as its max_connections."""
    engine.run("insert into public.workspaces (name) select 'T' from generate_series(1, 600)")
    engine.run("begin")
    engine.run(
        "insert into public.jobs (workspace_id, job_type) select id, 'work' from public.workspaces"
    )
    held = engine.one(
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
    )
    engine.run("commit")

    assert held <= 210
    engine.run_all()
    assert engine.one("select count(*) from public.jobs where finished_at is null") == 0


def test_no_enqueue_is_a_subtransaction(engine: Engine) -> None:
    """65 in a transaction would slow each snapshot of the server, and each would spend an id."""
    engine.enqueue()  # its message is known to fit from then on
    calls = {
        "alone": "select public.enqueue_job(%s, 'work') from generate_series(1, 70)",
        "with a key": "select public.enqueue_job(%s, 'work', '{}',"
        " jsonb_build_object('idempotency_key', n::text)) from generate_series(1, 70) as n",
        "a plain insert": "insert into public.jobs (workspace_id, job_type)"
        " select %s, 'work' from generate_series(1, 500)",
    }
    found = {}
    for name, call in calls.items():
        engine.run("begin")
        engine.run(call, ACME)
        found[name] = engine.one(
            "select s.subxact_count from pg_stat_get_backend_idset() as i (id)"
            " cross join pg_stat_get_backend_subxact(i.id) as s"
            " where pg_stat_get_backend_pid(i.id) = pg_backend_pid()"
        )
        engine.run("commit")

    assert found == dict.fromkeys(calls, 0)


def test_what_a_projects_trigger_does_to_new_jobs_is_seen_when_they_are_placed(
    engine: Engine,
) -> None:
    """Its triggers run before the statement's end, where all jobs of it find their places."""
    engine.run(
        "create function public.picks() returns trigger language plpgsql as $$ begin"
        " case new.payload ->> 'n' when '1' then delete from public.jobs where id = new.id;"
        " when '2' then perform public.cancel_job(new.id);"
        " when '3' then insert into public.jobs (workspace_id, job_type)"
        " values (new.workspace_id, 'work'); else null; end case; return null; end $$;"
        " create trigger picks after insert on public.jobs for each row execute function"
        " public.picks()"
    )

    engine.run(
        "insert into public.jobs (workspace_id, job_type, payload)"
        " select %s, 'work', jsonb_build_object('n', n) from generate_series(1, 4) as n",
        ACME,
    )

    assert len(engine.lease(10)) == 3
    assert engine.rows("select status from public.jobs where status <> 'processing'") == [
        "cancelled"
    ]


def test_a_large_plain_insert_is_published_in_lines_of_a_thousand(engine: Engine) -> None:
    """Readers of the feed take a line whole."""
    engine.run(
        "insert into public.jobs (workspace_id, job_type)"
        " select %s, 'work' from generate_series(1, 2500)",
        ACME,
    )

    lines = engine.rows("select cardinality(job_ids) from queue.feed order by id")
    assert lines == [1000, 1000, 500]
    assert len({lease["job"]["id"] for _ in range(3) for lease in engine.lease(1000)}) == 2500
