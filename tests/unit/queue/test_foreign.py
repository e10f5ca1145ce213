"""The client of foreign services, against a local server that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from minutehand.queue.foreign import (
    Answer,
    NoAnswer,
    connect,
    exchange,
    is_local,
    repeating,
    timeouts,
    trusted,
)
from tests.support.misbehaving import Fault, MisbehavingServer, Request, write
from tests.support.virtual_time import leaping


class Vendor(MisbehavingServer):
    """Misbehaves as it is told; sets a cookie and redirects whoever asks for it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault
        self.seen: list[Request] = []

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Answer once by the fault."""
        self.seen.append(request)
        if self.fault.hang:
            await self.hang()
        if not self.fault.drop:
            write(
                writer, self.fault.status, self.fault.body, self.fault.headers, cut=self.fault.cut
            )


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(hang=True), "silent", "stopped responding"),
        (Fault(drop=True), "broken", "ended its answer early"),
        (Fault(body={"a": "b" * 50}, cut=True), "broken", "ended its answer early"),
        (Fault(body=b"x" * 101), "long", "more than 100 bytes"),
    ],
)
async def test_what_is_no_whole_answer_has_its_kind(fault: Fault, kind: str, words: str) -> None:
    """Silence may hide an answer that is charged for, so it is told apart from a lost way."""
    timeout = httpx.Timeout(60, read=0.2 if fault.hang else 60)
    async with Vendor(fault) as vendor, connect(timeout=timeout) as http:
        with pytest.raises(NoAnswer, match=words) as failed:
            await exchange(http, "GET", vendor.origin, most_bytes=100)

    assert failed.value.kind == kind
    assert not failed.value.unsent


async def test_an_answer_of_just_the_most_bytes_is_whole() -> None:
    """The bound is what callers ask for, as a model's longest answer."""
    async with Vendor(Fault(body=b"x" * 100)) as vendor, connect() as http:
        answer = await exchange(http, "GET", vendor.origin, most_bytes=100)

    assert len(answer.body) == 100


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://[::", "https://no.such.invalid/"])
async def test_what_never_arrived_is_known(url: str) -> None:
    """It is safe to send again."""
    async with connect() as http:
        with pytest.raises(NoAnswer, match="could not be reached") as failed:
            await exchange(http, "POST", url, most_bytes=100)

    assert failed.value.unsent


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is meant for the world outside, and knows no local stack."""
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with Vendor(Fault(body={"up": True})) as vendor, connect() as http:
        answer = await exchange(http, "GET", vendor.origin, most_bytes=100)
        with pytest.raises(NoAnswer, match="could not be reached"):
            await exchange(http, "GET", "http://192.0.2.1/", most_bytes=100)

    assert answer.object() == {"up": True}
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert is_local(f"http://{host}:8000/x")
    assert not is_local("http://192.0.2.1/")


async def test_each_name_of_this_machine_is_reached_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stack is asked for by any of them."""
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with connect() as http:
        ways = [
            http._transport_for_url(httpx.URL(f"http://{host}:8000/x"))
            for host in ("127.0.0.1", "[::1]", "localhost", "192.0.2.1")
        ]

    assert [way is http._transport for way in ways] == [True, True, True, False]


async def test_connections_carry_what_their_maker_says() -> None:
    """Beside our name; without a patience of their own they have five seconds."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"[" * 100_000)

    transport = httpx.MockTransport(answer)
    patience = httpx.Timeout(60, read=7)
    async with (
        connect(headers={"x-key": "k"}, transport=transport, timeout=patience) as own,
        connect(transport=transport) as usual,
    ):
        found = await exchange(own, "POST", "http://x.test/", most_bytes=200_000, json={"a": 1})
        await exchange(usual, "GET", "http://x.test/", most_bytes=200_000)

    first, second = seen
    assert (first.headers["user-agent"], first.headers["x-key"]) == ("Minutehand", "k")
    assert first.content == b'{"a":1}'
    assert first.extensions["timeout"]["read"] == 7
    assert second.extensions["timeout"] == dict.fromkeys(("connect", "read", "write", "pool"), 5)
    assert found.object() is None, "too deep to be read"
    assert timeouts(2).as_dict() == dict.fromkeys(("connect", "read", "write", "pool"), 2)
    assert timeouts(60).as_dict() == {"connect": 5, "read": 60, "write": 60, "pool": 60}
    assert trusted() is trusted(), "reading the certificates takes its time"


@pytest.mark.parametrize(
    ("body", "told"), [(b'{"a": 1}', {"a": 1}), (b"[1]", None), (b"<html>", None), (b"", None)]
)
def test_a_body_is_an_object_or_none(body: bytes, told: dict[str, int] | None) -> None:
    assert Answer(200, httpx.Headers(), body).object() == told


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError("x"), "unsent"),
        (httpx.ConnectTimeout("x"), "unsent"),
        (httpx.PoolTimeout("x"), "unsent"),
        (httpx.InvalidURL("x"), "unsent"),
        (httpx.ReadTimeout("x"), "silent"),
        (httpx.WriteTimeout("x"), "silent"),
        (httpx.RemoteProtocolError("x"), "broken"),
    ],
)
def test_each_failure_has_its_kind(error: Exception, kind: str) -> None:
    """Only what certainly never arrived may be sent again by anyone."""
    assert NoAnswer.of(error).kind == kind


@pytest.mark.parametrize(
    ("within", "read", "seconds"), [(3, 100, 3), (None, 4, 8), (None, None, None)]
)
def test_an_answer_that_drips_has_its_time(
    within: float | None, read: float | None, seconds: float | None
) -> None:
    """Each piece comes in time, and the whole never does."""

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(20):
            await asyncio.sleep(1)
            yield b"x"

    async def story() -> None:
        began = asyncio.get_running_loop().time()
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=drip()))
        async with connect(transport=transport, timeout=httpx.Timeout(60, read=read)) as http:
            asking = exchange(http, "GET", "http://x.test/", most_bytes=100, within=within)
            if seconds is None:
                assert len((await asking).body) == 20
                return
            with pytest.raises(NoAnswer, match=f"longer than {seconds} s") as failed:
                await asking
        assert failed.value.kind == "silent"
        assert asyncio.get_running_loop().time() - began == pytest.approx(seconds)

    leaping(story())


async def test_no_cookie_is_kept_and_no_redirect_followed() -> None:
    """Connections are shared by keys; a cookie would be one key's."""
    moved = Fault(302, {}, {"location": "/elsewhere", "set-cookie": "key=one"})
    async with Vendor(moved) as vendor, connect() as http:
        for _ in range(2):
            assert (await exchange(http, "GET", vendor.origin, most_bytes=100)).status == 302

    assert [request.target for request in vendor.seen] == ["/", "/"]
    assert not any("cookie" in request.headers for request in vendor.seen)


class Busy(Exception):
    """A refusal that says how long to wait."""

    def __init__(self, retry_after: timedelta | None) -> None:
        self.retry_after = retry_after
        super().__init__("busy")


@pytest.mark.parametrize(
    ("asked", "calls"), [(None, 3), (timedelta(seconds=3), 3), (timedelta(seconds=4), 1)]
)
async def test_short_waits_are_waited_for_and_long_ones_are_the_jobs(
    asked: timedelta | None, calls: int
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
        await repeating(lambda error: isinstance(error, Busy), attempts=3, sleep=sleep)(call)

    assert made == calls == len(waits) + 1
    assert all(wait >= (asked.total_seconds() if asked else 0) for wait in waits)
    assert all(wait <= (3 if asked else 2) for wait in waits)


async def test_what_is_not_worth_it_is_not_repeated() -> None:
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        raise Busy(None)

    with pytest.raises(Busy):
        await repeating(lambda error: False, attempts=3)(call)

    assert made == 1
