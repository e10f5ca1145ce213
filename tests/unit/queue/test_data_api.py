"""What is repeated and what is not, over a network that fails on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Self

import httpx
import pytest

from minutehand.queue import EnqueueOptions, NewJob, QueueError, QueueUnavailable
from minutehand.queue.client import UserQueue
from minutehand.queue.data_api import DataApi, encode
from minutehand.queue.errors import DatabaseReadOnly

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


async def test_a_repeatable_call_survives_a_lost_answer() -> None:
    """Leases are idempotent by tick and call number exactly for this."""
    network = Network(httpx.ReadTimeout("hung"), httpx.Response(503, json={}))

    answer = await api(network).rpc("lease_jobs", {}, headers={}, repeatable=True)

    assert answer == {}
    assert len(network.requests) == 3


async def test_a_call_with_an_effect_is_not_repeated_once_it_left() -> None:
    """An enqueue without a key may have happened although its answer was lost."""
    network = Network(httpx.ReadTimeout("hung"))

    with pytest.raises(QueueUnavailable):
        await api(network).rpc("enqueue_job", {}, headers={}, repeatable=False)

    assert len(network.requests) == 1


@pytest.mark.parametrize(
    ("keys", "sent"), [(["a"], 2), ([None], 1), (["a", "b"], 2), (["a", None], 1)]
)
async def test_an_enqueue_is_repeated_where_each_job_has_a_key(
    keys: list[str | None], sent: int
) -> None:
    """Another would be there twice."""
    network = Network(httpx.ReadTimeout("hung"), httpx.Response(403, json={}))
    queue = UserQueue(api(network), {})
    jobs = [NewJob(job_type="t", options=EnqueueOptions(idempotency_key=key)) for key in keys]

    many = len(jobs) > 1
    with pytest.raises(QueueError):
        await (
            queue.enqueue_many("w", jobs)
            if many
            else queue.enqueue("w", "t", options=jobs[0].options)
        )

    assert len(network.requests) == sent


async def test_a_page_of_log_lines_names_the_next_where_there_is_one() -> None:
    """A reader who follows it past the end asks once more for nothing, on every look."""
    line = {"job_id": "j", "log_level": "info", "message": "m", "created_at": "2026-11-21T00:00Z"}
    lines = [{**line, "id": n} for n in (1, 2, 3)]
    network = Network(httpx.Response(200, json=lines), httpx.Response(200, json=lines[:2]))
    queue = UserQueue(api(network), {})

    pages = [await queue.logs("j", limit=2) for _ in range(2)]

    assert [(len(page.logs), page.next_after) for page in pages] == [(2, 2), (2, None)]


async def test_a_call_that_never_left_is_repeated_in_any_case() -> None:
    network = Network(httpx.ConnectError("refused"))

    await api(network).rpc("enqueue_job", {}, headers={}, repeatable=False)

    assert len(network.requests) == 2


async def test_a_refusal_is_not_repeated() -> None:
    refusal = {"code": "PT422", "message": "unknown", "hint": "unknown_job_type"}
    network = Network(httpx.Response(422, json=refusal))

    with pytest.raises(QueueError) as caught:
        await api(network).rpc("enqueue_job", {}, headers={}, repeatable=True)

    assert caught.value.word == "unknown_job_type"
    assert len(network.requests) == 1


async def test_a_body_cut_short_counts_as_no_answer() -> None:
    """Unlike one that is empty."""
    network = Network(httpx.Response(200, content=b'{"leases": [{'), httpx.Response(204))

    assert await api(network).rpc("lease_jobs", {}, headers={}, repeatable=True) is None
    assert len(network.requests) == 2


async def test_an_answer_too_deep_to_read_counts_as_none() -> None:
    """The database makes none: it was broken on its way."""
    network = Network(httpx.Response(200, text="[" * 200_000))

    assert await api(network).rpc("lease_jobs", {}, headers={}, repeatable=True) == {}
    assert len(network.requests) == 2


async def test_each_call_names_its_schema_and_so_does_what_helps() -> None:
    """The Data API would take the first that it exposes."""
    network = Network(httpx.Response(400, json={"code": "25006"}))
    own = DataApi(
        "http://127.0.0.1:1", schema="own", transport=httpx.MockTransport(network), attempts=1
    )

    with pytest.raises(DatabaseReadOnly, match=r"own\.set_settings"):
        await own.rpc("enqueue_job", {}, headers={}, repeatable=True)
    await own.select("jobs", [], headers={})

    for request in network.requests:
        assert request.headers["Accept-Profile"] == request.headers["Content-Profile"] == "own"
    await own.aclose()


async def test_a_call_has_so_long_with_all_its_repetitions() -> None:
    """Longer is up to its caller, who may have given up by then."""
    network = Network(*[httpx.ReadTimeout("hung")] * 3)
    transport = httpx.MockTransport(network)
    hurried = DataApi("http://127.0.0.1:1", transport=transport, timeout_seconds=0)

    with pytest.raises(QueueUnavailable):
        await hurried.rpc("lease_jobs", {}, headers={}, repeatable=True)

    assert len(network.requests) == 1


async def test_a_call_may_be_less_patient_than_the_others() -> None:
    network = Network()
    calls = api(network)

    await calls.rpc("lease_jobs", {}, headers={}, repeatable=True)
    await calls.rpc("lease_jobs", {}, headers={}, repeatable=True, read_seconds=0.5)
    await calls.rpc("lease_jobs", {}, headers={}, repeatable=True, read_seconds=5)

    waits = [request.extensions["timeout"] for request in network.requests]
    assert [(wait["read"], wait["connect"]) for wait in waits] == [(8, 2), (0.5, 0.5), (5, 2)]


async def test_a_proxy_of_the_environment_is_not_asked_for_a_local_project(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server = SlowServer()
    server.answering.set()
    async with server.serving():
        calls = DataApi(server.url, attempts=1)
        assert await calls.rpc("lease_jobs", {}, headers={}, repeatable=True) == {}
        await calls.aclose()


async def test_it_gives_up_after_its_attempts() -> None:
    network = Network(*[httpx.Response(500)] * 9)

    with pytest.raises(QueueUnavailable, match="500"):
        await api(network).rpc("lease_jobs", {}, headers={}, repeatable=True)

    assert len(network.requests) == 3


def test_numbers_that_json_lacks_become_null() -> None:
    assert encode({"a": float("nan"), "b": float("inf")}) == b'{"a":null,"b":null}'


def test_half_a_surrogate_pair_is_refused_before_it_is_sent() -> None:
    """Postgres would refuse the whole batch with it."""
    with pytest.raises(ValueError, match="surrogate"):
        encode({"text": "\ud800"})


@pytest.mark.parametrize("value", ["[" * 250 + "]" * 250, "1e5000"])
async def test_one_odd_value_does_not_hide_the_answer(value: str) -> None:
    """The fast reader stops at 200 levels and at what a double holds."""
    network = Network(httpx.Response(200, text=f'{{"odd": {value}, "fine": 1}}'))

    answer = await api(network).rpc("get_job", {}, headers={}, repeatable=True)

    assert answer["fine"] == 1
    assert len(network.requests) == 1


class SlowServer:
    """Answers each call after `seconds`, on connections that it keeps open."""

    def __init__(self) -> None:
        self.answering = asyncio.Event()
        self.url = ""
        self.requests = 0
        self.arrived = asyncio.Semaphore(0)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Listen for the length of the block."""
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                await reader.readexactly(int(length[1]) if length else 0)
                self.requests += 1
                self.arrived.release()
                await self.answering.wait()
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                writer.write(head + b"Content-Length: 2\r\n\r\n{}")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@pytest.mark.parametrize("leaving", ["giving up", "cancelled twice"])
async def test_callers_who_leave_do_not_use_up_the_connections(leaving: str) -> None:
    """One locked table and a hundred streams must not cost a process its database for good."""
    async with SlowServer().serving() as server:
        data_api = DataApi(server.url, connections=4, attempts=1)

        async def ask() -> None:
            with contextlib.suppress(TimeoutError, QueueUnavailable):
                async with asyncio.timeout(0.2):
                    await data_api.rpc("x", {}, headers={}, repeatable=True)

        callers = [asyncio.create_task(ask()) for _ in range(40)]
        if leaving == "cancelled twice":
            for number, caller in enumerate(callers):
                await asyncio.sleep(0.002)
                caller.cancel()
                if number % 2:
                    asyncio.get_running_loop().call_soon(caller.cancel)
        await asyncio.gather(*callers, return_exceptions=True)
        server.answering.set()

        answers = [await data_api.rpc("x", {}, headers={}, repeatable=True) for _ in range(8)]

        await data_api.aclose()
    assert answers == [{}] * 8


async def test_a_request_whose_caller_left_while_it_waited_is_never_sent() -> None:
    """Readers who come and go during a lock would keep the database busy long after it."""
    async with SlowServer().serving() as server:
        data_api = DataApi(server.url, connections=2, attempts=1)

        async def ask() -> None:
            await data_api.rpc("x", {}, headers={}, repeatable=True)

        callers = [asyncio.create_task(ask()) for _ in range(50)]
        for _ in range(2):
            await server.arrived.acquire()
        for caller in callers[2:]:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        server.answering.set()
        await ask()

        await data_api.aclose()
    assert server.requests == 3


@pytest.mark.parametrize(("usual", "its"), [(60.0, 0.05), (0.05, None)])
async def test_a_call_that_finds_every_connection_busy_gives_up_unsent(
    usual: float, its: float | None
) -> None:
    """So that it may be repeated whatever it does, and nobody waits without an end."""
    async with SlowServer().serving() as server:
        data_api = DataApi(server.url, connections=1, attempts=1, read_seconds=usual)
        ask = partial(data_api.rpc, "x", {}, headers={}, repeatable=False)
        first = asyncio.create_task(ask(read_seconds=60.0))
        await server.arrived.acquire()

        with pytest.raises(QueueUnavailable, match="busy") as refused:
            await ask(read_seconds=its)
        server.answering.set()

        assert await first == {}
        await data_api.aclose()
    assert refused.value.unsent
    assert server.requests == 1


async def test_what_callers_have_left_ends_when_it_is_closed() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(request: httpx.Request) -> httpx.Response:
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()
        raise AssertionError

    data_api = DataApi("http://127.0.0.1:1", transport=httpx.MockTransport(hang))
    call = asyncio.create_task(data_api.rpc("x", {}, headers={}, repeatable=True))
    await asyncio.wait_for(begun.wait(), 60)
    call.cancel()
    await asyncio.wait({call})
    assert not ended.is_set()

    await data_api.aclose()

    assert ended.is_set()


async def test_a_pool_that_gives_no_connection_is_replaced() -> None:
    """A restart would help; so does a new pool, without one."""
    network = Network(*[httpx.PoolTimeout("none is free")] * 5)
    data_api = api(network)
    before = data_api._http
    for _ in range(2):
        with pytest.raises(QueueUnavailable):
            await data_api.rpc("x", {}, headers={}, repeatable=True, attempts=2)
    assert data_api._http is before

    assert await data_api.rpc("x", {}, headers={}, repeatable=True) == {}

    assert data_api._http is not before
    await data_api.aclose()
    assert before.is_closed


async def test_a_pool_whose_calls_take_too_long_is_kept() -> None:
    """They have their connections: it is the database that does not answer."""
    data_api = api(Network(*[httpx.ReadTimeout("hung")] * 5))
    before = data_api._http

    with pytest.raises(QueueUnavailable):
        await data_api.rpc("x", {}, headers={}, repeatable=True, attempts=5)

    assert data_api._http is before
    await data_api.aclose()


async def test_a_pool_that_gave_a_connection_since_is_kept() -> None:
    """A timeout an hour is a busy moment; five in a row are a pool that is broken."""
    network = Network(
        *[httpx.PoolTimeout("none is free")] * 4,
        httpx.Response(200, json={}),
        httpx.PoolTimeout("none is free"),
    )
    data_api = api(network)
    before = data_api._http
    for _ in range(2):
        with pytest.raises(QueueUnavailable):
            await data_api.rpc("x", {}, headers={}, repeatable=True, attempts=2)
    for _ in range(2):
        assert await data_api.rpc("x", {}, headers={}, repeatable=True) == {}

    assert data_api._http is before
    await data_api.aclose()
