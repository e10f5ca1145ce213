"""What must not break the server: lost sockets, garbage, floods, slow readers."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
from realtime import AsyncRealtimeClient, RealtimeSubscribeStates

from tests.integration.realtime.support import (
    PUBLISHABLE,
    JavaScript,
    Server,
    unique,
)
from tests.support.hostile_proxy import HostileProxy


@pytest.fixture
async def wire(server: Server) -> AsyncIterator[HostileProxy]:
    """A wire that can be cut."""
    proxy = HostileProxy(server.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


# ------------------------------------------------------------------------------ lost sockets


async def test_the_javascript_client_comes_back_after_a_cut(
    connect: Any, js: JavaScript, wire: HostileProxy
) -> None:
    """Check 35: it rejoins and receives again; what it missed is not resent."""
    topic, sender = unique(), await connect()
    await sender.joined(topic, broadcast={"ack": True})
    await js.call("client", name="c", url=wire.url, key=PUBLISHABLE)
    on = [{"type": "broadcast", "event": "*"}]
    await js.call("subscribe", client="c", channel="c", topic=topic, on=on)

    wire.closed = True  # else a quick client is back before the message it is to miss
    wire.cut()
    await js.status("c", "CHANNEL_ERROR")
    await sender.reply_to(await sender.broadcast(topic, "missed", {}))
    wire.closed = False
    await js.until(
        lambda notices: (
            [n["status"] for n in notices if n["notify"] == "status"].count("SUBSCRIBED") == 2
        )
    )
    await sender.broadcast(topic, "after", {})

    assert [message["event"] for message in await js.receive("c")] == ["after"]


# the client itself reads a property that `websockets` deprecates
@pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:ConnectionClosed.reason is deprecated:DeprecationWarning")
async def test_the_python_client_comes_back_after_a_cut(connect: Any, wire: HostileProxy) -> None:
    """Check 35 with the other official client."""
    topic, sender = unique(), await connect()
    await sender.joined(topic)
    client = AsyncRealtimeClient(f"{wire.url}/realtime/v1", token=PUBLISHABLE, initial_backoff=0.1)
    received: asyncio.Queue[Any] = asyncio.Queue()
    joins: asyncio.Queue[Any] = asyncio.Queue()
    channel = client.channel(topic)
    channel.on_broadcast("*", received.put_nowait)
    await channel.subscribe(lambda status, _: joins.put_nowait(status))
    assert joins.get_nowait() == RealtimeSubscribeStates.SUBSCRIBED

    wire.cut()
    # until it was cut off it calls itself joined, and what is sent then would be lost
    while await asyncio.wait_for(joins.get(), 60) != RealtimeSubscribeStates.SUBSCRIBED:
        continue
    await sender.broadcast(topic, "after", {})

    assert (await asyncio.wait_for(received.get(), 60))["event"] == "after"
    await client.close()


async def test_a_shutdown_ends_every_channel_and_closes_with_1012(
    start_server: Callable[..., Server], connect: Any
) -> None:
    """§3: then clients come back by themselves."""
    server = start_server()
    socket, topic = await connect(server=server, version=1), unique()
    await socket.joined(topic)

    server.process.send_signal(signal.SIGTERM)
    frame = await socket.receive()
    await socket.connection.wait_closed()

    assert (frame["event"], frame["payload"]) == (
        "system",
        {"extension": "system", "status": "ok", "message": "Server requested disconnect"},
    )
    assert socket.connection.close_code == 1012
    assert server.process.wait(60) == 0


# -------------------------------------------------------------------------------------- garbage


MALFORMED_TEXT = [
    "",
    "garbage",
    "{",
    "null",
    "[]",
    "[1,2,3]",
    '["1","1","realtime:x","broadcast"]',
    '[{},"1","realtime:x","phx_join",{}]',
    '["1","1",7,"phx_join",{}]',
    '["1","1","realtime:x",null,{}]',
    '{"topic":"realtime:x"}',
    '["1","1","realtime:x","broadcast",NaN]',
    '["1","1","realtime:x","broadcast","\\ud800"]',
    "[" * 100_000,
    '["1","1","phoenix","unknown",{}]',
]
MALFORMED_BINARY = [
    b"",
    b"\x03",
    b"\x03\x01\x01\x0a\x02\x00\x01",
    b"\x03\xff\xff\xff\xff\xff\x01abc",
    b"\x03\x00\x00\x01\x01\x00\x07tx",
    b"\x03\x00\x00\x02\x01\x00\x01\xff\xfee{}",
    b"\x00\x01\x01\x01\x01",
    b"\x09" * 40,
    random.Random(39).randbytes(200),
]


@pytest.mark.parametrize("version", [1, 2])
async def test_malformed_frames_are_dropped_and_the_socket_stays(
    connect: Any, version: int
) -> None:
    """Check 39: no reply, no close; neighbours notice nothing."""
    socket, other, topic = await connect(version=version), await connect(), unique()
    await socket.joined(topic, broadcast={"self": True})
    await other.joined(topic)

    for data in (*MALFORMED_TEXT, *MALFORMED_BINARY):
        await socket.send_raw(data)
    await socket.silence()
    await socket.broadcast(topic, "fine", {})

    assert (await socket.expect("broadcast"))["payload"]["event"] == "fine"
    assert (await other.expect("broadcast"))["payload"]["event"] == "fine"


# --------------------------------------------------------------------------------------- floods


async def test_a_reader_that_never_reads_is_dropped_and_memory_stays_bounded(
    start_server: Callable[..., Server], connect: Any
) -> None:
    """Issue 5: bounded memory per connection; the others keep receiving."""
    server = start_server(outbound_buffer_bytes=2_000_000, messages_per_second=1_000_000)
    topic, sender, healthy = unique(), await connect(server=server), await connect(server=server)
    join_ref = await sender.joined(topic, broadcast={"ack": True})
    await healthy.joined(topic)
    sleepers = [await connect(server=server) for _ in range(10)]
    for sleeper in sleepers:
        await sleeper.joined(topic)
        sleeper.connection.transport.pause_reading()
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss

    body = json.dumps({"x": "y" * 100_000}).encode()
    for n in range(300):
        await sender.push_binary(
            f"realtime:{topic}", "e", body, join_ref=join_ref, ref=str(2000 + n)
        )
        await sender.reply_to(str(2000 + n))
        await healthy.expect("broadcast")

    assert server.wait_for("realtime.slow_consumer")["unsent_bytes"] > 2_000_000
    assert process.memory_info().rss - before < 60_000_000
    assert await healthy.is_alive()
    for sleeper in sleepers:
        sleeper.connection.transport.abort()


# -------------------------------------------------------------------------------------- restart
