"""The client for anybody's code, on the whole stack: enqueue and watch live."""

from __future__ import annotations

import asyncio
import time

import jwt
import pytest

from minutehand.client import Client
from minutehand.client.access import Tokens
from minutehand.local.users import ADA
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack


@pytest.mark.stack
async def test_a_job_is_watched_live_to_its_end(stack: RunningStack) -> None:
    """By the job's topic and by its workspace's, each with the person's own token."""
    token = stack.sign_in(ADA.email)
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        job_id = await asyncio.to_thread(worker.enqueue, {"n": 1})
        async with stack.official_client() as supabase:
            client = Client(supabase, schema="public", token=token)
            feed = client.watch_workspace(stack.demo_workspace_id)
            watcher = client.watch_job(job_id)
            async with asyncio.timeout(120), client, feed, watcher:
                while {feed.freshness, watcher.freshness} != {"live"}:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                [lease] = await asyncio.to_thread(worker.lease)
                await asyncio.to_thread(worker.settle, lease, result={"done": True})
                types = [event.type async for event in watcher]
                async for event in feed:
                    if (event.job_id, event.type) == (job_id, "job.completed"):
                        break

    assert types == ["job.created", "job.leased", "job.completed"]
    assert watcher.job is not None
    assert (watcher.job.status, watcher.job.result) == ("completed", {"done": True})


@pytest.mark.parametrize(("life", "kept"), [(3600, 3540), (200, 150), (-60, 1)])
async def test_a_token_is_replaced_before_it_expires(life: float, kept: float) -> None:
    """Never at once: a function that gives stale tokens is not asked in a loop."""
    secret = "a secret of at least thirty-two bytes"
    given: list[str] = []

    def fresh() -> str:
        given.append(jwt.encode({"exp": int(time.time() + life)}, secret, "HS256"))
        return given[-1]

    tokens = Tokens(fresh)

    assert await tokens.get() == await tokens.get() == given[0]
    assert tokens.seconds_left == pytest.approx(kept, abs=2)
    tokens.expire()
    await tokens.get()
    assert len(given) == 2
