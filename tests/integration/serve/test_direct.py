"""A worker's own connections to the database during an outage of the network or the database."""

import asyncio
from typing import Any

import psutil
import pytest

from minutehand.queue import direct
from minutehand.queue.errors import QueueUnavailable
from supabase_local.ports import reserve_port
from tests.support.harness import until
from tests.support.renewed import Renewed


async def test_a_call_without_a_response_is_an_outage(
    renewed: Renewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database call without a response raises QueueUnavailable.

    The worker could otherwise not renew its leases, and jobs would run twice. The next call uses
    another connection.
    """
    monkeypatch.setattr(direct, "STATEMENT_SECONDS", 0)
    api = direct.DirectApi(renewed.url, schema="public")

    async def call() -> Any:
        return await api.rpc("queue_health", {}, headers={}, repeatable=False)

    assert "backlog" in await call()
    backend = psutil.Process(api._free[0].info.backend_pid)
    backend.suspend()
    try:
        with pytest.raises(QueueUnavailable, match="queue_health did not respond"):
            await call()
        assert "backlog" in await call()
    finally:
        backend.resume()
    await api.aclose()


async def test_a_database_that_is_away_wakes_no_one(caplog: pytest.LogCaptureFixture) -> None:
    """While the database is unreachable, the worker tries again and is not woken."""
    caplog.set_level("INFO", logger=direct.__name__)
    woken: list[bool] = []
    url = f"postgresql://127.0.0.1:{reserve_port()}/none"
    listening = asyncio.create_task(direct.listen(url, lambda: woken.append(True)))

    await until(lambda: len(caplog.records) >= 2)
    listening.cancel()

    assert not woken
