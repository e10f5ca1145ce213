"""Who gets a websocket, in which version, and what a refusal says."""

from __future__ import annotations

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect

from tests.integration.realtime.support import (
    PUBLISHABLE,
    SECRET_KEY,
    Server,
    Socket,
    token,
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
        (token(exp=None), "Fields `role` and `exp` are required in JWT"),
    ],
)
def test_a_bad_key_is_refused_with_401_and_says_why(
    server: Server, key: str | None, message: str
) -> None:
    """Check 1: refusals are ordinary HTTP answers with a JSON body."""
    url = server.websocket_url(key=key).replace("ws://", "http://")

    answer = httpx.get(url, headers=UPGRADE)

    assert (answer.status_code, answer.json()) == (401, {"error": message})
