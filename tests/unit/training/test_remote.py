"""Recordings from elsewhere: allowed hosts, checked redirects, bounded size, hosts in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from minutehand_apps.training.errors import StageError
from minutehand_apps.training.remote import fetch_remote, refuse_address
from minutehand_apps.training.settings import TrainingSettings
from tests.support.misbehaving import Fault, MisbehavingServer, Request

SETTINGS = TrainingSettings(source_hosts=("media.example.com", "*.cdn.example.com"))
URL = "https://media.example.com/a.mp3"
SOUND = b"sound" * 1000


class MediaServer(MisbehavingServer):
    """Answers each request with the next fault, or with a recording."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[Fault] = []
        self.asked: list[str] = []

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.asked.append(request.headers["host"] + request.target)
        fault = self.faults.pop(0) if self.faults else Fault()
        if fault.hang:
            await self.hang()
        head = "".join(f"{name}: {value}\r\n" for name, value in fault.headers.items())
        body = SOUND if fault.status == 200 else b""
        start = f"HTTP/1.1 {fault.status} x\r\ncontent-length: {len(body)}\r\n{head}\r\n"
        writer.write(start.encode() + (body[:100] if fault.cut else body))
        await writer.drain()


class ToServer(httpx.AsyncBaseTransport):
    """Leads every name to the server of this machine; the names stay as they were asked for."""

    def __init__(self, server: MediaServer) -> None:
        self._to = httpx.URL(server.origin)
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url.copy_with(scheme="http", host=self._to.host, port=self._to.port)
        again = httpx.Request(
            request.method, url, headers=request.headers, extensions=request.extensions
        )
        return await self._inner.handle_async_request(again)


@pytest.fixture
async def server() -> AsyncIterator[MediaServer]:
    """A host of recordings."""
    async with MediaServer() as running:
        yield running


async def fetch(server: MediaServer, into: Path, url: str = URL, **options: Any) -> bytes:
    """Fetch from the server; what was written."""
    options = {"most_bytes": 10_000, "silent_seconds": 60, **options}
    await fetch_remote(
        url,
        into,
        settings=SETTINGS,
        on_bytes=lambda done, size: None,
        transport=ToServer(server),
        **options,
    )
    return await asyncio.to_thread(into.read_bytes)


async def test_a_recording_is_fetched_over_allowed_redirects(
    server: MediaServer, tmp_path: Path
) -> None:
    """Each hop is checked as the first."""
    server.faults = [Fault(302, headers={"location": "https://eu.cdn.example.com/b.mp3"})]

    found = await fetch(server, tmp_path / "a")

    assert found == SOUND
    assert server.asked == ["media.example.com/a.mp3", "eu.cdn.example.com/b.mp3"]


@pytest.mark.parametrize(
    ("fault", "code", "later"),
    [
        (
            Fault(302, headers={"location": "https://elsewhere.example.org/"}),
            "source_refused",
            False,
        ),
        (Fault(302, headers={"location": "http://media.example.com/"}), "source_refused", False),
        (Fault(302, headers={"location": "https://169.254.169.254/"}), "source_refused", False),
        (Fault(404), "source_missing", False),
        (Fault(503), "source_unreachable", True),
        (Fault(cut=True), "source_unreachable", True),
        (Fault(hang=True), "source_unreachable", True),
    ],
    ids=["elsewhere", "not https", "private", "404", "503", "cut", "hang"],
)
async def test_a_host_in_trouble_ends_in_a_clear_state(
    server: MediaServer, tmp_path: Path, fault: Fault, code: str, later: bool
) -> None:
    """With another attempt where that may help, and none where it cannot."""
    server.faults = [fault]

    with pytest.raises(StageError) as caught:
        await fetch(server, tmp_path / "a", silent_seconds=0.3 if fault.hang else 60)

    assert (caught.value.code, caught.value.later) == (code, later)


async def test_a_recording_beyond_the_limit_is_not_taken(
    server: MediaServer, tmp_path: Path
) -> None:
    """By what it announces, before it is written."""
    with pytest.raises(StageError) as caught:
        await fetch(server, tmp_path / "a", most_bytes=100)

    assert caught.value.code == "video_too_large"
    assert await asyncio.to_thread((tmp_path / "a").read_bytes) == b""


async def test_redirects_come_to_an_end(server: MediaServer, tmp_path: Path) -> None:
    """A ring of them is refused."""
    server.faults = [Fault(302, headers={"location": URL})] * 20

    with pytest.raises(StageError) as caught:
        await fetch(server, tmp_path / "a")

    assert (caught.value.code, len(server.asked)) == ("source_refused", 6)


async def test_private_addresses_are_not_connected_to(tmp_path: Path) -> None:
    """An allowed name that leads into this network, by the real transport."""
    local = TrainingSettings(source_hosts=("localhost",))

    with pytest.raises(StageError) as caught:
        await fetch_remote(
            "https://localhost/a.mp3",
            tmp_path / "a",
            settings=local,
            most_bytes=10,
            on_bytes=lambda done, size: None,
        )

    assert caught.value.code == "source_refused"


@pytest.mark.parametrize(
    "url",
    [
        "http://media.example.com/a.mp3",
        "https://user:word@media.example.com/a.mp3",
        "https://media.example.com:8443/a.mp3",
        "https://media.example.com.evil.example/a.mp3",
        "https://cdn.example.com/a.mp3",
        "https://[::1",
        "ftp://media.example.com/a",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    """By their form, before anything is asked."""
    assert refuse_address(url, SETTINGS) is not None
    assert refuse_address("https://a.cdn.example.com/x", SETTINGS) is None
    assert refuse_address(URL, TrainingSettings()) is not None
