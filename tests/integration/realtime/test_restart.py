"""A restart of Postgres under a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from tests.integration.realtime.support import SECRET_KEY, Server, open_socket, unique
from tests.support.databases import start_scratch_server

AWAY = "UnableToConnectToProject: Realtime was unable to connect to the project database"


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A Postgres of this test alone: it will be stopped."""
    server = start_scratch_server(tmp_path)
    migrations.prepare_hosted(server.url())
    with psycopg.connect(server.url(), autocommit=True) as sql:
        sql.execute(
            "create table public.survivors (id int primary key);"
            "grant select on public.survivors to service_role;"
            "alter publication supabase_realtime add table public.survivors"
        )
    yield server
    server.destroy()


@pytest.fixture
def own_server(own_postgres: Postgres) -> Iterator[Server]:
    """The Realtime server over it."""
    server = Server(own_postgres.url())
    yield server
    server.stop()


async def both_streams(server: Server, what: str, seen: int) -> None:
    """Wait until messages and changes are interrupted, or have started again."""
    for _ in range(1200):
        events = [e for e in server.events[seen:] if e["event"] == f"realtime.replication_{what}"]
        if len({e["publication"] for e in events}) == 2:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"replication was not {what}: {server.events[seen:]}")


async def test_the_server_survives_a_restart_of_postgres(
    own_postgres: Postgres, own_server: Server
) -> None:
    """Check 42: joins in between are refused with a listed reason, later everything flows."""
    server, topic = own_server, unique()
    socket = await open_socket(server, key=SECRET_KEY)
    await socket.joined(topic, private=True)
    entry = {"event": "*", "schema": "public", "table": "survivors"}
    await socket.joined(unique(), postgres_changes=[entry])
    await socket.expect("system")
    seen = len(server.events)

    own_postgres.stop()
    await both_streams(server, "interrupted", seen)
    async with httpx.AsyncClient(base_url=server.http) as client:
        health = await client.get("/realtime/v1/health")
    refused = [await socket.join(unique(), private=private) for private in (False, True)]
    own_postgres.start()
    await both_streams(server, "started", seen)

    assert health.status_code == 503
    assert [reply["response"] for reply in refused] == [{"reason": AWAY}] * 2
    with psycopg.connect(own_postgres.url(), autocommit=True) as sql:
        sql.execute("select realtime.send('{}', 'after', %s)", [topic])
        sql.execute("insert into public.survivors values (1)")
    assert (await socket.expect("broadcast"))["payload"]["event"] == "after"
    assert (await socket.expect("postgres_changes"))["payload"]["data"]["record"] == {"id": 1}
    await socket.joined(unique(), private=True)
    await socket.connection.close()
