"""What a watch does before any wire: its imports, its tokens, its states."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import jwt
import pytest

from minutehand.client import Client, QueueUnavailable
from minutehand.client.access import Access, Tokens
from minutehand.client.follower import _MOST_QUEUED, Timing, Watcher
from minutehand.queue.client import UserQueue
from minutehand.queue.errors import TokenRefused
from minutehand.queue.models import JobEvent
from tests.support.official import official

SECRET = "a secret of at least thirty-two bytes"


def token(seconds: float) -> str:
    return jwt.encode({"exp": int(time.time() + seconds)}, SECRET, "HS256")


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

    asked_at = time.monotonic()
    await tokens.get()

    left = tokens.seconds_left
    assert left <= 1 < left + 0.1 + time.monotonic() - asked_at


async def test_a_token_that_is_no_jwt_is_asked_for_every_few_minutes() -> None:
    tokens = Tokens(lambda: "opaque")

    assert await tokens.get() == "opaque"
    assert 200 < tokens.seconds_left < 300


async def test_a_source_that_fails_is_a_failure_to_wait_out() -> None:
    def broken() -> str:
        raise OSError("the vault is unavailable")

    with pytest.raises(QueueUnavailable, match="the vault is unavailable"):
        await Tokens(broken).get()


class Many(Watcher):
    """More events than are kept for a reader, page by page."""

    async def _catch_up(self, queue: UserQueue) -> None:
        for start in range(0, 3 * _MOST_QUEUED, 500):
            await self._room.wait()
            self._tell(
                JobEvent(job_id="j", seq=start + n, type="job.log", data={}, created_at=EPOCH)
                for n in range(500)
            )
        self._finish()

    def _receive(self, event: JobEvent) -> None:
        """Nothing comes by messages."""


EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_reader_gets_more_than_is_kept_for_it() -> None:
    """Reading goes on as soon as there is room."""
    async with official("http://127.0.0.1:1", "k") as supabase:
        watcher = Many("job:j", Access(supabase, schema="public", token="t"), Timing())
        async with asyncio.timeout(120):
            seqs = [event.seq async for event in watcher]

    assert seqs == list(range(3 * _MOST_QUEUED))


class Refusing(Watcher):
    """A subject whose first token was revoked before it expired."""

    async def _catch_up(self, queue: UserQueue) -> None:
        if self._failures == 0:
            raise TokenRefused("revoked", status=401, code="PGRST301")
        self._finish()

    def _receive(self, event: JobEvent) -> None:
        """Nothing comes by messages."""


async def test_a_token_that_was_refused_is_not_sent_again() -> None:
    """A key that was rotated refuses tokens which have an hour to live by their own word."""
    given: list[str] = []

    def fresh() -> str:
        given.append(token(3600))
        return given[-1]

    async with official("http://127.0.0.1:1", "k") as supabase:
        access = Access(supabase, schema="public", token=fresh)
        watcher = Refusing("job:j", access, Timing(polling_interval=0.01))
        async with asyncio.timeout(60):
            assert [event async for event in watcher] == []

    assert len(given) == 2


async def test_a_project_that_is_unavailable_is_said_to_be_offline() -> None:
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
