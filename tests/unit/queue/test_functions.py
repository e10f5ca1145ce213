"""A worker's calls meet a Data API that is just starting, and answers without end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from minutehand.clock import FrozenClock
from minutehand.config import Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError, QueueUnavailable, StepsTooLong, TokenRefused
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.models import JobId
from minutehand.queue.worker_client import WorkerQueue

SETTINGS = Settings(
    supabase_url="https://project.example",
    supabase_publishable_key="sb_publishable_x",
    supabase_jwt_secret="a-test-secret-of-at-least-32-characters",
)


def functions(code: str) -> WorkerFunctions:
    """A worker's functions before a Data API that answers each call with 404 and this code."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"code": code, "message": "no such function"})

    api = DataApi("https://project.example", transport=httpx.MockTransport(answer))
    return WorkerFunctions(SETTINGS, api=api)


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


async def test_a_key_that_was_refused_is_made_again_once() -> None:
    """The clocks may differ, or a secret was rotated; a second refusal is the caller's."""
    clock = FrozenClock()
    tokens: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        tokens.append(request.headers["Authorization"])
        clock.advance(seconds=1)
        return httpx.Response(401, json={"code": "PGRST301", "message": "JWT expired"})

    api = DataApi("https://project.example", transport=httpx.MockTransport(refuse))
    worker = WorkerFunctions(SETTINGS, api=api, clock=clock)

    with pytest.raises(TokenRefused):
        await worker.call("settle_jobs", {"p_request": {}})

    await worker.aclose()
    assert len(tokens) == len(set(tokens)) == 2


async def test_steps_that_do_not_fit_a_worker_are_read_no_further() -> None:
    """Page by page they look harmless, and take the memory of every job beside them."""
    page = {"bytes": StepsTooLong.MOST_BYTES * 2 // 5, "lines": [], "next": {"name": "s"}}
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=page)

    api = DataApi("https://project.example", transport=httpx.MockTransport(answer))
    worker = WorkerQueue(SETTINGS, api=api)

    async with asyncio.timeout(60):
        with pytest.raises(StepsTooLong):
            await worker.read_steps(JobId("j"), 1)

    await worker.aclose()
    assert len(requests) == 3


async def test_the_steps_of_a_job_are_read_page_by_page_with_their_children() -> None:
    """A gather of thousands of children takes more than a page."""
    first = [
        {"nth": 0, "name": "a", "value": 1},
        {"nth": 0, "name": "gather", "value": {"children": []}},
        {"nth": 1, "name": "gather", "value": {"id": "c1"}},
    ]
    place = {"name": "gather", "nth": 1}
    pages = [
        {"bytes": 10, "lines": first, "next": place},
        {"bytes": 5, "lines": [{"nth": 2, "name": "gather", "value": {"id": "c2"}}], "next": None},
    ]
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["p_request"])
        return httpx.Response(200, json=pages[len(asked) - 1])

    api = DataApi("https://project.example", transport=httpx.MockTransport(answer))
    worker = WorkerQueue(SETTINGS, api=api)

    steps = await worker.read_steps(JobId("j"), 3)

    await worker.aclose()
    assert steps == {"a": 1, "gather": {"children": [{"id": "c1"}, {"id": "c2"}]}}
    held = {"job_id": "j", "fence": 3}
    assert asked == [{**held, "after": None}, {**held, "after": place}]
