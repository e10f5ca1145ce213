"""Realtime broadcasts between clients, in both protocol versions and in binary frames."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from tests.supabase_local.realtime.support import ADA, EVE, SECRET_KEY, token, unique

UNICODE = {"text": 'naïve 日本語 🚀 \u2028 \\ " </script>', "ключ": ["ñ", None, True, 1.5]}


async def test_public_and_private_rooms_of_a_topic_are_separate(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """A broadcast to the public room of a topic does not reach its private room, and vice versa.

    Clients, REST and the database can send to both rooms.
    """
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
    """A broadcast without the right to write is dropped without an ack.

    The sender's channel still receives messages.
    """
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


async def test_a_binary_broadcast_is_text_to_those_of_version_one(connect: Any) -> None:
    """A binary broadcast reaches a client of protocol version 1 as text."""
    topic, event = unique("réunion"), "événement"
    sender, other = await connect(), await connect(version=1)
    third = await connect()
    for socket in (sender, other, third):
        await socket.joined(topic)
    parts = [part.encode() for part in ("", "9", f"realtime:{topic}", event, "")]
    head = bytes([3, *map(len, parts), 1])

    await sender.send_raw(head + b"".join(parts) + json.dumps(UNICODE).encode())

    for socket in (other, third):
        received = (await socket.expect("broadcast"))["payload"]
        assert received == {"type": "broadcast", "event": event, "payload": UNICODE}
