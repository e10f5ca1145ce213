"""Broadcasts from one client to others, in both versions and in binary."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from realtime import AsyncRealtimeClient

from tests.integration.realtime.support import (
    ADA,
    EVE,
    PUBLISHABLE,
    SECRET_KEY,
    JavaScript,
    Server,
    token,
    unique,
)

UNICODE = {"text": 'naïve 日本語 🚀 \u2028 \\ " </script>', "ключ": ["ñ", None, True, 1.5]}


async def test_public_and_private_rooms_of_a_topic_are_separate(
    connect: Any, server: Server, sql: psycopg.Connection[Any]
) -> None:
    """Check 9: for clients, REST and the database, in both directions."""
    topic = unique()
    public, private, sender = [await connect(key=SECRET_KEY) for _ in range(3)]
    await public.joined(topic)
    await private.joined(topic, private=True)

    await sender.joined(topic)
    await sender.broadcast(topic, "public", {})
    assert (await public.expect("broadcast"))["payload"]["event"] == "public"
    await private.silence()

    await sender.joined(topic, private=True)
    await sender.broadcast(topic, "private", {})
    assert (await private.expect("broadcast"))["payload"]["event"] == "private"
    await public.silence()

    sql.execute("select realtime.send('{}', 'db-public', %s, false)", [topic])
    sql.execute("select realtime.send('{}', 'db-private', %s, true)", [topic])
    assert (await public.expect("broadcast"))["payload"]["event"] == "db-public"
    assert (await private.expect("broadcast"))["payload"]["event"] == "db-private"
    await public.silence()
    await private.silence()


async def test_without_the_right_to_write_a_broadcast_vanishes(connect: Any, grant: Any) -> None:
    """Check 12: no ack, no delivery; the channel stays and still receives."""
    topic = unique()
    reader, writer = await connect(), await connect()
    grant(topic, ADA, write=False)
    grant(topic, EVE)
    await reader.joined(topic, access_token=token(ADA), private=True, broadcast={"ack": True})
    await writer.joined(topic, access_token=token(EVE), private=True)

    await reader.broadcast(topic, "forbidden", {})
    await writer.silence()
    await writer.broadcast(topic, "allowed", {})

    assert (await reader.receive())["payload"]["event"] == "allowed"
    await reader.silence()


async def test_javascript_and_python_understand_each_other(server: Server, js: JavaScript) -> None:
    """Checks 13 and 37: version 2 binary to version 1 text and back, without metadata."""
    topic = f"réunion:{unique()}"
    await js.call("client", name="c", url=server.http, key=PUBLISHABLE)
    on = [{"type": "broadcast", "event": "*"}]
    config = {"broadcast": {"ack": True}}
    await js.call("subscribe", client="c", channel="c", topic=topic, config=config, on=on)
    client = AsyncRealtimeClient(f"{server.http}/realtime/v1", token=PUBLISHABLE)
    received: asyncio.Queue[Any] = asyncio.Queue()
    channel = client.channel(topic)
    channel.on_broadcast("*", received.put_nowait)
    await channel.subscribe()

    sent = await js.call("send", channel="c", event="événement", payload=UNICODE)
    heard = await asyncio.wait_for(received.get(), 60)
    await channel.send_broadcast("zurück", UNICODE)
    [got] = await js.receive("c")
    await client.close()

    assert sent == "ok"
    assert (heard["event"], heard["payload"]) == ("événement", UNICODE)
    assert "meta" not in heard
    assert got == {"type": "broadcast", "event": "zurück", "payload": UNICODE}
