"""Calls that are repeated, and calls that are not, over a network that fails on purpose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext

import httpx
import pytest

from infra.bench.scratch import scratch_settings
from minutehand.queue import outbound_http
from minutehand.queue.client import UserQueue
from minutehand.queue.data_api import ATTEMPTS, DataApi, encode
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.models import JobId, LeaseRequest
from minutehand.queue.worker_client import WorkerQueue

Answer = httpx.Response | Exception


class Network:
    """Returns the prepared responses in order, then 200 with an empty object."""

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


def busy(hint: str, details: str = "{}") -> list[Answer]:
    """Return more responses than attempts, each of which says that nothing was done."""
    body = {"code": "PT429", "message": "held", "details": details, "hint": hint}
    return [httpx.Response(429, json=body)] * (ATTEMPTS + 2)


HUNG = httpx.ReadTimeout("hung")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat calls at once, because these tests count them."""
    monkeypatch.setattr(outbound_http, "_wait", lambda state: 0.0)


@pytest.mark.parametrize(
    ("answers", "repeatable", "sent", "arrives"),
    [
        ([HUNG, httpx.Response(503, json={})], True, 3, True),
        ([httpx.ConnectError("refused")], False, 2, True),
        ([httpx.Response(200, content=b'{"leases": [{'), httpx.Response(204)], True, 3, True),
        # the call may have had its effect although the response was lost
        ([HUNG], False, 1, False),
        # the call had no effect, because its transaction was rolled back
        ([httpx.Response(500, json={"code": "40P01"})], False, 2, True),
        ([httpx.Response(422, json={"code": "PT422", "hint": "unknown_type"})], True, 1, False),
        ([httpx.Response(500)] * 9, True, 3, False),
        # calls with these responses are repeated until the time is over
        (busy("job_busy"), False, ATTEMPTS + 3, True),
        (busy("rate_limited", '{"limit": "calls_at_once"}'), False, ATTEMPTS + 3, True),
    ],
)
async def test_a_call_is_sent_as_often_as_it_may_be(
    answers: list[Answer], repeatable: bool, sent: int, arrives: bool
) -> None:
    """A lease call may be repeated, because it is idempotent by tick and call number."""
    network = Network(*answers)

    with nullcontext() if arrives else pytest.raises(QueueError):
        assert not await api(network).rpc("lease_jobs", {}, headers={}, repeatable=repeatable)

    assert len(network.requests) == sent


@pytest.mark.parametrize(("key", "sent"), [("a", 2), (None, 1)])
async def test_an_enqueue_is_repeated_where_it_has_a_key(key: str | None, sent: int) -> None:
    """Without a key there would be two jobs."""
    network = Network(HUNG, httpx.Response(403, json={}))

    with pytest.raises(QueueError):
        await UserQueue(api(network), {}).enqueue("t", workspace_id="w", idempotency_key=key)

    assert len(network.requests) == sent


#: Responses with 200 or 204 of a CDN, a proxy or a gateway in place of the queue.
FOREIGN = [
    b"",
    b"null",
    b'{"job',
    b"<html>maintenance</html>",
    b'{"message": "soon"}',
    b"[1]",
    b'"',
]
#: A call for each way to parse a response.
CALLS: dict[str, Callable[[UserQueue, WorkerQueue], Awaitable[object]]] = {
    "lease_jobs": lambda _, worker: worker.lease(
        LeaseRequest(worker_id="w", tick_id="t", call=1, limit=1)
    ),
    "settle_jobs": lambda _, worker: worker.settle([]),
    "run_maintenance": lambda _, worker: worker.maintain(),
    "spawn_jobs": lambda _, worker: worker.spawn(JobId("j"), 1, "n", []),
    "enqueue_job": lambda user, _: user.enqueue("t", workspace_id="w"),
    "list_jobs": lambda user, _: user.list_jobs(),
    "job_events": lambda user, _: user.events_after("j"),
}


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("name", CALLS)
async def test_what_is_no_answer_to_the_call_is_as_no_answer(name: str, content: bytes) -> None:
    """A worker that accepted such a response would end, or find no job."""
    foreign = api(lambda _: httpx.Response(200 if content else 204, content=content))
    settings = scratch_settings("http://127.0.0.1:1")

    with pytest.raises(QueueUnavailable):
        await CALLS[name](UserQueue(foreign, {}), WorkerQueue(settings, api=foreign))


@pytest.mark.parametrize("content", [b"null", b"true", b"[1]", b'{"a": 1}'])
async def test_a_projects_own_function_answers_what_it_likes(content: bytes) -> None:
    """A project's function may return null for a missing row. An empty body is no response."""
    settings = scratch_settings("http://127.0.0.1:1")
    answers = iter([b"", content])
    own = api(lambda _: httpx.Response(200, content=next(answers)))

    assert await WorkerFunctions(settings, api=own).call_held("mine", "j", 1) == json.loads(content)


async def test_a_token_that_no_header_can_carry_is_refused() -> None:
    """The error is the same as for an unknown token, because a header cannot contain the token."""
    network = Network()
    user = UserQueue(api(network), {"Authorization": "Bearer \N{SNOWMAN}"})

    for call in (user.get_job("j"), user.events_after("j")):
        with pytest.raises(TokenRefused):
            await call
    assert network.requests == []


def test_what_json_lacks_is_null_or_refused_before_it_is_sent() -> None:
    """Postgres would reject the whole batch because of half a surrogate pair."""
    assert encode({"a": float("nan"), "b": float("inf")}) == b'{"a":null,"b":null}'
    with pytest.raises(ValueError, match="surrogate"):
        encode({"text": "\ud800"})


async def test_callers_who_leave_use_up_no_connection_and_late_ones_are_unsent() -> None:
    """A locked table and a hundred readers must not use up a process's connections."""
    answering, arrived, sent = asyncio.Event(), asyncio.Semaphore(0), []

    async def serve(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        arrived.release()
        await answering.wait()
        return httpx.Response(200, json={})

    transport = httpx.MockTransport(serve)
    slow = DataApi(
        "http://127.0.0.1:1", attempts=1, transport=transport, connections=2, read_seconds=0.05
    )

    async def ask() -> None:
        await slow.rpc("x", {}, headers={}, repeatable=False)

    callers = [asyncio.create_task(ask()) for _ in range(50)]
    for _ in range(2):
        await arrived.acquire()
    with pytest.raises(QueueUnavailable, match="busy") as refused:
        await ask()  # the call may be repeated, whatever it does
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    answering.set()
    await asyncio.wait(slow._pending)  # on a busy machine they may end late
    await ask()

    await slow.aclose()
    assert (refused.value.unsent, len(sent)) == (True, 3)
