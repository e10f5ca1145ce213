"""A worker's own connections to the database during an outage of the network or the database."""

from __future__ import annotations

import asyncio
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from minutehand.queue import direct
from minutehand.queue.errors import QueueUnavailable
from minutehand.tasks import end_tasks
from supabase_local.ports import reserve_port
from tests.support.harness import until
from tests.support.renewed import Renewed


async def test_a_call_that_the_network_swallows_is_an_outage(
    renewed: Renewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database call without a response raises QueueUnavailable.

    The worker could otherwise not renew its leases, and jobs would run twice.
    """
    monkeypatch.setattr(direct, "STATEMENT_SECONDS", 0)
    database, swallows = urlsplit(renewed.url), False
    pumps: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, *writers: asyncio.StreamWriter) -> None:
        with closing(writers[-1]):
            while data := await reader.read(65_536):
                writers[-1].write(b"" if swallows and len(writers) > 1 else data)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, calls = await asyncio.open_connection(database.hostname, database.port)
        pumps.extend(map(asyncio.create_task, (pump(reader, calls), pump(answers, calls, writer))))

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = renewed.url.replace(f":{database.port}/", f":{port}/")
        api = direct.DirectApi(url, schema="public")
        for swallows in (False, True, False):
            call = api.rpc("queue_health", {}, headers={}, repeatable=False)
            if swallows:
                with pytest.raises(QueueUnavailable, match="in time"):
                    await call
            else:
                assert "backlog" in await call
        await api.aclose()
        await end_tasks(pumps)


async def test_a_database_that_is_away_wakes_no_one(caplog: pytest.LogCaptureFixture) -> None:
    """While the database is unreachable, the worker tries again and is not woken."""
    caplog.set_level("INFO", logger=direct.__name__)
    woken: list[bool] = []
    url = f"postgresql://127.0.0.1:{reserve_port()}/none"
    listening = asyncio.create_task(direct.listen(url, lambda: woken.append(True)))

    await until(lambda: len(caplog.records) >= 2)
    listening.cancel()

    assert not woken
