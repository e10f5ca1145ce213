"""What is heard can be read: delivery waits until a commit is visible to everybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from tests.integration.realtime.support import SECRET_KEY, unique
from tests.support.databases import Database

Held = Callable[[str, list[Any]], Any]
#: When it has asked last.
LOOKED = """
  select state_change from pg_stat_activity
  where application_name = 'realtime_visibility' and state = 'idle'
    and datname = current_database()
"""


async def until_commits_wait(
    url: str, admin: psycopg.AsyncConnection[Any]
) -> list[asyncio.Task[None]]:
    """Commit until a commit hangs: the server reads its configuration again when it has time.

    Returns:
        The commits, of which one hangs.
    """

    async def commit() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as probe:
            await probe.execute("set synchronous_commit = on")
            await probe.execute("select pg_logical_emit_message(true, 'probe', '')")

    probes: list[asyncio.Task[None]] = []
    while True:
        if all(probe.done() for probe in probes):
            probes.append(asyncio.create_task(commit()))
        found = await admin.execute("select 1 from pg_stat_activity where wait_event = 'SyncRep'")
        if await found.fetchone():
            return probes
        await asyncio.sleep(0.01)


@pytest.fixture
def half_committed(project: Database) -> Held:
    """Run a statement whose commit is in the log, and streamed, but not visible to anybody yet.

    Waiting for a synchronous standby that does not exist stops a commit exactly there.
    """

    @asynccontextmanager
    async def hold(statement: str, values: list[Any]) -> AsyncIterator[Awaitable[Any]]:
        async with await psycopg.AsyncConnection.connect(project.url, autocommit=True) as admin:
            await admin.execute("alter system set synchronous_standby_names = 'nobody'")
            await admin.execute("select pg_reload_conf()")
            probes = await until_commits_wait(project.url, admin)
            writer = await psycopg.AsyncConnection.connect(project.url, autocommit=True)
            await writer.execute("set synchronous_commit = on")
            writing = asyncio.create_task(writer.execute(statement, values))
            try:
                yield writing
            finally:
                await admin.execute("alter system reset synchronous_standby_names")
                await admin.execute("select pg_reload_conf()")
                await asyncio.gather(writing, *probes)
                await writer.close()

    return hold


async def test_a_message_waits_for_its_commit_to_be_visible(
    connect: Any, half_committed: Held
) -> None:
    """A client that joins and then reads must find what was sent before its join."""
    topic, socket = unique(), await connect(key=SECRET_KEY)
    await socket.joined(topic, private=True)

    async with half_committed("select realtime.send('{}', 'e', %s)", [topic]) as writing:
        await socket.silence(1)
        assert not writing.done()

    assert (await socket.expect("broadcast"))["payload"]["event"] == "e"


async def test_a_row_change_is_tested_once_the_row_is_visible(
    connect: Any, half_committed: Held, sql: psycopg.Connection[Any]
) -> None:
    """RLS looks at the present row: too early, the change would be hidden from everybody."""
    sql.execute(
        "create table public.seen (id int primary key);"
        "grant select on public.seen to anon;"
        "alter table public.seen enable row level security;"
        "create policy everybody on public.seen for select using (true);"
        "alter publication supabase_realtime add table public.seen"
    )
    socket = await connect()
    entry = {"event": "*", "schema": "public", "table": "seen"}
    await socket.joined(unique(), postgres_changes=[entry])
    await socket.expect("system")

    async with half_committed("insert into public.seen values (%s)", [1]) as writing:
        await socket.silence(1)
        assert not writing.done()

    assert (await socket.expect("postgres_changes"))["payload"]["data"]["record"] == {"id": 1}
