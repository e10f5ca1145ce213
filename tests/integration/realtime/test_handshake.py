"""Who gets a websocket, in which version, and what a refusal says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import InvalidStatus

from tests.integration.realtime.support import (
    PUBLISHABLE,
    SECRET_KEY,
    Server,
    Socket,
    token,
    unique,
)

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0", None])
@pytest.mark.parametrize("key", [PUBLISHABLE, SECRET_KEY, "jwt"])
async def test_a_valid_key_connects_with_every_version(
    server: Server, vsn: str | None, key: str
) -> None:
    """Check 1: the version defaults to 1.0.0, keys may be new or legacy."""
    key = token(sub=None, role="anon") if key == "jwt" else key  # type: ignore[arg-type]

    async with websocket_connect(server.websocket_url(key=key, vsn=vsn)) as connection:
        socket = Socket(connection, 2 if vsn == "2.0.0" else 1)

        assert await socket.is_alive()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "API key is missing"),
        ("garbage", "The token provided is not a valid JWT"),
        ("sb_publishable_of_another_project", "The token provided is not a valid JWT"),
        (token()[:-4] + "AAAA", "Failed to validate JWT signature"),
        (token(seconds=-60), "Token has expired"),
        (token(role=None), "Fields `role` and `exp` are required in JWT"),  # type: ignore[arg-type]
        (token(exp=None), "Fields `role` and `exp` are required in JWT"),
        (token(iat="yesterday"), "The token provided is not a valid JWT"),
    ],
)
def test_a_bad_key_is_refused_with_401_and_says_why(
    server: Server, key: str | None, message: str
) -> None:
    """Check 1: refusals are ordinary HTTP answers with a JSON body."""
    url = server.websocket_url(key=key).replace("ws://", "http://")

    answer = httpx.get(url, headers=UPGRADE)

    assert (answer.status_code, answer.json()) == (401, {"error": message})


def test_an_unknown_version_is_refused(server: Server) -> None:
    """Issue 5: unknown versions never crash the server."""
    url = server.websocket_url(vsn="3.0.0").replace("ws://", "http://")

    answer = httpx.get(url, headers=UPGRADE)

    assert (answer.status_code, answer.content) == (403, b"")


async def test_the_key_in_the_header_wins(server: Server) -> None:
    """A gateway puts the key it checked into `x-api-key`."""
    headers = {"x-api-key": PUBLISHABLE}

    async with websocket_connect(
        server.websocket_url(key="garbage"), additional_headers=headers
    ) as connection:
        assert await Socket(connection, 2).is_alive()


async def test_the_connection_limit_refuses_the_next_socket(
    start_server: Callable[..., Server],
) -> None:
    """§1: too many users answer 429."""
    small = start_server(connections=2)

    async with websocket_connect(small.websocket_url()), websocket_connect(small.websocket_url()):
        with pytest.raises(InvalidStatus) as refused:
            await websocket_connect(small.websocket_url())

    response = refused.value.response
    assert response.status_code == 429
    assert json.loads(response.body) == {"error": "Too many connected users"}


@pytest.mark.parametrize("version", [1, 2])
async def test_the_first_frame_of_a_public_topic_is_the_reply(connect: Any, version: int) -> None:
    """Check 2: an empty list of changes is there, not absent."""
    socket = await connect(version=version)
    topic = unique()

    await socket.push(f"realtime:{topic}", "phx_join", {"config": {}}, join_ref="1", ref="1")
    first = await socket.receive()

    assert (first["event"], first["topic"], first["ref"]) == ("phx_reply", f"realtime:{topic}", "1")
    assert first["payload"] == {"status": "ok", "response": {"postgres_changes": []}}


async def test_version_1_frames_have_exactly_four_keys(connect: Any) -> None:
    """Check 3: the Python models reject a frame without a ref."""
    socket, other = await connect(version=1), await connect(version=2)
    topic = unique()
    await socket.push(f"realtime:{topic}", "phx_join", {"config": {}}, join_ref="1", ref="1")
    reply = await socket.receive()
    await other.joined(topic)

    await other.broadcast(topic, "e", {})
    broadcast = await socket.receive()

    for frame in (reply, broadcast):
        assert frame["keys"] == {"topic", "event", "payload", "ref"}
    assert broadcast["ref"] is None


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("ref", ["7", None])
async def test_a_heartbeat_echoes_its_ref(connect: Any, version: int, ref: str | None) -> None:
    """Check 4: Python sends null and expects null."""
    socket = await connect(version=version)

    await socket.push("phoenix", "heartbeat", {}, ref=ref)
    frame = await socket.receive()

    assert (frame["topic"], frame["event"], frame["ref"]) == ("phoenix", "phx_reply", ref)
    assert frame["payload"] == {"status": "ok", "response": {}}
