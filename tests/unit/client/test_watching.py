"""What a watch does before any wire: its imports, its tokens, its states."""

from __future__ import annotations

import time

import jwt
import pytest

from minutehand.client import Client, EnqueueOptions, Options, QueueUnavailable
from minutehand.client.access import Tokens
from tests.support.official import official

SECRET = "a secret of at least thirty-two bytes"


def token(seconds: float) -> str:
    return jwt.encode({"exp": int(time.time() + seconds)}, SECRET, "HS256")


def test_every_option_of_a_job_is_an_argument_of_enqueue() -> None:
    """The two lists are written apart: the one for checkers, the other for the wire."""
    assert set(Options.__annotations__) == set(EnqueueOptions.model_fields)


async def test_a_token_is_kept_until_shortly_before_it_expires() -> None:
    given: list[str] = []

    def fresh() -> str:
        given.append(token(3600))
        return given[-1]

    tokens = Tokens(fresh)

    assert await tokens.get() == await tokens.get() == given[0]
    assert 3500 < tokens.seconds_left <= 3540
    tokens.expire()
    await tokens.get()
    assert len(given) == 2


async def test_a_source_of_stale_tokens_is_not_asked_in_a_loop() -> None:
    tokens = Tokens(lambda: token(-60))

    await tokens.get()

    assert 0 < tokens.seconds_left <= 1


async def test_a_token_that_is_no_jwt_is_asked_for_every_few_minutes() -> None:
    tokens = Tokens(lambda: "opaque")

    assert await tokens.get() == "opaque"
    assert 200 < tokens.seconds_left < 300


async def test_a_source_that_fails_is_a_failure_to_wait_out() -> None:
    def broken() -> str:
        raise OSError("the vault is unavailable")

    with pytest.raises(QueueUnavailable, match="the vault is unavailable"):
        await Tokens(broken).get()


async def test_a_project_that_is_away_is_said_to_be_offline() -> None:
    """Nothing listens on port 1: neither reads nor the topic work."""
    async with official("http://127.0.0.1:1", "k") as supabase:
        watcher = Client(supabase).watch_job("x")
        assert watcher.freshness == "catching-up"

        async with watcher:
            await watcher.refresh()

            freshness: str = watcher.freshness
            assert freshness == "offline"
            assert isinstance(watcher.error, QueueUnavailable)
        assert [event async for event in watcher] == []
