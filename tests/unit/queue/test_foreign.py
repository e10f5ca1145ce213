"""The client of foreign services, over a transport that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from minutehand.queue.foreign import NoAnswer, connect, exchange, is_local, repeating


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError("x"), "unsent"),
        (httpx.PoolTimeout("x"), "unsent"),
        (httpx.InvalidURL("x"), "unsent"),
        (httpx.ReadTimeout("x"), "silent"),
        (httpx.RemoteProtocolError("x"), "broken"),
    ],
)
async def test_what_is_no_whole_answer_has_its_kind(error: Exception, kind: str) -> None:
    """Silence may hide an answer that is charged for; only what never arrived is sent again."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    async with connect(transport=httpx.MockTransport(fail)) as http:
        with pytest.raises(NoAnswer) as failed:
            await exchange(http, "POST", "http://x.test/", most_bytes=100)

    assert (failed.value.kind, failed.value.unsent) == (kind, kind == "unsent")


async def test_an_answer_is_read_up_to_its_bound() -> None:
    answers = iter([b"x" * 100, b"x" * 101])
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=next(answers)))
    async with connect(transport=transport) as http:
        answer = await exchange(http, "GET", "http://x.test/", most_bytes=100)
        with pytest.raises(NoAnswer, match="more than 100 bytes"):
            await exchange(http, "GET", "http://x.test/", most_bytes=100)

    assert (len(answer.body), answer.object()) == (100, None)


async def test_an_answer_that_drips_has_its_time() -> None:
    """Each piece comes in time, and the whole never does."""

    async def drip() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.01)
            yield b"x"

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=drip()))
    async with connect(transport=transport) as http:
        with pytest.raises(NoAnswer, match="longer than") as failed:
            await exchange(http, "GET", "http://x.test/", most_bytes=10**6, within=0.1)

    assert failed.value.kind == "silent"


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is meant for the world outside, and knows no local stack."""
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    hosts = ("127.0.0.1", "[::1]", "localhost", "192.0.2.1")
    async with connect() as http:
        ways = [http._transport_for_url(httpx.URL(f"http://{host}:8000/x")) for host in hosts]

    assert [way is http._transport for way in ways] == [True, True, True, False]
    assert [is_local(f"http://{host}:8000/x") for host in hosts] == [True, True, True, False]


async def test_no_cookie_is_kept_and_no_redirect_followed() -> None:
    """Connections are shared by keys; a cookie would be one key's."""
    seen: list[httpx.Request] = []

    def move(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        headers = {"location": "/elsewhere", "set-cookie": "key=one"}
        return httpx.Response(302, headers=headers, json={})

    async with connect(transport=httpx.MockTransport(move)) as http:
        for _ in range(2):
            assert (await exchange(http, "GET", "http://x.test/", most_bytes=9)).status == 302

    assert ["cookie" in request.headers for request in seen] == [False, False]


class Busy(Exception):
    """A refusal that says how long to wait."""

    def __init__(self, retry_after: timedelta | None) -> None:
        self.retry_after = retry_after
        super().__init__("busy")


@pytest.mark.parametrize(
    ("asked", "worth", "calls"),
    [
        (None, True, 3),
        (timedelta(seconds=3), True, 3),
        (timedelta(seconds=4), True, 1),
        (None, False, 1),
    ],
)
async def test_short_waits_are_waited_for_and_long_ones_are_the_jobs(
    asked: timedelta | None, worth: bool, calls: int
) -> None:
    """A worker's slot is not for sleeping."""
    waits: list[float] = []
    made = 0

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def call() -> None:
        nonlocal made
        made += 1
        raise Busy(asked)

    with pytest.raises(Busy):
        await repeating(lambda _: worth, attempts=3, sleep=sleep)(call)

    assert made == calls == len(waits) + 1
    assert all(wait >= (asked.total_seconds() if asked else 0) for wait in waits)
