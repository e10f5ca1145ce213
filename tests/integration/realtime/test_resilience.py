"""What must not break the server: lost sockets, garbage, floods, slow readers."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from realtime import AsyncRealtimeClient, RealtimeSubscribeStates
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.integration.realtime.support import (
    PUBLISHABLE,
    SECRET_KEY,
    JavaScript,
    Server,
    Socket,
    open_socket,
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


async def test_a_silent_socket_is_closed_with_1000(
    start_server: Callable[..., Server], connect: Any
) -> None:
    """§3: no frame for a while; heartbeats keep it open."""
    server = start_server(idle_seconds=4)
    late = True
    while late:  # a beat that a busy machine sends late proves nothing: begin again
        silent, beating = await connect(server=server), await connect(server=server)
        closed = asyncio.create_task(silent.connection.wait_closed())
        late, beat_at = False, time.monotonic()
        while not closed.done() and not late:
            await asyncio.sleep(0.15)
            late, beat_at = time.monotonic() - beat_at > 2, time.monotonic()
            try:
                assert late or await beating.is_alive()
            except ConnectionClosed:
                late = time.monotonic() - beat_at > 2
                assert late
        closed.cancel()

    assert silent.connection.close_code == 1000


async def test_a_socket_without_a_channel_is_cut(
    start_server: Callable[..., Server], connect: Any
) -> None:
    """§3: without a close frame."""
    for seconds in (0.3, 3, 30):  # longer where a busy machine is cut before it has joined
        server = start_server(no_channel_seconds=seconds)
        with suppress(WebSocketException, OSError):
            empty, busy = [await connect(server=server) for _ in range(2)]
            await busy.joined(unique())
            break

    await empty.connection.wait_closed()

    assert empty.connection.close_code == 1006
    assert await busy.is_alive()


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


@pytest.mark.parametrize("version", [1, 2])
async def test_a_topic_without_a_join_is_unmatched(connect: Any, version: int) -> None:
    """Check 39: also topics that cannot exist."""
    socket = await connect(version=version)

    for topic, event in (
        ("realtime:nobody", "broadcast"),
        ("other", "phx_join"),
        ("", "x"),
        ("realtime:nobody", "presence"),
    ):
        ref = await socket.push(topic, event, {})
        assert await socket.reply_to(ref) == {
            "status": "error",
            "response": {"reason": "unmatched topic"},
        }


async def test_odd_messages_on_a_joined_topic_do_no_harm(connect: Any) -> None:
    """Check 39: unknown events and payloads of the wrong kind."""
    socket, topic = await connect(), unique()
    await socket.joined(topic)

    payload: Any
    for event in ("unknown", "broadcast", "presence", "access_token", "phx_close", "phx_reply"):
        for payload in (None, 1, "text", [], {}, {"payload": []}, {"access_token": {}}):
            if event != "presence" or payload is None:
                await socket.push(f"realtime:{topic}", event, payload)
    for payload in (None, 1, [], "x", {"config": 7}, {"config": {"broadcast": 1, "presence": []}}):
        await socket.push(f"realtime:{unique()}", "phx_join", payload)

    assert await socket.is_alive()


async def test_invalid_json_in_a_binary_push_reaches_no_one(connect: Any) -> None:
    """A receiver that parses it would fail on it."""
    sender, other, topic = await connect(), await connect(), unique()
    join_ref = await sender.joined(topic)
    await other.joined(topic)

    for body in (b"{", b"\xff", b""):
        await sender.push_binary(f"realtime:{topic}", "e", body, join_ref=join_ref)

    await other.silence()
    assert await sender.is_alive()


async def test_broken_websocket_frames_close_only_their_socket(
    server: Server, connect: Any
) -> None:
    """Check 39: an unmasked frame, a reserved opcode, invalid UTF-8, a torn header."""
    innocent = await connect()
    await innocent.joined(unique())
    frames = [b"\x81\x02hi", b"\x83\x80\0\0\0\0", b"\xff\xff", b"\x81\x84\0\0\0\0\xff\xfe\xfd\xfc"]

    for frame in frames:
        guilty = await open_socket(server)
        guilty.connection.transport.write(frame)
        await asyncio.wait_for(guilty.connection.wait_closed(), 60)
        assert guilty.connection.close_code in (1002, 1006, 1007)

    assert await innocent.is_alive()


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET",
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 20_000,
        b"POST /realtime/v1/api/broadcast HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /realtime/v1/websocket?apikey=%ff%00&vsn=2.0.0 HTTP/1.1\r\nHost: x\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
async def test_broken_http_does_no_harm(server: Server, data: bytes) -> None:
    """Issue 5: garbage never crashes the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    with suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 60)
    writer.close()

    async with httpx.AsyncClient(base_url=server.http) as client:
        assert (await client.get("/realtime/v1/health")).status_code == 200


async def test_a_body_above_the_limit_is_413(server: Server) -> None:
    """Bodies are bounded like frames."""
    async with httpx.AsyncClient(base_url=server.http, headers={"apikey": PUBLISHABLE}) as client:
        # the server may hang up on a slow client before all is sent
        with suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            answer = await client.post("/realtime/v1/api/broadcast", content=b"x" * 6_000_000)
            assert answer.status_code == 413
        assert (await client.get("/realtime/v1/health")).status_code == 200


async def test_a_fragmented_message_is_put_together(connect: Any) -> None:
    """Clients may fragment."""
    socket, topic = await connect(), unique()
    await socket.joined(topic, broadcast={"self": True})
    text = json.dumps(
        [None, "5", f"realtime:{topic}", "broadcast", {"type": "broadcast", "event": "whole"}]
    )

    await socket.connection.send([text[:7], text[7:30], text[30:]])

    assert (await socket.expect("broadcast"))["payload"]["event"] == "whole"


# --------------------------------------------------------------------------------------- floods


async def test_ten_thousand_joins_are_answered(connect: Any) -> None:
    """Issue 5: each gets its reply or the documented error, and the server lives."""
    sockets = [await connect() for _ in range(20)]

    async def join_many(socket: Socket) -> list[str]:
        refs = [str(1000 + n) for n in range(500)]
        for ref in refs:
            body: dict[str, Any] = {"config": {}}
            await socket.push(f"realtime:flood:{ref}", "phx_join", body, join_ref=ref, ref=ref)
        statuses = []
        for _ in refs:
            payload = (await socket.expect("phx_reply", seconds=60))["payload"]
            statuses.append(payload["status"])
            if payload["status"] == "error":
                assert payload["response"]["reason"] in (
                    "ChannelRateLimitReached: Too many channels",
                    "ClientJoinRateLimitReached: Too many joins per second",
                )
        return statuses

    everything = await asyncio.gather(*map(join_many, sockets))

    assert [statuses.count("ok") for statuses in everything] == [100] * 20
    assert await sockets[0].is_alive()


async def test_a_flood_of_private_joins_ends_in_refusals_not_in_a_crash(connect: Any) -> None:
    """Each costs a transaction; the pool is small and the others wait their turn."""
    sockets = [await connect() for _ in range(30)]

    replies = await asyncio.gather(*(socket.join(unique(), private=True) for socket in sockets))

    assert all(reply["response"]["reason"].startswith("Unauthorized: ") for reply in replies)


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


async def test_a_burst_larger_than_the_buffer_reaches_a_client_that_reads(
    start_server: Callable[..., Server], connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Producers wait for readers a little: only those that do not read are dropped."""
    server = start_server(outbound_buffer_bytes=4_000_000, messages_per_second=1_000_000)
    topic = unique()
    reader, sleeper = [await connect(server=server, key=SECRET_KEY) for _ in range(2)]
    for socket in (reader, sleeper):
        await socket.joined(topic, private=True)
    sleeper.connection.transport.pause_reading()

    sql.execute(
        "select realtime.send(jsonb_build_object('n', n, 'x', repeat('y', 20000)), 'n', %s)"
        " from generate_series(1, 1500) n",
        [topic],
    )
    got = [(await reader.expect("broadcast"))["payload"]["payload"]["n"] for _ in range(1500)]

    assert got == list(range(1, 1501))
    server.wait_for("realtime.slow_consumer")
    sleeper.connection.transport.abort()
