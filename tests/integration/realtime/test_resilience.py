"""What must not break the server: lost sockets, garbage, floods, slow readers."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

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


MALFORMED = [
    "",
    "garbage",
    "null",
    "[1,2,3]",
    '["1","1",7,"phx_join",{}]',
    "[" * 100_000,
    b"",
    b"\x09" * 40,
]


@pytest.mark.parametrize("version", [1, 2])
async def test_malformed_frames_are_dropped_and_the_socket_stays(
    connect: Any, version: int
) -> None:
    """Check 39: no reply, no close; neighbours notice nothing."""
    socket, other, topic = await connect(version=version), await connect(), unique()
    await socket.joined(topic, broadcast={"self": True})
    await other.joined(topic)

    for data in MALFORMED:
        await socket.send_raw(data)
    await socket.silence()
    await socket.broadcast(topic, "fine", {})

    assert (await socket.expect("broadcast"))["payload"]["event"] == "fine"
    assert (await other.expect("broadcast"))["payload"]["event"] == "fine"
