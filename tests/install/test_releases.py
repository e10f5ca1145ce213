"""A release upgrades the last release to the current sources. Released files never change."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from infra.release import apps, releases
from infra.release.catalogue import catalogue, differences
from infra.release.changes import CannotRelease
from infra.release.texts import apps_of
from minutehand.install.removal import removal_sql
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import upgrade_migrations
from minutehand.install.tenancy import Tenants, existing
from minutehand.version import VERSION
from supabase_local.migrations import MigrationFailed
from supabase_local.postgres import Postgres
from tests.install.projects import HostedDatabase, hosted_database, install
from tests.install.second import make_release
from tests.install.upgrades import first_release, upgrade, write
from tests.support.engine import ACME, SEALED, Engine, Json, handle, ids_of
from tests.support.paths import ROOT
from tests.support.stranger import bakery

SCHEMAS = Schemas("public")
#: A change of a table, which needs a step in supabase/steps.
STEP = "alter table queue.pauses add column said text not null;\n"
#: New columns, with a comment that a `do` block sets. These changes need no step.
COLUMNS = """
alter table queue.pauses add column note text;
alter table queue.pauses add column is_noted boolean not null default false;
do $$ begin execute format('comment on column queue.pauses.note is %L', 'Person: words'); end; $$;
"""
#: The tenants are a project's organizations, or rows of our tables.
TENANCIES = {
    "minutehand": existing("organizations(id,name)", "memberships(organization_id,user_id,role)"),
    "public": Tenants(),
}


def test_no_released_file_has_changed() -> None:
    """Each released migration has the hash that supabase/RELEASES.json records."""
    assert releases.problems() == []


def test_the_one_migration_of_an_app_is_its_present_text() -> None:
    """An example app's migration is equal to its schemas.

    After a change, run `python -m infra.release.apps`.
    """
    written = {app.name: [path.read_text() for path in app.migrations] for app in apps_of(ROOT)}
    assert written == {app.name: [apps.migration_text(app)] for app in apps_of(ROOT)}


@pytest.mark.usefixtures("released")
def test_the_present_text_is_its_release_or_can_be_one(postgres: Postgres) -> None:
    """The current sources equal their release. If it does not exist, the fixture releases them."""
    if VERSION in releases.read():
        releases.check_present(server=postgres)


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    """A copy of the checkout in which this version is released, and which a test may change."""
    for name in ("supabase", "shared/minutehand/webhooks"):
        shutil.copytree(released / name, tmp_path / name)
    shutil.copy(released / "shared/minutehand/version.py", tmp_path / "shared/minutehand")
    return tmp_path


def test_a_changed_function_is_one_migration(copy: Path, postgres: Postgres) -> None:
    """A release writes the changed functions, new columns and the steps into one migration.

    A function with changed arguments is dropped first.
    """
    lane = copy / "supabase/schemas/04_enqueue.sql"
    text = lane.read_text()
    [function] = re.findall(r"create function queue\.lane_of.*?\nend", text, re.DOTALL)
    lane.write_text(text.replace(function, function.replace("p_within", "p_inside")))
    pauses = copy / "supabase/schemas/02_jobs.sql"
    pauses.write_text(pauses.read_text() + STEP + COLUMNS)
    steps = copy / "supabase/steps"
    steps.mkdir(exist_ok=True)
    (steps / "9.9.9.sql").write_text(STEP)
    note = copy / "shared/minutehand/webhooks/schemas/2100_webhooks.sql"
    note.write_text(
        f"{note.read_text()}comment on function queue.do_webhooks is 'Send.';\n"
        "comment on column queue.webhooks.url is 'Address.';\n"
    )

    engine, app = make_release(copy, "9.9.9", postgres)

    made = engine.read_text()
    changed = re.findall(r"^create or replace function (\S+)\(", made, re.MULTILINE)
    assert changed == ["queue.version", "queue.lane_of"]
    assert made.count("alter table") == 3
    assert made.count(STEP) == made.count("comment on column") == 1
    assert made.index("drop function queue.lane_of(") < made.index(
        "replace function queue.lane_of("
    )
    for about in ("function queue.do_webhooks", "column queue.webhooks.url"):
        assert f"comment on {about} is" in app.read_text()


def test_what_cannot_be_released_is_refused_in_words(copy: Path, postgres: Postgres) -> None:
    """A release is rejected for an edited released file, a forgotten version or a missing step."""
    jobs = copy / "supabase/schemas/02_jobs.sql"
    jobs.write_text(jobs.read_text() + STEP)
    with pytest.raises(CannotRelease, match=f"those of {VERSION}, which is released, or"):
        releases.check_present(copy, VERSION, postgres)
    with pytest.raises(
        CannotRelease, match=r"\+ alter table queue\.pauses add column if not exists said text"
    ):
        make_release(copy, "9.9.9", postgres)

    home = copy / "supabase/migrations"
    first, second, *_ = sorted(home.glob("*.sql"))
    first.write_text(first.read_text() + "-- by hand\n")
    second.unlink()
    for name in ("20261120000100_early.sql", "30000101_short.sql"):
        (home / name).touch()
    problems = "\n".join(releases.problems(copy))
    for problem in (
        f"{second.name} was released with 0.3.0 and is missing",
        "20261120000100_early.sql is new and must sort after",
        "30000101_short.sql must begin with a timestamp",
    ):
        assert problem in problems
    with pytest.raises(CannotRelease, match=r"with 0[.]3[.]0 and has changed"):
        make_release(copy, "9.9.9", postgres)


@pytest.mark.parametrize("schema", TENANCIES)
def test_an_upgrade_ends_where_a_first_install_begins(
    schema: str, texts: list[str], postgres: Postgres, tmp_path: Path
) -> None:
    """An upgrade from version 0.3.0 leaves the objects of a new install."""
    schemas, tenants = Schemas(schema), TENANCIES[schema]
    catalogues = []
    for name, parts in {"upgraded": first_release(schemas, tenants), "new": []}.items():
        project = tmp_path / name
        (project / "supabase/migrations").mkdir(parents=True)
        if schema != "public":  # the projects of this test have their own table public.jobs
            bakery(project)
        with hosted_database(postgres) as database:
            database.apply(project)
            before = database.everything()
            if parts:
                write(project, parts)
                database.apply(project)
                upgrade(project, texts, schemas)
            else:
                install(project, schema, tenants)
            database.apply(project)
            catalogues.append(catalogue(database.url, schemas))

            database.as_owner(removal_sql(project))
            assert database.everything() == before
    assert differences(*catalogues) == []


@contextmanager
def engine_of(database: HostedDatabase) -> Iterator[Engine]:
    """Yield an engine that calls a project's functions, with one workspace."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        engine = Engine(database, connection)
        engine.run("insert into public.workspaces (id, name) values (%s, 'Acme')", ACME)
        yield engine


def test_an_upgrade_and_a_removal_hold_all_tables_or_none(
    hosted: HostedDatabase, tmp_path: Path
) -> None:
    """Neither deadlocks with a worker's transaction that locks several tables."""
    (tmp_path / "supabase/migrations").mkdir(parents=True)
    install(tmp_path, "public")
    lock_tables, *_ = upgrade_migrations([], Schemas(), [])[1]
    hosted.apply(tmp_path)
    with engine_of(hosted) as engine, engine.another_session() as session:
        for script in (lock_tables.text, removal_sql(tmp_path)):
            with engine.open_transaction() as other:
                other.run("lock table queue.leases in row share mode")
                done = engine.blocked(session.run, script)
                other.run("lock table queue.pauses in row share mode")
            done.result()


@pytest.fixture
def old_project(tmp_path: Path) -> Path:
    """A project with the migrations of version 0.3.0."""
    (tmp_path / "supabase/migrations").mkdir(parents=True)
    write(tmp_path, first_release(SCHEMAS, Tenants()))
    return tmp_path


def test_an_upgrade_names_a_function_of_the_project_that_would_stop_it(
    texts: list[str], hosted: HostedDatabase, old_project: Path
) -> None:
    """Release 0.5.6 drops a function that the project's function calls in a parsed body."""
    hosted.apply(old_project)
    own = "create or replace function public.stop(id uuid) returns jsonb language sql"
    call = "select public.cancel_job(id);"
    hosted.as_owner(f"{own} begin atomic {call} end")
    upgrade(old_project, texts, SCHEMAS)

    with pytest.raises(MigrationFailed, match=r"the body of (public\.)?stop\(uuid\) calls"):
        hosted.apply(old_project)
    hosted.as_owner(f"{own} as $$ {call} $$")
    hosted.apply(old_project)


def test_an_upgrade_in_flight_loses_no_job_and_runs_none_twice(
    texts: list[str], hosted: HostedDatabase, old_project: Path
) -> None:
    """During an upgrade from 0.3.0 there are jobs in every state.

    Each job then ends, and none runs twice.
    """
    hosted.apply(old_project)
    with engine_of(hosted) as engine:
        held = fill(engine)

        upgrade(old_project, texts, SCHEMAS)
        hosted.apply(old_project)
        assert {each["outcome"] for each in engine.settle_all(held)} == {"applied"}
        leased = drain(engine)

        assert max(leased.values()) == 1, "a job ran twice"
        states = "select status, count(*)::integer from public.jobs group by 1 order by 1"
        assert engine.rows(states) == [("completed", 1128), ("failed", 4)]


def fill(engine: Engine) -> list[Json]:
    """Create jobs in every state. Return the settlements of those that are running."""
    engine.register("plain")
    engine.register("keyed", key_concurrency=1)
    engine.enqueue_many(30, job_type="plain")
    leases = engine.lease(30, lease_seconds=600)
    ends: list[Json] = [
        {"outcome": "completed"},
        {"outcome": "retry", "error": {"message": "m"}},
        {"outcome": "failed", "error": {"message": "m"}},
        {"outcome": "snoozed", "delay_seconds": 600},
        {"outcome": "waiting", "wait": {"kind": "ask", "name": "q", "question": "?"}},
    ]
    items = [{**handle(lease), **ends[n % 6 % 5]} for n, lease in enumerate(leases)]
    engine.settle_all(items[:25])
    engine.enqueue_many(1000, job_type="plain")
    engine.enqueue_many(30, job_type="plain", delay_seconds=600)
    for n in range(5):
        engine.enqueue_many(10, job_type="keyed", concurrency_key=f"k{n}")
    engine.enqueue_many(20, job_type="later")
    engine.run("insert into public.jobs (workspace_id, job_type) values (%s, 'plain')", ACME)
    for n in range(4):
        engine.enqueue(job_type="plain", unique={"key": "u"}, idempotency_key=f"i{n}")
    return [{**item, "outcome": "completed"} for item in items[25:]]


def drain(engine: Engine) -> Counter[str]:
    """Run all remaining jobs an hour later. Return how often each was leased."""
    for job_id in engine.rows("select job_id from queue.waits"):
        engine.rpc("answer_job", p_job_id=job_id, p_answer={"answer": 1})
    engine.register("later")
    engine.advance(3600)
    leased: Counter[str] = Counter()
    while leases := engine.lease(100):
        types = Counter(lease["job"]["job_type"] for lease in leases)
        assert types["keyed"] <= 5, "more jobs of a key run than allowed"
        leased.update(ids_of(leases))
        engine.complete(leases)
    return leased


def test_an_upgrade_keeps_webhooks_and_deliveries_under_way(
    texts: list[str], hosted: HostedDatabase, old_project: Path
) -> None:
    """An upgrade from 0.3.0 keeps webhooks, their secrets and leased deliveries."""
    rows = "select to_jsonb(w) from queue.webhooks as w"
    hosted.apply(old_project)
    with engine_of(hosted) as engine:
        engine.publish_deliveries()
        engine.register()
        engine.put_webhook(event_types=["job.created"])
        job_id = engine.enqueue()
        engine.maintain()
        lease = engine.lease_one(job_types=["webhook_delivery"])
        engine.enqueue()  # its event is not yet read by maintenance
        kept = engine.rows(rows)
        upgrade(old_project, texts, SCHEMAS)
        hosted.apply(old_project)

        assert engine.rows(rows) == kept
        message = engine.rpc("webhook_to_send", p_request=handle(lease))
        assert message["sealed_secrets"] == [SEALED]
        assert message["body"]["data"]["job_id"] == job_id
        answer = {**handle(lease), "ok": True, "status": 200, "message": "delivered"}
        assert engine.rpc("webhook_sent", p_request=answer)["enabled"]
        engine.settle(lease)
        engine.elapse(2)
        assert len(engine.lease(job_types=["webhook_delivery"])) == 1
