"""A worker's calls meet a Data API that is just starting."""

from __future__ import annotations

import httpx
import pytest

from minutehand.config import Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError, QueueUnavailable
from minutehand.queue.functions import WorkerFunctions


def functions(code: str) -> WorkerFunctions:
    """A worker's functions before a Data API that answers each call with 404 and this code."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"code": code, "message": "no such function"})

    settings = Settings(
        supabase_url="https://project.example",
        supabase_publishable_key="sb_publishable_x",
        supabase_jwt_secret="a-test-secret-of-at-least-32-characters",
    )
    api = DataApi("https://project.example", transport=httpx.MockTransport(answer))
    return WorkerFunctions(settings, api=api)


async def test_a_function_missing_for_a_moment_is_an_outage() -> None:
    """While it reads the schema a Data API knows no function: the settle is repeated, not lost."""
    worker = functions("PGRST202")

    with pytest.raises(QueueUnavailable) as raised:
        await worker.call("settle_jobs", {"p_request": {}}, attempts=1)

    await worker.aclose()
    assert raised.value.code == "PGRST202"


async def test_another_refusal_is_none() -> None:
    """What the queue refuses by name is not repeated for ever."""
    worker = functions("PGRST116")

    with pytest.raises(QueueError) as raised:
        await worker.call("settle_jobs", {"p_request": {}}, attempts=1)

    await worker.aclose()
    assert not isinstance(raised.value, QueueUnavailable)
