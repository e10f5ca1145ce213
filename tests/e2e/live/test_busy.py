"""A watched page continues while the database rejects its large reads."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import psycopg
import pytest

from minutehand.queue.errors import QueueError
from tests.contract.api import Api
from tests.integration.api.conftest import api as api
from tests.integration.api.test_streams import follow
from tests.support.engine import ACME, ADA


async def test_a_watch_waits_while_large_reads_are_limited(api: Api) -> None:
    """While large reads are rejected, an event stream continues and misses nothing.

    A rejected read returns `Retry-After`.
    """
    engine, path = api.engine, f"/api/workspaces/{ACME}/events?from=start"
    engine.enqueue_many(101)
    async with asyncio.timeout(60):
        with ExitStack() as held:
            for _ in range(2):
                ada = held.enter_context(engine.member(ADA))
                ada.run("begin")
                ada.rpc("list_jobs")
            refused = await api.call("GET", path)  # the API has repeated the read for four seconds
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            stream = asyncio.create_task(follow(api, path, until=101))
            for _ in range(5):
                await api.http.get("/health")
                with engine.member(ADA) as third, pytest.raises(psycopg.Error, match="many calls"):
                    third.rpc("list_jobs")
            assert not stream.done()
        assert len({event["job_id"] for event in (await stream).events}) == 101


async def test_a_cursor_is_no_longer_than_transactions_that_run(api: Api) -> None:
    """A very long invented cursor is rejected.

    Otherwise each of a thousand events would repeat it.
    """
    made_up = ",".join(map(str, range(1, 2000)))
    await api.client().workspace_feed(ACME, '(c,"1:3:1,2",,,,)')
    with pytest.raises(QueueError, match="unknown cursor"):
        await api.client().workspace_feed(ACME, f'(c,"1:2000:{made_up}",,,,)')
