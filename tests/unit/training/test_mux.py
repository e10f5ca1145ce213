"""The client of the video host, before a server in its documented format."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from minutehand_apps.training.errors import StageError
from minutehand_apps.training.mux import Mux
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


async def test_an_upload_continues_where_it_ended(server: MuxServer) -> None:
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
        (Fault(200, {"data": "x" * 1_000_001}), "host_unreachable", True, 3),
        (Fault(200, "not an object"), "host_failed", True, 1),
        (Fault(200, {"data": [1]}), "host_failed", True, 1),
        (Fault(302, {}, {"location": "http://169.254.169.254/"}), "host_refused", False, 1),
        (Fault(200, {}, {"content-type": "text/html"}), "host_failed", True, 1),
    ],
)
async def test_each_failure_is_reported_by_its_kind(
    server: MuxServer, fault: Fault, code: str, later: bool, asked: int
) -> None:
    """Reading is repeated where that may help, and no message tells the token."""
    server.faults["GET assets"] = [fault] * 3
    server.assets["a"] = {"id": "a", "status": "ready"}
    pauses: list[float] = []  # not the server's calls: a late machine may not connect within 0.3 s

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    host = client(server, answer_seconds=0.3 if fault.hang else 30.0, sleep=pause)

    with pytest.raises(StageError) as caught:
        await host.find_asset("a")
    await host.aclose()

    assert (caught.value.code, caught.value.later) == (code, later)
    assert len(pauses) == asked - 1
    assert TOKEN_SECRET not in str(caught.value)
    if code == "host_rate_limited":
        assert caught.value.retry_after == timedelta(seconds=60)


async def test_an_upload_is_not_begun_twice_for_one_silence(server: MuxServer) -> None:
    """An answer that broke off may hide an upload; a 500 hides none."""
    host = client(server)
    server.faults["POST uploads"] = [Fault(cut=True)]
    with pytest.raises(StageError, match="ended its answer early"):
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


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://storage.example/x", "not https"),
        ("file:///etc/passwd", "not https"),
        ("https://169.254.169.254/latest", "not public"),
        ("https://[::ffff:127.0.0.1]/", "not public"),
        ("https://10.0.0.7:8443/", "not public"),
        ("https://localhost/", "not public"),
        ("https://[::1", "malformed"),
    ],
)
async def test_a_video_is_sent_nowhere_unsafe(url: str, reason: str) -> None:
    """In plain text or into this network: unless the host itself is on this machine."""
    host = Mux(TOKEN_ID, TOKEN_SECRET)

    with pytest.raises(StageError, match=reason):
        await host.send(url, 1, read, on_sent=lambda _: None)
    await host.aclose()


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (19.5, 19.5),
        (20, 20.0),
        (1e400, None),
        (10**400, None),
        (-1, None),
        (True, None),
        ("9", None),
    ],
)
async def test_what_no_table_can_hold_is_left_out(
    server: MuxServer, duration: object, seconds: float | None
) -> None:
    """Of a video's length, and of an id that is no text."""
    server.assets["a"] = {
        "id": "a", "status": "ready", "duration": duration, "playback_ids": [{"id": 7}],
    }  # fmt: skip
    host = client(server)
    asset = await host.find_asset("a")
    await host.aclose()

    assert asset is not None
    assert (asset.seconds, asset.playback_id) == (seconds, None)


async def test_a_storage_that_counts_wildly_takes_no_video(server: MuxServer) -> None:
    """A range of five thousand digits, or of no number, is none; a redirect is not followed."""
    host = client(server, attempts=1)
    upload = await host.create_upload("x")
    assert upload.url is not None
    for told in ("bytes=0-" + "9" * 5000, "bytes=0-²", "bytes=5-9", ""):
        server.faults["PUT storage"] = [Fault(308, headers={"range": told})] * 2
        with pytest.raises(StageError, match="takes no more"):
            await host.send(upload.url, len(VIDEO), read, on_sent=lambda _: None)
    server.faults["PUT storage"] = [Fault(307, headers={"location": f"{server.url}/elsewhere"})]
    with pytest.raises(StageError, match="refused"):
        await host.send(upload.url, len(VIDEO), read, on_sent=lambda _: None)
    await host.aclose()

    assert "PUT elsewhere" not in server.calls
