"""The one websocket to Realtime: joins, re-joins, hints; against a server that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from minutehand.clock import SystemClock
from minutehand.config import Settings
from minutehand.queue.broadcasts import READY
from minutehand.queue.realtime import Heard, RealtimeLost
from minutehand.web import upstream
from minutehand.web.hub import EventHub
from minutehand.web.upstream import RealtimeUpstream
from tests.support.virtual_time import BEGAN, LoopClock, leaping

LATER = datetime.now(UTC) + timedelta(hours=1)


class Realtime:
    """A server in the test's hand that speaks the protocol's first version."""

    def __init__(self) -> None:
        self.sockets: list[ServerConnection] = []
        self.frames: list[dict[str, Any]] = []
        self.refuse: set[str] = set()
        self.deaf: set[str] = set()
        self.joins: dict[str, str] = {}
        self._server: Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await serve(self._serve, "127.0.0.1", 0)
        [listener] = self._server.sockets
        self.port = listener.getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        async for text in socket:
            frame = json.loads(text)
            self.frames.append(frame)
            if frame["event"] == "phx_join":
                name = frame["topic"].removeprefix("realtime:")
                refused = name in self.refuse
                self.joins[name] = frame["ref"]
                status = "error" if refused else "ok"
                response: dict[str, Any] = (
                    {"reason": "Unauthorized: …"} if refused else {"postgres_changes": []}
                )
                await self.push(
                    frame["topic"],
                    "phx_reply",
                    {"status": status, "response": response},
                    frame["ref"],
                )
                if not refused and name not in self.deaf:
                    await self.push(frame["topic"], "system", {"message": READY})

    async def push(self, topic: str, event: str, payload: Any, ref: str | None = None) -> None:
        frame = {"topic": topic, "event": event, "payload": payload, "ref": ref}
        await self.sockets[-1].send(json.dumps(frame))

    def sent(self, event: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["event"] == event]


@pytest.fixture
async def realtime() -> AsyncIterator[Realtime]:
    server = Realtime()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def hub(realtime: Realtime) -> AsyncIterator[EventHub]:
    settings = Settings(
        supabase_url=f"http://127.0.0.1:{realtime.port}", supabase_publishable_key="sb_key"
    )
    hub = EventHub()
    hub.feed_from(RealtimeUpstream(settings, hub, SystemClock()))
    yield hub
    await hub.aclose()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what changes belongs to another party
            await asyncio.sleep(0.01)


async def test_many_readers_share_one_socket_and_one_join_per_subject(
    hub: EventHub, realtime: Realtime
) -> None:
    """However many clients a process serves, Realtime counts one."""
    async with contextlib.AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(hub.subscribe(topic, token="t", until=LATER))
            for topic in ("job:1", "job:2")
            for _ in range(20)
        ]
        await until(lambda: hub.is_live("job:1") and hub.is_live("job:2"))
        for reader in readers:
            reader.must_read()

        await realtime.push(
            "realtime:job:1", "broadcast", {"event": "job.log", "payload": {"seq": 7}}
        )
        assert await readers[0].wait(60)
        looks = [reader.must_read() for reader in readers]
        kept = [reader.since(6) for reader in readers]

    assert not any(looks)
    assert [[each.content for each in frames or []] for frames in kept] == (
        [[{"seq": 7}]] * 20 + [[]] * 20
    )
    assert len({id(frames[0]) for frames in kept if frames}) == 1  # parsed once for all of them
    assert len(realtime.sockets) == 1
    assert len(realtime.sent("phx_join")) == 2
    join = realtime.sent("phx_join")[0]["payload"]
    assert join["config"]["private"] is True
    assert join["access_token"] == "t"
    await until(lambda: len(realtime.sent("phx_leave")) == 2)


async def test_a_lost_socket_wakes_the_readers_and_is_opened_again(
    hub: EventHub, realtime: Realtime
) -> None:
    """What was sent meanwhile came over no socket, so everyone looks at the log."""
    async with hub.subscribe("job:1", token="t", until=LATER) as news:
        await until(lambda: hub.is_live("job:1"))
        news.must_read()

        await realtime.sockets[-1].close(1012)
        await until(lambda: len(realtime.sockets) == 2 and hub.is_live("job:1"))

        assert await news.wait(60)
        assert news.must_read()


async def test_a_refused_topic_is_polled_and_leaves_the_others_alone(
    hub: EventHub, realtime: Realtime
) -> None:
    """On hosted a refused join also blocks the socket for seconds: it is not repeated at once."""
    realtime.refuse.add("job:1")
    async with (
        hub.subscribe("job:1", token="t", until=LATER),
        hub.subscribe("job:2", token="t", until=LATER),
    ):
        await until(lambda: hub.is_live("job:2"))
        async with hub.subscribe("job:3", token="t", until=LATER):
            await until(lambda: hub.is_live("job:3"))

        assert not hub.is_live("job:1")
    joins = [frame["topic"] for frame in realtime.sent("phx_join")]
    assert joins.count("realtime:job:1") == 1


async def test_without_a_realtime_server_readers_simply_poll() -> None:
    """And nothing is logged as an error, since nothing is lost."""
    settings = Settings(supabase_url="http://127.0.0.1:9", supabase_publishable_key="k")
    hub = EventHub()
    hub.feed_from(RealtimeUpstream(settings, hub, SystemClock()))

    async with hub.subscribe("job:1", token="t", until=LATER) as news:
        await asyncio.sleep(0.1)
        assert not news.is_live
    await hub.aclose()


class Line:
    """Realtime in leaping time: a socket that is refused, or open until the test breaks it."""

    def __init__(self) -> None:
        self.up = True
        self.refuses = False
        self.opened: list[float] = []
        self.closed: list[float] = []
        self.joins: list[tuple[float, str]] = []
        self.renewed: list[str] = []
        self.broken = asyncio.Event()

    def __call__(self, url: str, key: str, heard: Callable[[str, Heard], None]) -> Line:
        self.heard = heard
        return self

    async def __aenter__(self) -> Line:
        self.opened.append(now())
        if not self.up:
            raise RealtimeLost(OSError("refused"))
        self.broken.clear()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed.append(now())

    async def serve(self) -> None:
        await self.broken.wait()
        raise RealtimeLost(OSError("cut"))

    def join(self, topic: str, token: str | None) -> None:
        self.joins.append((now(), topic))
        answer = Heard("refused", "no policy") if self.refuses else Heard("joined")
        asyncio.get_running_loop().call_later(0.01, self.heard, topic, answer)

    def renew(self, topic: str, token: str) -> None:
        self.renewed.append(token)

    def leave(self, topic: str) -> None:
        """Nothing to hear of it."""


def now() -> float:
    return round(asyncio.get_running_loop().time(), 2)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    made = Line()
    monkeypatch.setattr(upstream, "RealtimeSocket", made)
    monkeypatch.setattr(random, "random", lambda: 0.5)  # no spread
    return made


def followed(
    story: Callable[[RealtimeUpstream], Coroutine[Any, Any, None]],
    follow_topic: upstream.FollowTopic | None = None,
) -> None:
    """Tell a story over an upstream in leaping time."""

    async def told() -> None:
        settings = Settings(supabase_url="http://127.0.0.1:9", supabase_publishable_key="k")
        clock, hub = LoopClock(), EventHub()
        source = RealtimeUpstream(settings, hub, clock, follow_topic=follow_topic)
        await story(source)
        await source.aclose()

    leaping(told())


def follow(source: RealtimeUpstream, *topics: str) -> None:
    for topic in topics:
        source.follow(topic, token="t", until=BEGAN + timedelta(days=1))
