"""The client of the video host, before a server in its documented format."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from minutehand.apps.training.errors import StageError
from minutehand.apps.training.mux import Mux
from tests.support.misbehaving import Fault
from tests.unit.training.mux_server import TOKEN_ID, TOKEN_SECRET, MuxServer

VIDEO = bytes(range(256)) * 40


@pytest.fixture
async def server() -> AsyncIterator[MuxServer]:
    """The host."""
    async with MuxServer() as running:
        yield running


async def no_wait(_: float) -> None:
    """Waits within a call are over at once."""


def client(server: MuxServer, **options: Any) -> Mux:
    return Mux(
        TOKEN_ID,
        TOKEN_SECRET,
        **{"base_url": server.url, "sleep": no_wait, "piece_bytes": 4_000, **options},
    )


async def read(start: int, length: int) -> bytes:
    """A piece of the video, as the bucket gives it."""
    return VIDEO[start : start + length]


async def test_a_video_is_sent_in_pieces_and_becomes_an_asset(server: MuxServer) -> None:
    """Only signed addresses will play it; deleted twice, it is gone once."""
    host = client(server)
    sent: list[int] = []

    upload = await host.create_upload("training-1")
    assert upload.url is not None
    await host.send(upload.url, len(VIDEO), read, on_sent=sent.append)
    done = await host.find_upload(upload.id)
    assert done is not None
    assert done.asset_id is not None
    asset = await host.find_asset(done.asset_id)
    await host.cancel_upload(upload.id)  # too late, and harmless
    await host.delete_asset(done.asset_id)
    await host.delete_asset(done.asset_id)

    assert server.received[upload.id] == VIDEO
    assert sent == [0, 4_000, 8_000, len(VIDEO)]
    assert asset is not None
    assert (asset.status, asset.playback_id) == ("ready", f"playback-of-{upload.id}")
    settings = server.uploads[upload.id]["new_asset_settings"]
    assert settings == {"playback_policies": ["signed"], "passthrough": "training-1"}
    assert await host.find_asset(done.asset_id) is None
    assert await host.find_upload("nothing") is None
    await host.aclose()


async def test_an_upload_goes_on_where_it_broke_off(server: MuxServer) -> None:
    """What has arrived is asked for, not remembered; a second sender sends only the rest."""
    host = client(server, attempts=1)
    upload = await host.create_upload("x")
    assert upload.url is not None
    server.faults["PUT storage"] = [
        Fault(308), Fault(308, headers={"range": "bytes=0-3999"}), Fault(503),
    ]  # fmt: skip
    server.received[upload.id] += VIDEO[:4_000]
    with pytest.raises(StageError, match="failed"):
        await host.send(upload.url, len(VIDEO), read, on_sent=lambda _: None)
    starts: list[int] = []

    async def counted(start: int, length: int) -> bytes:
        starts.append(start)
        return await read(start, length)

    await host.send(upload.url, len(VIDEO), counted, on_sent=lambda _: None)

    assert starts == [4_000, 8_000]
    assert server.received[upload.id] == VIDEO
    await host.aclose()


@pytest.mark.parametrize(
    ("fault", "code", "later", "asked"),
    [
        (Fault(401, {"error": {"messages": ["no"]}}), "host_not_authorised", False, 1),
        (Fault(402), "host_out_of_credit", False, 1),
        (Fault(422, {"error": {"messages": ["bad passthrough"]}}), "host_refused", False, 1),
        (Fault(429, {}, {"retry-after": "60"}), "host_rate_limited", True, 1),
        (Fault(500), "host_failed", True, 3),
        (Fault(hang=True), "host_unreachable", True, 3),
        (Fault(cut=True), "host_unreachable", True, 3),
    ],
    ids=["401", "402", "422", "429", "500", "hang", "cut"],
)
async def test_each_failure_is_told_by_its_kind(
    server: MuxServer, fault: Fault, code: str, later: bool, asked: int
) -> None:
    """Reading is repeated where that may help, and no message tells the token."""
    server.faults["GET assets"] = [fault] * 3
    server.assets["a"] = {"id": "a", "status": "ready"}
    host = client(server, answer_seconds=0.3 if fault.hang else 30.0)

    with pytest.raises(StageError) as caught:
        await host.find_asset("a")
    await host.aclose()

    assert (caught.value.code, caught.value.later) == (code, later)
    assert len(server.calls) == asked
    assert TOKEN_SECRET not in str(caught.value)
    if code == "host_rate_limited":
        assert caught.value.retry_after == timedelta(seconds=60)


async def test_an_upload_is_not_begun_twice_for_one_silence(server: MuxServer) -> None:
    """An answer that broke off may hide an upload; a 500 hides none."""
    host = client(server)
    server.faults["POST uploads"] = [Fault(cut=True)]
    with pytest.raises(StageError, match="broke off"):
        await host.create_upload("x")
    assert server.calls == ["POST uploads"]

    server.faults["POST uploads"] = [Fault(500), Fault(429, {}, {"retry-after": "1"})]
    upload = await host.create_upload("x")

    assert upload.url is not None
    await host.cancel_upload(upload.id)
    assert server.uploads[upload.id]["status"] == "cancelled"
    await host.aclose()


async def test_an_expired_address_asks_for_another_attempt(server: MuxServer) -> None:
    """The next attempt begins a new upload."""
    host = client(server)
    upload = await host.create_upload("x")
    assert upload.url is not None
    server.expired.add(upload.id)

    with pytest.raises(StageError) as caught:
        await host.send(upload.url, len(VIDEO), read, on_sent=lambda _: None)
    await host.aclose()

    assert (caught.value.code, caught.value.later) == ("host_upload_gone", True)


async def test_a_video_is_sent_nowhere_unsafe() -> None:
    """An address in plain text is refused, unless the host itself is on this machine."""
    host = Mux(TOKEN_ID, TOKEN_SECRET)

    with pytest.raises(StageError, match="not https"):
        await host.send("http://storage.example/x", 1, read, on_sent=lambda _: None)
    await host.aclose()
