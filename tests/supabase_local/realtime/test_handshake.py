"""Handshakes that the Realtime server rejects, and the messages."""

from __future__ import annotations

import httpx
import pytest

from tests.supabase_local.realtime.support import Server, token

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


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
    """A handshake with a bad key gets a plain HTTP response 401 with a reason in JSON."""
    url = server.websocket_url(key=key).replace("ws://", "http://")

    answer = httpx.get(url, headers=UPGRADE)

    assert (answer.status_code, answer.json()) == (401, {"error": message})
