"""What is said to Realtime, and what of its frames is meant for whom; the wire is the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from websockets.asyncio.server import ServerConnection, serve

from minutehand.queue.broadcasts import READY
from minutehand.queue.realtime import Heard, RealtimeLost, RealtimeSocket
from tests.support.virtual_time import leaping


class Wire:
    """A connection: what was sent, and when; what comes is fed."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, dict[str, Any]]] = []
        self._frames: asyncio.Queue[str | None] = asyncio.Queue()

    async def send(self, text: str) -> None:
        self.sent.append((asyncio.get_running_loop().time(), json.loads(text)))

    async def __aiter__(self) -> AsyncIterator[str]:
        while (text := await self._frames.get()) is not None:
            yield text

    async def feed(self, topic: str, event: str, payload: Any, ref: str | None = None) -> None:
        frame = {"topic": f"realtime:{topic}", "event": event, "payload": payload, "ref": ref}
        self._frames.put_nowait(json.dumps(frame))
        await asyncio.sleep(0.01)

    def end(self, text: str | None = None) -> None:
        self._frames.put_nowait(text)


class World:
    """A socket that is open."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Heard]] = []
        self.wire = Wire()
        self.socket = RealtimeSocket(
            "http://127.0.0.1:9/realtime/v1", "sb_key", lambda *said: self.heard.append(said)
        )
        self.socket._socket = cast("Any", self.wire)
        self.serving = asyncio.create_task(self.socket.serve())

    async def said(self, event: str) -> list[dict[str, Any]]:
        await asyncio.sleep(0.01)
        return [frame for _, frame in self.wire.sent if frame["event"] == event]

    def kinds(self) -> list[tuple[str, str]]:
        kinds, self.heard[:] = [(topic, heard.kind) for topic, heard in self.heard], []
        return [(topic, str(kind)) for topic, kind in kinds]


def test_a_topic_is_joined_as_a_private_one_with_its_reader_s_token() -> None:
    async def story() -> None:
        world = World()
        world.socket.join("job:1", "jwt")
        world.socket.join("session:1", None)
        first, second = await world.said("phx_join")
        world.serving.cancel()

        assert first["topic"] == "realtime:job:1"
        assert first["payload"]["access_token"] == "jwt"
        assert "access_token" not in second["payload"]
        assert first["payload"]["config"] == {
            "private": True,
            "broadcast": {"ack": False, "self": False, "replication_ready": True},
            "presence": {"enabled": False, "key": ""},
            "postgres_changes": [],
        }
        assert first["ref"] != second["ref"]

    leaping(story())


def test_what_is_said_of_a_topic_is_passed_on_while_it_is_joined() -> None:
    """Of an earlier join, or of a topic that was left, nothing is."""

    async def story() -> None:
        world = World()
        world.socket.join("job:1", "jwt")
        [earlier] = await world.said("phx_join")
        world.socket.join("job:1", "jwt")
        ref = (await world.said("phx_join"))[1]["ref"]
        feed = world.wire.feed

        await feed("job:1", "phx_reply", {"status": "error", "response": {}}, earlier["ref"])
        await feed("job:1", "phx_close", {}, earlier["ref"])
        await feed("job:2", "broadcast", {"payload": {"seq": 1}})
        assert world.kinds() == []

        await feed("job:1", "phx_reply", {"status": "ok"}, ref)
        await feed("job:1", "system", {"status": "ok", "message": "Subscribed"})
        await feed("job:1", "system", {"status": "ok", "message": READY})
        await feed("job:1", "system", {"status": "error", "message": "too slow"})
        await feed("job:1", "broadcast", {"event": "e", "payload": {"seq": 1}})
        message = world.heard[-1][1]
        assert (message.payload, message.size > 50) == ({"seq": 1}, True)
        assert world.heard[-2][1].payload == "too slow"
        assert world.kinds() == [
            ("job:1", kind) for kind in ("joined", "ready", "error", "message")
        ]

        await feed("job:1", "system", None)
        world.socket.leave("job:2")
        assert await world.said("phx_leave") == [], "it was not joined"
        world.socket.leave("job:1")
        world.socket.leave("job:1")
        await feed("job:1", "broadcast", {"payload": {"seq": 2}})
        assert world.kinds() == []
        assert len(await world.said("phx_leave")) == 1
        world.serving.cancel()

    leaping(story())


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("event", ["phx_close", "phx_error"])
def test_a_channel_that_is_closed_is_no_longer_joined(event: str, own: bool) -> None:
    async def story() -> None:
        world = World()
        world.socket.join("job:1", "jwt")
        [join] = await world.said("phx_join")

        await world.wire.feed("job:1", event, {}, join["ref"] if own else None)
        await world.wire.feed("job:1", "broadcast", {"payload": {"seq": 1}})

        assert world.kinds() == [("job:1", "closed")]
        world.serving.cancel()

    leaping(story())


def test_a_refused_topic_says_why_and_is_not_joined() -> None:
    async def story() -> None:
        world = World()
        world.socket.join("job:1", "jwt")
        [join] = await world.said("phx_join")
        refusal = {"status": "error", "response": {"reason": "Unauthorized"}}

        await world.wire.feed("job:1", "phx_reply", refusal, join["ref"])
        await world.wire.feed("job:1", "broadcast", {"payload": {"seq": 1}})

        assert "Unauthorized" in world.heard[0][1].payload
        assert world.kinds() == [("job:1", "refused")]
        world.serving.cancel()

    leaping(story())


def test_a_socket_beats_before_realtime_ends_it_and_gives_new_tokens() -> None:
    async def story() -> None:
        world = World()
        await asyncio.sleep(60)
        world.socket.renew("job:1", "newer")
        [renewed] = await world.said("access_token")
        world.serving.cancel()

        beats = [at for at, frame in world.wire.sent if frame["event"] == "heartbeat"]
        assert beats == [25, 50]
        assert {frame["topic"] for frame in await world.said("heartbeat")} == {"phoenix"}
        assert (renewed["topic"], renewed["payload"]) == (
            "realtime:job:1", {"access_token": "newer"}
        )  # fmt: skip

    leaping(story())


@pytest.mark.parametrize("text", [None, "<html>"])
def test_a_socket_that_ends_or_talks_nonsense_is_lost(text: str | None) -> None:
    """A close in good order, too: what comes meanwhile comes over no socket."""

    async def story() -> None:
        world = World()
        await asyncio.sleep(1)
        world.wire.end(text)
        with pytest.raises(RealtimeLost):
            await world.serving

    leaping(story())


async def test_a_socket_takes_large_frames_and_says_goodbye() -> None:
    """A message may have 3 MB; and who leaves is not held for a minute."""
    large, left = "x" * 3_000_000, asyncio.Event()

    async def realtime(connection: ServerConnection) -> None:
        join = json.loads(await connection.recv())
        frame = {"topic": join["topic"], "event": "broadcast", "payload": {"payload": large}}
        await connection.send(json.dumps(frame))
        await connection.wait_closed()
        if connection.close_code == 1000:
            left.set()

    heard: asyncio.Queue[Heard] = asyncio.Queue()
    async with serve(realtime, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        url = f"http://127.0.0.1:{port}/realtime/v1"
        async with RealtimeSocket(url, "k", lambda _, said: heard.put_nowait(said)) as socket:
            serving = asyncio.create_task(socket.serve())
            socket.join("job:1", "jwt")
            message = await asyncio.wait_for(heard.get(), 60)
            serving.cancel()
        await asyncio.wait_for(left.wait(), 60)

    assert message.payload == large
    assert message.size > 3_000_000


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("", "TimeoutError"), ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "403")],
)
async def test_a_realtime_that_does_not_open_a_socket_is_lost(answer: str, reason: str) -> None:
    """It waits no longer than it was told, and says what came instead."""
    closed = asyncio.Event()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/realtime/v1"
        with pytest.raises(RealtimeLost, match=reason):
            async with RealtimeSocket(url, "k", print, open_seconds=60 if answer else 0.05):
                pytest.fail("it is no socket")
        await asyncio.wait_for(closed.wait(), 60)


def test_a_proxy_is_for_the_world_outside() -> None:
    """The local stack is not asked for through it."""
    proxies = [
        RealtimeSocket(f"{host}/realtime/v1", "k", print)._proxy
        for host in ("http://127.0.0.1:9", "https://x.supabase.co")
    ]

    assert proxies == [None, True]


async def test_a_realtime_that_is_not_there_is_lost_at_once() -> None:
    with pytest.raises(RealtimeLost, match="ConnectionRefusedError"):
        async with RealtimeSocket("http://127.0.0.1:1/realtime/v1", "k", print):
            pytest.fail("it is not there")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://x.test/realtime/v1", "wss://x.test/realtime/v1/websocket?apikey=a%2Bb&vsn=1.0.0"),
        ("ws://x.test/realtime/v1", "ws://x.test/realtime/v1/websocket?apikey=a%2Bb&vsn=1.0.0"),
    ],
)
def test_an_address_is_that_of_the_first_version_of_the_protocol(url: str, address: str) -> None:
    async def story() -> str:
        return RealtimeSocket(url, "a+b", print)._url

    assert leaping(story()) == address
