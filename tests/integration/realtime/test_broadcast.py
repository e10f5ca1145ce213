"""Broadcasts from one client to others, in both versions and in binary."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from realtime import AsyncRealtimeClient
from websockets.exceptions import ConnectionClosed

from tests.integration.realtime.support import (
    ADA,
    EVE,
    PUBLISHABLE,
    SECRET_KEY,
    JavaScript,
    Server,
    as_base64,
    token,
    unique,
)

UNICODE = {"text": 'naïve 日本語 🚀 \u2028 \\ " </script>', "ключ": ["ñ", None, True, 1.5]}
DEEP = {"a": [{"b": {"c": [[[{"d": {"e": [1, [2, [3, {"f": "g"}]]]}}]]]}}] * 3}


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


@pytest.mark.parametrize("version", [1, 2])
async def test_self_decides_whether_the_sender_receives_its_own(connect: Any, version: int) -> None:
    """Check 10: other channels always hear it."""
    topic = unique()
    deaf, echo, other = [await connect(version=version) for _ in range(3)]
    await deaf.joined(topic)
    await echo.joined(topic, broadcast={"self": True})
    await other.joined(topic)

    await deaf.broadcast(topic, "one", {})
    await echo.expect("broadcast")
    await echo.broadcast(topic, "two", {})

    assert (await echo.expect("broadcast"))["payload"]["event"] == "two"
    assert [(await other.expect("broadcast"))["payload"]["event"] for _ in range(2)] == [
        "one",
        "two",
    ]
    assert (await deaf.expect("broadcast"))["payload"]["event"] == "two"
    await deaf.silence()


@pytest.mark.parametrize("version", [1, 2])
async def test_an_acknowledgement_carries_the_pushs_ref(connect: Any, version: int) -> None:
    """Check 11: and there is none unless asked for."""
    asks, silent = await connect(version=version), await connect(version=version)
    await asks.joined(unique_topic := unique(), broadcast={"ack": True})
    await silent.joined(other_topic := unique())

    ref = await asks.broadcast(unique_topic, "e", {})
    await silent.broadcast(other_topic, "e", {})

    assert await asks.reply_to(ref) == {"status": "ok", "response": {}}
    await silent.silence()


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


@pytest.mark.parametrize("payload", [{"n": 1}, UNICODE, DEEP, {"big": "x" * 100_000}, {}])
async def test_javascript_and_python_understand_each_other(
    server: Server, js: JavaScript, payload: dict[str, Any]
) -> None:
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

    sent = await js.call("send", channel="c", event="événement", payload=payload)
    heard = await asyncio.wait_for(received.get(), 60)
    await channel.send_broadcast("zurück", payload)
    [got] = await js.receive("c")
    await client.close()

    assert sent == "ok"
    assert (heard["event"], heard["payload"]) == ("événement", payload)
    assert "meta" not in heard
    assert got == {"type": "broadcast", "event": "zurück", "payload": payload}


async def test_bytes_arrive_as_they_were_and_only_on_version_2(
    server: Server, js: JavaScript, connect: Any
) -> None:
    """Check 14: version 1 has no way to carry them."""
    topic, data = unique(), os.urandom(3000)
    old, new = await connect(version=1), await connect(version=2)
    await old.joined(topic)
    await new.joined(topic)
    await js.call("client", name="c", url=server.http, key=PUBLISHABLE)
    config = {"broadcast": {"self": True}}
    on = [{"type": "broadcast", "event": "*"}]
    await js.call("subscribe", client="c", channel="c", topic=topic, config=config, on=on)

    await js.call("send", channel="c", event="bytes", base64=as_base64(data))

    assert (await new.expect("broadcast"))["payload"]["payload"] == data
    [echo] = await js.receive("c")
    assert echo["payload"] == {"base64": as_base64(data)}
    await old.silence()


async def test_a_text_broadcast_keeps_its_extra_keys(connect: Any) -> None:
    """§2: the sender's payload object is passed on verbatim."""
    topic = unique()
    sender, old, new = await connect(version=1), await connect(version=1), await connect()
    for socket in (sender, old, new):
        await socket.joined(topic)
    payload = {"type": "broadcast", "event": "e", "payload": {"n": 1}, "extra": [1, {"x": None}]}

    await sender.push(f"realtime:{topic}", "broadcast", payload)

    for socket in (old, new):
        frame = await socket.expect("broadcast")
        assert frame["payload"] == payload
        assert frame["form"] == f"text{socket.version}"


async def test_fifty_sockets_receive_every_message_in_order(connect: Any) -> None:
    """Check 36: of one sender, on each of them."""
    topic = unique()
    sender = await connect()
    await sender.joined(topic)
    sockets = [await connect(version=1 + n % 2) for n in range(50)]
    await asyncio.gather(*(socket.joined(topic) for socket in sockets))

    for n in range(100):
        await sender.broadcast(topic, "n", {"n": n})

    async def numbers(socket: Any) -> list[int]:
        return [(await socket.expect("broadcast"))["payload"]["payload"]["n"] for _ in range(100)]

    for got in await asyncio.gather(*map(numbers, sockets)):
        assert got == list(range(100))


async def test_an_oversized_payload_is_refused_and_the_channel_continues(connect: Any) -> None:
    """Check 38: the limit is 3,000 KB and 500 bytes."""
    topic = unique()
    sender, other = await connect(), await connect()
    join_ref = await sender.joined(topic, broadcast={"ack": True})
    await other.joined(topic)

    def body(size: int) -> bytes:
        return json.dumps({"x": "y" * (size - len('{"x": ""}'))}).encode()

    await sender.push_binary(
        f"realtime:{topic}", "big", body(3_000_501), join_ref=join_ref, ref="50"
    )
    refused = await sender.reply_to("50")
    text = await sender.broadcast(topic, "big", {"x": "y" * 3_000_500})
    refused_text = await sender.reply_to(text)
    await other.silence()
    await sender.push_binary(
        f"realtime:{topic}", "fits", body(3_000_500), join_ref=join_ref, ref="51"
    )

    assert refused == refused_text == {"status": "error", "response": "payload_size_exceeded"}
    assert (await sender.reply_to("51"))["status"] == "ok"
    assert (await other.expect("broadcast"))["payload"]["event"] == "fits"


async def test_a_frame_over_five_megabytes_closes_only_its_socket(connect: Any) -> None:
    """Check 38 and issue 5: 10 MB never crash the server."""
    topic = unique()
    guilty, innocent = await connect(), await connect()
    await guilty.joined(topic)
    await innocent.joined(topic)

    with suppress(ConnectionClosed):  # the close may come while the rest is being sent
        await guilty.send_raw(json.dumps([None, "1", f"realtime:{topic}", "e", "x" * 10**7]))
    await guilty.connection.wait_closed()

    assert guilty.connection.close_code == 1009
    assert await innocent.is_alive()
