"""After a restore or an upgrade of Postgres, each reader gets each event once, or `reset`.

The tests use an upgrade, dumps, a copy of the data folder, a recovery to an instant and a promoted
replica.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from supabase_local.postgres import Postgres
from tests.sql.test_grants import differences
from tests.support.databases import Database, fresh_database, prepared_server
from tests.support.engine import ACME, Engine, Json
from tests.support.patience import until
from tests.support.postgres_tools import own_folder, run_tool

WEEKLY = pytest.mark.weekly(only=True)
SPEND = "do 'begin for n in 1..{} loop perform pg_current_xact_id(); commit; end loop; end'"
COUNTED = """
select sum((counts ->> 'enqueued')::integer) from queue.stats
where job_type = 'work' and workspace_id = %s
"""


@dataclass
class Source:
    """A server with one job that all readers have read, and a second job that they have not."""

    database: Database
    engine: Engine
    base: Path  # A copy of the data folder from before the second job.
    read: str
    unread: str
    cursor: str  # Cursor of a reader that has read the first job.
    late: str  # Cursor of a reader that has read both jobs.

    @property
    def server(self) -> Postgres:
        return self.database.server


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    server = prepared_server(tmp_path_factory.mktemp("source"))
    with ExitStack() as stack:
        stack.callback(server.destroy)
        server.start()
        database = stack.enter_context(fresh_database(server))
        with database.connect() as connection:
            engine = Engine(database, connection)
            engine.run("insert into workspaces (id, name) values (%s, 'Acme')", ACME)
            engine.register()
            engine.publish_deliveries()
            engine.run(SPEND.format(20_000))
            engine.put_webhook(event_types=["job.created"])
            read = engine.enqueue()
            engine.maintain()
            cursor = page(engine, "1:1:")[1]["cursor"]
            base = copied_folder(server, own_folder(server))
            engine.run("select pg_create_restore_point('before')")
            unread = engine.enqueue()
            late = page(engine, cursor)[1]["cursor"]
            archive = base.with_name("archive")
            subprocess.run(["cp", "-a", server.data_dir / "pg_wal", archive], check=True)
            yield Source(database, engine, base, read, unread, cursor, late)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Postgres]:
    """A second server without a data folder."""
    server = Postgres(tmp_path / "other", scratch=True)
    yield server
    server.destroy()


def copied_folder(server: Postgres, into: Path, *options: str) -> Path:
    """Copy the server's data folder while the server runs."""
    folder = into / "copied"
    options = ("--checkpoint=fast", "--no-sync", *options)
    run_tool(server, "pg_basebackup", "-d", server.url(), "-D", folder, *options)
    return folder


def start_over(folder: Path, server: Postgres, source: Source, signal: str = "") -> None:
    """Start a server on a copy of the source server's data."""
    subprocess.run(["cp", "-a", folder, server.data_dir], check=True)  # `cp -a` keeps the owner
    if signal:
        (server.data_dir / signal).touch()
    shutil.copy(source.server.state_dir / "postgres.password", server.state_dir)
    server.start()


def wait_for_promotion(server: Postgres) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        until(lambda: connection.execute("select not pg_is_in_recovery()").fetchone() == (True,))


def by_upgrade(source: Source, other: Postgres) -> str:
    """Upgrade the data with pg_upgrade.

    Rows and transaction ids stay, and the system identifier is new.
    """
    old = Postgres(other.state_dir / "old", scratch=True)
    try:
        start_over(copied_folder(source.server, own_folder(old)), old, source)
        old.stop()
        other.initialise()
        shutil.copy(old.state_dir / "postgres.password", other.state_dir)
        for server in (old, other):
            (server.data_dir / "pg_hba.conf").write_text("local all all trust\n")
            with (server.data_dir / "postgresql.conf").open("a") as settings:
                settings.write(f"extension_control_path = '{old.home}/extensions:$system'\n")
        programs = old.binary("postgres").parent
        run_tool(
            other,
            "pg_upgrade",
            *(f"--old-bindir={programs}", f"--new-bindir={programs}"),
            *(f"--old-datadir={old.data_dir}", f"--new-datadir={other.data_dir}"),
            *(f"--old-port={old.port}", f"--new-port={other.port}"),
            *(f"--socketdir={own_folder(other)}", "--username=supabase_admin", "--no-sync"),
        )
    finally:
        old.destroy()
    (other.data_dir / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    other.start()
    return source.database.name


def by_promotion(source: Source, other: Postgres) -> str:
    """Promote a replica that has all rows. It serves reads before its promotion."""
    folder = copied_folder(source.server, own_folder(other), "--write-recovery-conf")
    start_over(folder, other, source)
    url = other.url(database=source.database.name)
    with psycopg.connect(url, autocommit=True) as connection:
        replica = Engine(source.database, connection)
        until(lambda: page(replica, source.cursor)[0] == [source.unread])
        assert "reset" not in page(replica, source.late)[1]
        replica.run("select pg_promote()")
    wait_for_promotion(other)
    return source.database.name


def by_recovery(source: Source, other: Postgres) -> str:
    """Recover to an instant before the second job, so that later transactions reuse its id."""
    with (source.base / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"""
            restore_command = 'cp "{source.base.with_name("archive")}/%f" "%p"'
            recovery_target_name = 'before'
            recovery_target_action = 'promote'
        """)
    start_over(source.base, other, source, "recovery.signal")
    wait_for_promotion(other)
    return source.database.name


def by_dump(source: Source, other: Postgres) -> str:
    """Restore the roles and then the database from dumps, as the documentation describes."""
    if other.process is None:
        other.start()
    url = source.server.url(database="template1")
    roles = run_tool(other, "pg_dumpall", "--roles-only", "--no-role-passwords", "-d", url)
    run_tool(other, "psql", "-q", other.url(), text=roles)
    dump = run_tool(other, "pg_dump", source.database.url)
    options = ("-q", "--single-transaction", "-v", "ON_ERROR_STOP=1")
    run_tool(other, "psql", *options, other.url(), text=dump)
    return "postgres"


def by_dump_into_older(source: Source, other: Postgres) -> str:
    """Restore the dump into a server whose transaction ids are higher than the source's."""
    other.start()
    with psycopg.connect(other.url(), autocommit=True) as connection:
        connection.execute(SPEND.format(40_000))
    return by_dump(source, other)


def deliveries(engine: Engine) -> list[str]:
    """Return the jobs of all webhook deliveries, once for each delivery."""
    made = "select payload ->> 'job_id' from jobs where job_type = 'webhook_delivery'"
    return engine.rows(f"{made} order by id")


def page(engine: Engine, cursor: str) -> tuple[list[str], Json]:
    """Read a page of the event feed. Return the jobs that it reports as created, and the page."""
    found = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor=cursor, p_limit=1000)
    return [e["job_id"] for e in found["events"] if e["type"] == "job.created"], found


@pytest.mark.parametrize(
    ("way", "spent", "resets"),
    [
        (by_upgrade, 0, False),
        (by_dump_into_older, 0, False),
        (by_dump, 0, True),
        # The new transaction ids exceed the old ones before anyone reads.
        pytest.param(by_dump, 30_000, True, marks=WEEKLY),
        (by_promotion, 0, True),
        (by_recovery, 0, True),
        pytest.param(by_recovery, 30_000, True, marks=WEEKLY),
    ],
)
def test_each_event_reaches_each_reader_once(
    source: Source,
    other: Postgres,
    way: Callable[[Source, Postgres], str],
    spent: int,
    resets: bool,
) -> None:
    """After the server was replaced, webhooks and statistics continue at their position.

    A reader of the event feed continues too, or gets `reset`. All objects are as released.
    """
    name = way(source, other)
    database = Database(other, name)
    with database.connect() as connection:
        there = Engine(database, connection)
        kept = [source.read] if way is by_recovery else [source.read, source.unread]
        made = there.enqueue()
        there.run(SPEND.format(spent))
        for _ in range(2):
            there.elapse(6)

        assert deliveries(there) == [*kept, made]
        assert there.one(COUNTED, ACME) == len([*kept, made])
        expected = [] if resets else [*kept[1:], made]
        events, answer = page(there, source.cursor)
        assert (answer.get("reset", False), events) == (resets, expected)
        assert page(there, source.late)[1].get("reset", False) == resets
        assert page(there, "1:1:")[0] == [*kept, made]
        last = there.enqueue()
        assert page(there, answer["cursor"])[0] == [last]
        for _ in range(2):
            there.elapse(2)
            there.run_all()
        assert deliveries(there) == [*kept, made, last]
        # the test's database has a clock of its own
        assert [found for found in differences(there) if "queue.clock()" not in found.detail] == []
