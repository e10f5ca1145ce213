"""Whose token is sent, and when another is asked for."""

from __future__ import annotations

import base64
import json
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from minutehand.client.access import Access, Tokens
from minutehand.queue.errors import QueueUnavailable

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall's clock stands still."""
    monkeypatch.setattr(time, "time", lambda: NOW)


def token(lives: object, *, more: str = "") -> str:
    """A JWT's look."""
    claims = {"exp": NOW + lives if isinstance(lives, int) else lives, "more": more}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"h.{body}.s"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *((token(3600, more="x" * length), 3540) for length in range(4)),
        (token(100), 75),
        (token(0), 1),
        (token(-50), 1),
        (token("soon"), 240),
        (token(None), 240),
        ("opaque", 240),
        ("h.!.s", 240),
        ("h.W10.s", 240),
    ],
)
async def test_a_token_is_replaced_before_it_ends(given: str, kept: float) -> None:
    """A minute before, or in its last quarter, and at most once a second."""
    tokens = Tokens(lambda: given)

    assert tokens.can_renew
    assert tokens.seconds_left == 0
    assert await tokens.get() == given
    assert tokens.seconds_left == kept


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_token_is_asked_for_again_when_it_is_old_or_was_refused(is_async: bool) -> None:
    asked = 0

    def give() -> Any:
        nonlocal asked
        asked += 1
        return later() if is_async else token(3600)

    async def later() -> str:
        return token(3600)

    tokens = Tokens(give)

    assert [await tokens.get() for _ in range(3)] == [token(3600)] * 3
    assert asked == 1
    tokens.expire()
    assert await tokens.get() == token(3600)
    assert asked == 2


async def test_a_given_token_is_all_there_is() -> None:
    tokens = Tokens("given")

    assert not tokens.can_renew
    assert (await tokens.get(), await tokens.renew()) == ("given", "given")
    assert await Tokens(None).get() is None


async def test_a_source_that_fails_leaves_no_token() -> None:
    """Whatever it raises: the call may be made again later."""

    def give() -> str:
        raise KeyError("session")

    with pytest.raises(QueueUnavailable, match="no fresh token: KeyError"):
        await Tokens(give).get()


class Library:
    """The official library's client, as far as it is asked."""

    supabase_key, realtime_url = "sb_key", "http://x.test/realtime/v1"

    def __init__(self, session: object) -> None:
        self._session = session
        self.auth = self

    async def get_session(self) -> object:
        return self._session


@pytest.mark.parametrize(
    ("session", "source", "joins", "sends"),
    [
        (None, None, "sb_key", None),
        (SimpleNamespace(access_token="of-session"), None, "of-session", None),
        (SimpleNamespace(access_token="of-session"), "given", "given", "Bearer given"),
        (None, lambda: "made", "made", "Bearer made"),
    ],
)
async def test_the_session_decides_who_calls_unless_a_token_is_given(
    session: object, source: Any, joins: str, sends: str | None
) -> None:
    """The library sends its session's itself; a topic is joined with either."""
    access = Access(cast("Any", Library(session)), schema="jobs", token=source)

    assert await access.tokens.get() == joins
    assert (await access.user())._headers.get("Authorization") == sends
    assert (access.key, access.realtime_url) == ("sb_key", "http://x.test/realtime/v1")
