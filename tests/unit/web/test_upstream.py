"""The one websocket to Realtime: joins, re-joins, hints; against a server that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from minutehand.clock import SystemClock
from minutehand.config import Settings
from minutehand.queue.broadcasts import READY
from minutehand.queue.errors import QueueUnavailable
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


async def test_without_a_socket_no_topic_is_live(hub: EventHub, realtime: Realtime) -> None:
    """Its readers poll."""
    async with hub.subscribe("job:1", token="t", until=LATER):
        await until(lambda: hub.is_live("job:1"))

        await realtime.stop()

        await until(lambda: not hub.is_live("job:1"))


async def test_a_socket_has_so_many_topics_and_the_rest_is_polled(
    hub: EventHub, realtime: Realtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond them Realtime would refuse the join and slow the others."""
    monkeypatch.setattr(upstream, "MAX_TOPICS", 1)
    async with (
        hub.subscribe("job:1", token="t", until=LATER),
        hub.subscribe("job:2", token="t", until=LATER),
    ):
        await until(lambda: hub.is_live("job:1"))
        await realtime.push("realtime:job:1", "phx_close", {}, realtime.joins["job:1"])
        await until(lambda: len(realtime.sent("phx_join")) == 2)

    assert {frame["topic"] for frame in realtime.sent("phx_join")} == {"realtime:job:1"}


async def test_what_is_no_frame_costs_the_socket_and_nothing_else(
    hub: EventHub, realtime: Realtime
) -> None:
    """A gateway's page in between ends no reader."""
    async with hub.subscribe("job:1", token="t", until=LATER) as news:
        await until(lambda: hub.is_live("job:1"))
        news.must_read()

        await realtime.sockets[-1].send("<html>")
        await until(lambda: len(realtime.sockets) == 2 and hub.is_live("job:1"))

        assert news.must_read()


async def test_a_topic_is_polled_until_its_messages_arrive(
    hub: EventHub, realtime: Realtime
) -> None:
    """A join is answered before replication runs, and what is committed meanwhile is lost."""
    realtime.deaf |= {"job:1", "job:2"}
    async with (
        hub.subscribe("job:1", token="t", until=LATER) as news,
        hub.subscribe("job:2", token="t", until=LATER),
    ):
        await until(lambda: len(realtime.joins) == 2)
        async with hub.subscribe("job:3", token="t", until=LATER):
            await until(lambda: hub.is_live("job:3"))  # the joins before it were answered
        assert not hub.is_live("job:1")
        news.must_read()

        await realtime.push("realtime:job:1", "system", {"message": READY})
        await realtime.push("realtime:job:2", "broadcast", {"event": "job.log", "payload": {}})

        await until(lambda: hub.is_live("job:1") and hub.is_live("job:2"))
        assert news.must_read()
    join = realtime.sent("phx_join")[0]["payload"]
    assert join["config"]["broadcast"]["replication_ready"] is True


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


async def test_a_closed_channel_is_joined_again_with_the_longest_lived_token(
    hub: EventHub, realtime: Realtime
) -> None:
    """One reader's token ends; another's carries on, and Realtime is told before."""
    soon = datetime.now(UTC) + timedelta(minutes=1)
    async with (
        hub.subscribe("job:1", token="short", until=soon),
        hub.subscribe("job:1", token="older", until=soon - timedelta(seconds=1)),
    ):
        await until(lambda: hub.is_live("job:1"))
        async with hub.subscribe("job:1", token="long", until=LATER):
            await until(lambda: bool(realtime.sent("access_token")))
            await realtime.push("realtime:job:1", "phx_close", {}, realtime.joins["job:1"])
            await until(lambda: len(realtime.sent("phx_join")) == 2 and hub.is_live("job:1"))

    assert [f["payload"]["access_token"] for f in realtime.sent("access_token")] == ["long"]
    tokens = [frame["payload"]["access_token"] for frame in realtime.sent("phx_join")]
    assert tokens == ["short", "long"]


async def test_readers_of_a_closed_channel_read_at_once(hub: EventHub, realtime: Realtime) -> None:
    """They are polled for until messages arrive again."""
    async with hub.subscribe("job:1", token="t", until=LATER) as news:
        await until(lambda: hub.is_live("job:1"))
        realtime.deaf.add("job:1")
        news.must_read()

        await realtime.push("realtime:job:1", "phx_close", {}, realtime.joins["job:1"])

        assert await news.wait(5)
        assert news.must_read()
        assert not news.is_live


async def test_an_expired_token_is_not_joined_with(hub: EventHub, realtime: Realtime) -> None:
    """It would only be refused."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    async with (
        hub.subscribe("job:1", token="t", until=past),
        hub.subscribe("job:2", token="t", until=LATER),
    ):
        await until(lambda: hub.is_live("job:2"))

    assert [frame["topic"] for frame in realtime.sent("phx_join")] == ["realtime:job:2"]


async def test_without_a_realtime_server_readers_simply_poll() -> None:
    """And nothing is logged as an error, since nothing is lost."""
    settings = Settings(supabase_url="http://127.0.0.1:9", supabase_publishable_key="k")
    hub = EventHub()
    hub.feed_from(RealtimeUpstream(settings, hub, SystemClock()))

    async with hub.subscribe("job:1", token="t", until=LATER) as news:
        await asyncio.sleep(0.1)
        assert not news.is_live
    await hub.aclose()


async def test_an_announcement_makes_every_reader_read_until_nothing_more_is_found(
    hub: EventHub, realtime: Realtime
) -> None:
    """Messages were held back: no reader may believe that it has heard everything."""
    async with (
        hub.subscribe("workspace:1", token="t", until=LATER) as news,
        hub.subscribe("workspace:2", token="t", until=LATER) as other,
    ):
        await until(lambda: hub.is_live("workspace:1") and hub.is_live("workspace:2"))
        news.must_read()
        other.must_read()

        message = {"event": "job.look_again", "payload": {"look_again": True, "since": "1"}}
        await realtime.push("realtime:workspace:1", "broadcast", message)

        assert await news.wait(60)
        assert news.must_read()
        assert news.held_at is not None
        assert other.held_at is None


async def test_a_process_counts_among_a_topics_followers_while_it_is_joined(
    realtime: Realtime,
) -> None:
    """Of a single job's readers only those are told that messages were held back."""
    said: list[tuple[str, str | None, UUID]] = []

    async def follow_topic(topic: str, token: str | None, follower_id: UUID) -> None:
        said.append((topic, token, follower_id))
        if topic == "job:1":
            raise QueueUnavailable("away")

    settings = Settings(
        supabase_url=f"http://127.0.0.1:{realtime.port}", supabase_publishable_key="sb_key"
    )
    hub = EventHub()
    hub.feed_from(RealtimeUpstream(settings, hub, SystemClock(), follow_topic=follow_topic))
    async with (
        hub.subscribe("job:1", token="a", until=LATER),
        hub.subscribe("job:2", token="b", until=LATER),
    ):
        await until(lambda: len(said) == 2)
        assert hub.is_live("job:1")
        assert hub.is_live("job:2")
        async with hub.subscribe("job:3", token="c", until=LATER):
            await until(lambda: len(said) == 3)  # the others are not due again
    await hub.aclose()

    told = sorted((topic, token) for topic, token, _ in said)
    assert told == [("job:1", "a"), ("job:2", "b"), ("job:3", "c")]
    assert len({follower for _, _, follower in said}) == 3


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


def test_a_socket_is_opened_more_and_more_slowly_until_it_was_open(line: Line) -> None:
    """A Realtime that comes up is not met by every process at once."""
    line.up = False

    async def story(source: RealtimeUpstream) -> None:
        follow(source, "job:1")
        await asyncio.sleep(20)
        line.up = True
        await asyncio.sleep(10)
        line.broken.set()
        await asyncio.sleep(5)

    followed(story)

    assert line.opened == [0, 0.2, 1.2, 3.2, 8.2, 18.2, 28.2, 30.2]


def test_a_refused_topic_is_tried_again_within_a_minute(line: Line) -> None:
    """The policy or the token may have changed; meanwhile nothing is held back for it."""
    line.refuses = True
    counted: list[int] = []

    async def follow_topic(topic: str, token: str | None, follower_id: UUID) -> None:
        counted.append(round(now()))

    async def story(source: RealtimeUpstream) -> None:
        follow(source, "job:1")
        await asyncio.sleep(50)
        line.refuses = False
        await asyncio.sleep(50)

    followed(story, follow_topic)

    assert [round(at) for at, _ in line.joins] == [0, 38, 75]
    assert counted == [75]


def test_a_token_that_lives_longer_is_tried_at_once_where_one_was_refused(line: Line) -> None:
    """Its reader need not poll for the rest of the minute."""
    line.refuses = True

    async def story(source: RealtimeUpstream) -> None:
        follow(source, "job:1")
        await asyncio.sleep(5)
        source.follow("job:1", token="t", until=BEGAN + timedelta(days=2))
        await asyncio.sleep(5)

    followed(story)

    assert [round(at) for at, _ in line.joins] == [0, 5]
    assert line.renewed == []


def test_a_closed_channel_is_joined_again_at_once(line: Line) -> None:
    async def story(source: RealtimeUpstream) -> None:
        follow(source, "job:1")
        await asyncio.sleep(5)
        line.heard("job:1", Heard("closed"))
        await asyncio.sleep(1)

    followed(story)

    assert [round(at) for at, _ in line.joins] == [0, 5]


def test_a_second_guest_has_no_token_to_renew(line: Line) -> None:
    """Realtime would close the channel of the first over a token that is none."""

    async def story(source: RealtimeUpstream) -> None:
        source.follow("session:1", token=None, until=BEGAN + timedelta(days=31))
        await asyncio.sleep(5)
        source.follow("session:1", token=None, until=BEGAN + timedelta(days=32))
        await asyncio.sleep(5)

    followed(story)

    assert (len(line.joins), line.renewed) == (1, [])


def test_an_empty_socket_is_kept_for_a_reader_who_comes_soon(line: Line) -> None:
    async def story(source: RealtimeUpstream) -> None:
        follow(source, "job:1")
        await asyncio.sleep(1)
        source.leave("job:1")
        await asyncio.sleep(29)
        follow(source, "job:2")
        await asyncio.sleep(1)
        assert (line.opened, line.closed) == ([0], [])
        source.leave("job:2")
        await asyncio.sleep(31)
        assert line.closed == [61]
        await asyncio.sleep(60)
        assert line.opened == [0]
        follow(source, "job:3")
        await asyncio.sleep(1)
        assert line.opened == [0, 122]

    followed(story)


def test_a_database_that_hangs_over_one_follower_counts_the_others(line: Line) -> None:
    """And is asked again after a minute, before it forgets them, for the same followers."""
    said: list[tuple[float, str]] = []
    followers: set[tuple[str, UUID]] = set()

    async def follow_topic(topic: str, token: str | None, follower_id: UUID) -> None:
        said.append((round(now()), topic))
        followers.add((topic, follower_id))
        if topic == "job:1":
            await asyncio.Event().wait()

    async def story(source: RealtimeUpstream) -> None:
        follow(source, "job:1", "job:2")
        await asyncio.sleep(75)

    followed(story, follow_topic)

    assert said[:2] == [(0, "job:1"), (5, "job:2")]
    assert {topic for _, topic in said[2:]} == {"job:1", "job:2"}
    assert len(followers) == 2
