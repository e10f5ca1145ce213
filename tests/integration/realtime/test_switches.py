"""What hosted does now and then, by switch: late, lossy, exhausted, idle, without a partition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from tests.integration.realtime.support import SECRET_KEY, Server, Socket, unique

READY = "Replication connection established"

Start = Callable[..., Server]
Sql = psycopg.Connection[Any]


def send(sql: Sql, topic: str, *events: str) -> None:
    """Commit a message for each, in one transaction."""
    sql.execute("select realtime.send('{}', e, %s) from unnest(%s::text[]) e", [topic, [*events]])


def slots(sql: Sql) -> set[str]:
    """Where Postgres keeps what is to be streamed, of every server."""
    found = sql.execute("select slot_name::text from pg_replication_slots").fetchall()
    return {name for (name,) in found}


async def join_ready(socket: Socket, topic: str) -> None:
    """Join as our clients do; the reply does not wait for replication."""
    await socket.joined(topic, private=True, broadcast={"replication_ready": True})


async def message_of(socket: Socket) -> str:
    """What the next `system` frame says."""
    message: str = (await socket.expect("system"))["payload"]["message"]
    return message


async def test_a_join_is_answered_before_replication_and_notified_when_it_runs(
    start_server: Start, connect: Any, sql: Sql
) -> None:
    """What is committed in between is lost with the channel joined."""
    for seconds in (1, 4, 16):  # longer where a busy machine has sent too late
        others, topic = slots(sql), unique()
        server = start_server(wait=False, replication_ready_seconds=seconds)
        socket = await connect(server=server, key=SECRET_KEY)
        await join_ready(socket, topic)
        send(sql, topic, "deaf")
        if slots(sql) <= others:
            break
        server.stop()

    assert await message_of(socket) == READY
    send(sql, topic, "heard")

    assert (await socket.expect("broadcast"))["payload"]["event"] == "heard"


async def test_a_slot_waits_for_an_open_write_transaction(
    start_server: Start, connect: Any, project: Any, sql: Sql
) -> None:
    """The usual cause of a late start: an import or a migration."""
    topic = unique()
    with project.connect() as other:
        other.execute("set synchronous_commit = on")
        with other.transaction():
            other.execute("create table public.long_import ()")
            server = start_server(wait=False)
            socket = await connect(server=server, key=SECRET_KEY)
            await join_ready(socket, topic)
            send(sql, topic, "deaf")
            await socket.silence()
    assert await message_of(socket) == READY


async def test_a_join_finds_the_authorization_pool_exhausted(
    start_server: Start, connect: Any
) -> None:
    """The next one passes; hosted answers the refusal after five seconds."""
    server = start_server(exhausted_joins=1, join_error_delay_seconds=0.2)
    socket, topic = await connect(server=server, key=SECRET_KEY), unique()

    refused = await socket.join(topic, private=True)

    assert refused["response"]["reason"].startswith("IncreaseConnectionPool: ")
    await socket.joined(topic, private=True)


def test_a_handshake_fails_and_the_next_one_passes(start_server: Start) -> None:
    """Hosted answers it after two seconds."""
    server = start_server(refused_handshakes=1, connect_error_delay_seconds=0.1)
    url = server.websocket_url().replace("ws://", "http://")
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}

    answers = [httpx.get(url, headers=upgrade, timeout=30) for _ in range(2)]

    assert answers[0].status_code == 500
    assert answers[0].json() == {"error": "Error connecting to Realtime"}
    assert answers[1].status_code == 400  # past the refusal; it has no key for the handshake


@pytest.fixture
def partitions(sql: Sql) -> Any:
    """Today's partition is back afterwards."""
    yield
    sql.execute("select realtime.maintain_partitions()")
