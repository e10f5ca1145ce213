"""What a watch does before any wire: its imports, its tokens, its states."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest

import minutehand.queue
from minutehand.queue import QueueUnavailable, watch_job
from minutehand.queue.topic import Tokens

SECRET = "a secret of at least thirty-two bytes"


def token(seconds: float) -> str:
    return jwt.encode({"exp": int(time.time() + seconds)}, SECRET, "HS256")


def test_the_client_of_realtime_is_imported_only_by_a_watch_that_runs(repository: Path) -> None:
    """`minutehand.queue` is in every Lambda, and none of them watches."""
    code = (
        "import json, sys, minutehand.queue\n"
        "before = 'minutehand.queue.watch' in sys.modules\n"
        "minutehand.queue.watch_job('id', supabase_url='http://localhost', key='k')\n"
        "print(json.dumps([before, 'realtime' in sys.modules, 'websockets' in sys.modules]))"
    )

    run = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )

    assert json.loads(run.stdout) == [False, False, False]


def test_every_exported_name_is_there() -> None:
    for name in minutehand.queue.__all__:
        assert getattr(minutehand.queue, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'watch_jobs'"):
        _ = minutehand.queue.watch_jobs  # type: ignore[attr-defined]


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
        raise OSError("the vault is away")

    with pytest.raises(QueueUnavailable, match="the vault is away"):
        await Tokens(broken).get()


async def test_a_project_that_is_away_is_said_to_be_offline() -> None:
    """Nothing listens on port 1: neither reads nor the topic work."""
    watcher = watch_job("x", supabase_url="http://127.0.0.1:1", key="k")
    assert watcher.freshness == "catching-up"

    async with watcher:
        await watcher.refresh()

        assert watcher.freshness == "offline"
        assert isinstance(watcher.error, QueueUnavailable)
    assert [event async for event in watcher] == []
