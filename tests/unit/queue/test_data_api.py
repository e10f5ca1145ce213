"""Repetition of calls to the Data API when the network fails."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from typing import Any

import httpx
import pytest

from minutehand.clock import FrozenClock
from minutehand.queue import outbound_http
from minutehand.queue.client import UserQueue
from minutehand.queue.data_api import ATTEMPTS, DataApi, encode
from minutehand.queue.errors import ProcessorError, QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.models import JobId, LeaseRequest
from minutehand.queue.worker_client import MAX_STEP_BYTES, WorkerQueue
from minutehand.tasks import end_tasks
from minutehand.webhooks.processors import SendResult, WebhookStore
from tests.support.queue_model import SETTINGS

Answer = httpx.Response | Exception


class Network:
    """A network that returns the prepared responses in order, then 200 with an empty object.

    Each request advances the clock by a second.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers: Iterator[Answer] = iter(answers)
        self.requests: list[httpx.Request] = []
        self.clock = FrozenClock()

    def worker(self) -> WorkerQueue:
        return WorkerQueue(SETTINGS, api=api(self), clock=self.clock)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.clock.advance(seconds=1)
        answer = next(self.answers, httpx.Response(200, json={}))
        if isinstance(answer, Exception):
            raise answer
        return answer


def api(network: Callable[..., Any], **options: Any) -> DataApi:
    return DataApi("http://127.0.0.1:1", transport=httpx.MockTransport(network), **options)


def busy(hint: str, details: str = "{}") -> list[Answer]:
    """Return several responses with status 429, each of which says that nothing was done."""
    body = {"code": "PT429", "message": "held", "details": details, "hint": hint}
    return [httpx.Response(429, json=body)] * (ATTEMPTS + 2)


HUNG = httpx.ReadTimeout("hung")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat calls without a pause, because the tests only count them."""
    monkeypatch.setattr(outbound_http, "_wait", lambda state: 0.0)


@pytest.mark.parametrize(
    ("answers", "repeatable", "sent", "arrives"),
    [
        ([HUNG, httpx.Response(503, json={})], True, 3, True),
        ([httpx.ConnectError("refused")], False, 2, True),
        ([httpx.Response(200, content=b'{"leases": [{'), httpx.Response(204)], True, 3, True),
        # The call may have had its effect although the response was lost.
        ([HUNG], False, 1, False),
        # The call had no effect, because its transaction was rolled back.
        ([httpx.Response(500, json={"code": "40P01"})], False, 2, True),
        ([httpx.Response(500, json={"code": "55P03"})], False, 2, True),
        ([httpx.Response(422, json={"code": "PT422", "hint": "unknown_type"})], True, 1, False),
        ([httpx.Response(500)] * 9, True, 3, False),
        # Calls with these responses are repeated until the call's time-out.
        (busy("job_busy"), False, ATTEMPTS + 3, True),
        (busy("rate_limited", '{"limit": "calls_at_once"}'), False, ATTEMPTS + 3, True),
    ],
)
async def test_a_call_is_sent_as_often_as_it_may_be(
    answers: list[Answer], repeatable: bool, sent: int, arrives: bool
) -> None:
    """A call is repeated after a lost response only if it is idempotent.

    A call that had no effect is always repeated.
    """
    network = Network(*answers)

    with nullcontext() if arrives else pytest.raises(QueueError):
        assert not await api(network).rpc("lease_jobs", {}, headers={}, repeatable=repeatable)

    assert len(network.requests) == sent


async def test_a_function_that_does_not_respond_is_named() -> None:
    network = Network(HUNG)

    with pytest.raises(QueueUnavailable) as raised:
        await api(network).rpc("close_ledger", {}, headers={}, repeatable=False)

    assert str(raised.value) == "the SQL function close_ledger did not respond within 8 s"


def enqueued(key: str | None) -> Callable[[DataApi], Awaitable[object]]:
    return lambda api: UserQueue(api, {}).enqueue("t", workspace_id="w", idempotency_key=key)


def delivered(*, ok: bool) -> Callable[[DataApi], Awaitable[object]]:
    return lambda api: WebhookStore(SETTINGS, api=api).record("j", 1, SendResult(ok, "m"))


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        (enqueued("a"), 2),
        (enqueued(None), 1),
        (delivered(ok=True), 2),
        (delivered(ok=False), 1),  # the endpoint's failure would count twice
    ],
)
async def test_a_call_without_a_response_is_repeated_unless_it_would_have_two_effects(
    call: Callable[[DataApi], Awaitable[object]], sent: int
) -> None:
    network = Network(HUNG, httpx.Response(403, json={}))

    with pytest.raises(QueueError):
        await call(api(network))

    assert len(network.requests) == sent


#: Successful responses of a CDN, a proxy or a gateway instead of the queue.
FOREIGN = [b"", b"null", b"<html>maintenance</html>", b'{"message": "soon"}', b"[1]"]
#: One call for each way to parse a response.
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
    """A successful response without the expected content raises QueueUnavailable."""
    foreign = api(lambda _: httpx.Response(200 if content else 204, content=content))

    with pytest.raises(QueueUnavailable):
        await CALLS[name](UserQueue(foreign, {}), WorkerQueue(SETTINGS, api=foreign))


@pytest.mark.parametrize("value", [None, True, [1]])
async def test_a_projects_own_function_answers_what_it_likes(value: object) -> None:
    """A project's own function may return any JSON, including null.

    Only an empty body is repeated.
    """
    own = api(Network(httpx.Response(200), httpx.Response(200, text=json.dumps(value))))

    assert await WorkerFunctions(SETTINGS, api=own).call_held("mine", "j", 1) == value


async def test_a_token_that_no_header_can_carry_is_refused() -> None:
    """A token with a character that no HTTP header may contain raises TokenRefused.

    No request is sent.
    """
    network = Network()
    user = UserQueue(api(network), {"Authorization": "Bearer \N{SNOWMAN}"})

    for call in (user.get_job("j"), user.events_after("j")):
        with pytest.raises(TokenRefused):
            await call
    assert network.requests == []


def test_what_json_lacks_is_null_or_refused_before_it_is_sent() -> None:
    """NaN and infinity are sent as null.

    Half of a surrogate pair raises an error before the request.
    """
    assert encode({"a": float("nan"), "b": float("inf")}) == b'{"a":null,"b":null}'
    with pytest.raises(ValueError, match="surrogate"):
        encode({"text": "\ud800"})


async def test_callers_who_leave_use_up_no_connection_and_late_ones_are_unsent() -> None:
    """Cancelled callers free their place among the connections.

    A caller that got no connection in time learns that its call was not sent.
    """
    answering, arrived, sent = asyncio.Event(), asyncio.Semaphore(0), []

    async def serve(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        arrived.release()
        await answering.wait()
        return httpx.Response(200, json={})

    slow = api(serve, attempts=1, connections=2, read_seconds=0.05)

    async def ask() -> None:
        await slow.rpc("x", {}, headers={}, repeatable=False)

    callers = [asyncio.create_task(ask()) for _ in range(50)]
    for _ in range(2):
        await arrived.acquire()
    with pytest.raises(QueueUnavailable, match="busy") as refused:
        await ask()  # there is no free connection
    await end_tasks(callers)
    answering.set()
    await asyncio.wait(slow._pending)  # wait until the cancelled calls have ended
    await ask()

    await slow.aclose()
    assert (refused.value.unsent, len(sent)) == (True, 3)


@pytest.mark.parametrize(("code", "is_outage"), [("PGRST202", True), ("PGRST116", False)])
async def test_a_function_missing_for_a_moment_is_an_outage(code: str, is_outage: bool) -> None:
    """A function that the Data API does not know counts as an outage.

    The Data API may be loading its schema.
    """
    network = Network(*[httpx.Response(404, json={"code": code, "message": "no"})] * 9)

    with pytest.raises(QueueError) as raised:
        await network.worker().settle([])

    assert isinstance(raised.value, QueueUnavailable) is is_outage


async def test_a_key_that_was_refused_is_made_again_once() -> None:
    """A worker whose token is rejected signs one new token and repeats the call.

    A second rejection raises an error.
    """
    network = Network(*[httpx.Response(401, json={"code": "PGRST303", "message": "no"})] * 9)

    with pytest.raises(TokenRefused):
        await network.worker().settle([])

    tokens = [request.headers["Authorization"] for request in network.requests]
    assert len(tokens) == len(set(tokens)) == 2


async def test_steps_that_do_not_fit_a_worker_are_read_no_further() -> None:
    """A job whose steps exceed the maximum size fails before all pages are read."""
    page = {"bytes": MAX_STEP_BYTES * 2 // 5, "lines": [], "next": {"name": "s"}}
    network = Network(*[httpx.Response(200, json=page)] * 9)

    with pytest.raises(ProcessorError, match="must not exceed 64000000 bytes"):
        await network.worker().read_steps(JobId("j"), 1)

    assert len(network.requests) == 3


async def test_the_steps_of_a_job_are_read_page_by_page_with_their_children() -> None:
    """A job's steps are read page by page. Results of many child jobs are joined over pages."""
    place = {"name": "gather", "nth": 1}
    lines = [
        {"nth": 0, "name": "a", "value": 1},
        {"nth": 0, "name": "gather", "value": {"children": []}},
        {"nth": 1, "name": "gather", "value": {"id": "c1"}},
        {"nth": 2, "name": "gather", "value": {"id": "c2"}},
    ]
    pages = ({"lines": lines[:3], "next": place}, {"lines": lines[3:], "next": None})
    network = Network(*[httpx.Response(200, json={"bytes": 10, **page}) for page in pages])

    steps = await network.worker().read_steps(JobId("j"), 3)

    assert steps == {"a": 1, "gather": {"children": [{"id": "c1"}, {"id": "c2"}]}}
    sent = [json.loads(request.content)["p_request"] for request in network.requests]
    held = {"job_id": "j", "fence": 3}
    assert sent == [{**held, "after": None}, {**held, "after": place}]
