"""What is repeated and what is not, over a network that fails on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest

from minutehand.queue.client import UserQueue
from minutehand.queue.data_api import DataApi, encode
from minutehand.queue.errors import QueueError, QueueUnavailable

Answer = httpx.Response | Exception


class Network:
    """Gives the prepared answers in order, then 200 with an empty object."""

    def __init__(self, *answers: Answer) -> None:
        self.answers: Iterator[Answer] = iter(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self.answers, httpx.Response(200, json={}))
        if isinstance(answer, Exception):
            raise answer
        return answer


def api(network: Callable[[httpx.Request], httpx.Response]) -> DataApi:
    return DataApi("http://127.0.0.1:1", transport=httpx.MockTransport(network))


@pytest.mark.parametrize(
    ("answers", "repeatable", "sent"),
    [
        ([httpx.ReadTimeout("hung"), httpx.Response(503, json={})], True, 3),
        ([httpx.ConnectError("refused")], False, 2),
        # cut short, unlike an answer that is empty
        ([httpx.Response(200, content=b'{"leases": [{'), httpx.Response(204)], True, 2),
    ],
)
async def test_a_call_survives_what_may_be_repeated(
    answers: list[Answer], repeatable: bool, sent: int
) -> None:
    """Leases are idempotent by tick and call number exactly for this."""
    network = Network(*answers)

    assert not await api(network).rpc("lease_jobs", {}, headers={}, repeatable=repeatable)

    assert len(network.requests) == sent


@pytest.mark.parametrize(
    ("answer", "repeatable", "sent"),
    [
        # it may have happened although its answer was lost
        (httpx.ReadTimeout("hung"), False, 1),
        (httpx.Response(422, json={"code": "PT422", "hint": "unknown_job_type"}), True, 1),
        (httpx.Response(500), True, 3),
    ],
)
async def test_a_call_is_sent_no_oftener_than_it_may(
    answer: Answer, repeatable: bool, sent: int
) -> None:
    network = Network(*[answer] * 9)

    with pytest.raises(QueueError):
        await api(network).rpc("enqueue_job", {}, headers={}, repeatable=repeatable)

    assert len(network.requests) == sent


@pytest.mark.parametrize(("key", "sent"), [("a", 2), (None, 1)])
async def test_an_enqueue_is_repeated_where_it_has_a_key(key: str | None, sent: int) -> None:
    """Another would be there twice."""
    network = Network(httpx.ReadTimeout("hung"), httpx.Response(403, json={}))

    with pytest.raises(QueueError):
        await UserQueue(api(network), {}).enqueue("t", workspace_id="w", idempotency_key=key)

    assert len(network.requests) == sent


def test_what_json_lacks_is_null_or_refused_before_it_is_sent() -> None:
    """Postgres would refuse the whole batch with half of a surrogate pair."""
    assert encode({"a": float("nan"), "b": float("inf")}) == b'{"a":null,"b":null}'
    with pytest.raises(ValueError, match="surrogate"):
        encode({"text": "\ud800"})


class SlowServer:
    """Answers nothing before it may; counts what it was sent."""

    def __init__(self) -> None:
        self.answering = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)
        self.requests = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        self.arrived.release()
        await self.answering.wait()
        return httpx.Response(200, json={})

    def api(self, **options: float) -> DataApi:
        """Calls of it, each sent once."""
        transport = httpx.MockTransport(self)
        return DataApi("http://127.0.0.1:1", attempts=1, transport=transport, **options)  # type: ignore[arg-type]


async def test_callers_who_leave_are_not_sent_and_use_up_no_connection() -> None:
    """One locked table and a hundred readers must not cost a process its database for good."""
    server = SlowServer()
    data_api = server.api(connections=2)

    async def ask() -> None:
        await data_api.rpc("x", {}, headers={}, repeatable=True)

    callers = [asyncio.create_task(ask()) for _ in range(50)]
    for _ in range(2):
        await server.arrived.acquire()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    server.answering.set()
    await ask()

    await data_api.aclose()
    assert server.requests == 3


async def test_a_call_that_finds_every_connection_busy_gives_up_unsent() -> None:
    """So that it may be repeated whatever it does, and nobody waits without an end."""
    server = SlowServer()
    data_api = server.api(connections=1, read_seconds=0.05)
    first = asyncio.create_task(data_api.rpc("x", {}, headers={}, repeatable=False))
    await server.arrived.acquire()

    with pytest.raises(QueueUnavailable, match="busy") as refused:
        await data_api.rpc("x", {}, headers={}, repeatable=False)
    server.answering.set()

    assert await first == {}
    assert (refused.value.unsent, server.requests) == (True, 1)
    await data_api.aclose()
