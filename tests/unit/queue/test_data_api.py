"""What is repeated and what is not, over a network that fails on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from minutehand.queue import QueueError, QueueUnavailable
from minutehand.queue.data_api import DataApi, encode

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
    network = Network(httpx.Response(200, content=b'{"leases": [{'))

    assert await api(network).rpc("lease_jobs", {}, headers={}, repeatable=True) == {}
    assert len(network.requests) == 2


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
