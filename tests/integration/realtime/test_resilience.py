"""The server's end, and garbage that must not bring it about."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.integration.realtime.support import (
    Server,
    unique,
)
from tests.support.databases import Database


async def test_a_shutdown_ends_every_channel_and_closes_with_1012(
    project: Database, connect: Any
) -> None:
    """§3: then clients come back by themselves."""
    server = Server(project.url)
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
    server.stop()
    assert server.process.returncode == 0


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
