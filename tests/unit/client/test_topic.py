"""A topic that stays joined, in leaping time: when it comes back, and what it says meanwhile.

The socket is in the test's hand; the wire's own tests are tests/e2e/live.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self, cast

import pytest

from minutehand.client import topic
from minutehand.client.access import Access
from minutehand.client.topic import Topic
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.models import TopicFollowed
from minutehand.queue.realtime import Heard, RealtimeLost
from tests.support.virtual_time import leaping

TERMS = TopicFollowed(receivers=1, again_seconds=45, quiet=False)


class World:
    """Realtime, the queue, the tokens and a topic's owner, all in one."""

    realtime_url, key = "http://127.0.0.1:9/realtime/v1", "sb_key"
    can_renew = False
    seconds_left = 1e9
    #: What becomes of a connection: joined, refused, silent (no answer to the join), or none.
    meets = "joined"
    #: How long `follow_topic` takes, and whether it fails.
    follow_seconds, follow_fails = 0.0, False
    token_fails = False

    def __init__(self) -> None:
        self.tokens = self
        self.opened: list[float] = []
        self.followed: list[float] = []
        self.said: list[Any] = []
        self.sockets: list[Socket] = []
        self.given = 0
        self.topic = Topic(
            cast("Access", self), "job:1", timeout=5.0,
            joined=lambda terms: self.said.append(("joined", terms)),
            ready=lambda: self.said.append("ready"),
            lost=self.said.append,
            message=lambda event: self.said.append(event),
        )  # fmt: skip

    async def get(self) -> str:
        if self.token_fails:
            raise QueueUnavailable("no fresh token")
        self.given += 1
        return f"token {self.given}"

    async def user(self, *, read_once: bool) -> Self:
        assert read_once
        return self

    async def follow_topic(self, name: str, follower_id: object) -> TopicFollowed:
        assert name == "job:1"
        self.followed.append(now())
        await asyncio.sleep(self.follow_seconds)
        if self.follow_fails:
            raise QueueUnavailable("away")
        return TERMS


class Socket:
    """One connection."""

    def __init__(
        self, world: World, url: str, key: str, heard: Callable[..., None], *, open_seconds: float
    ) -> None:
        assert (url, key, open_seconds) == (world.realtime_url, world.key, 5.0)
        self._world = world
        self._heard = heard
        self.joined: list[tuple[str, str | None]] = []
        self.renewed: list[tuple[str, str, float]] = []
        self.broken = asyncio.Event()
        self.closed = False

    async def __aenter__(self) -> Self:
        self._world.opened.append(now())
        self._world.sockets.append(self)
        if self._world.meets == "none":
            raise RealtimeLost(OSError("refused"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    async def serve(self) -> None:
        await self.broken.wait()
        raise RealtimeLost(ConnectionResetError("cut"))

    def join(self, name: str, token: str | None) -> None:
        self.joined.append((name, token))
        if self._world.meets == "joined":
            self.hear("joined")
        elif self._world.meets == "refused":
            self.hear("refused", "no policy")

    def renew(self, name: str, token: str) -> None:
        self.renewed.append((name, token, now()))

    def hear(self, kind: Any, payload: Any = None) -> None:
        self._heard("job:1", Heard(kind, payload))


def now() -> float:
    return round(asyncio.get_running_loop().time(), 2)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(topic, "RealtimeSocket", lambda *args, **more: Socket(made, *args, **more))
    monkeypatch.setattr(random, "random", lambda: 0.5)  # no spread
    return made


def run(world: World, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Tell a story while the topic runs."""

    async def told() -> None:
        running = asyncio.create_task(world.topic.run())
        await story()
        running.cancel()
        await asyncio.wait({running})

    leaping(told())


def test_a_topic_comes_back_more_and_more_slowly_until_it_has_joined(world: World) -> None:
    """A server that is down is not asked by every client each second when it comes up."""
    world.meets = "none"

    async def story() -> None:
        await asyncio.sleep(80)
        assert world.opened == [0, 0.5, 1.5, 3.5, 8.5, 18.5, 48.5, 78.5]
        world.meets = "joined"
        await asyncio.sleep(40)
        world.sockets[-1].broken.set()
        await asyncio.sleep(1)
        world.sockets[-1].broken.set()
        await asyncio.sleep(1)

    run(world, story)

    assert world.opened[8:] == [108.5, 120.5, 121.5], "a join makes up for the failures before it"
    assert world.said[0] == "OSError refused"


@pytest.mark.parametrize(("spread", "wait"), [(0.0, 0.375), (1.0, 0.625)])
def test_clients_that_were_cut_off_together_do_not_come_back_together(
    world: World, monkeypatch: pytest.MonkeyPatch, spread: float, wait: float
) -> None:
    monkeypatch.setattr(random, "random", lambda: spread)
    world.meets = "none"

    run(world, lambda: asyncio.sleep(1))

    assert world.opened[1] == pytest.approx(wait, abs=0.01)


def test_a_topic_waits_for_a_token_that_cannot_be_had_now(world: World) -> None:
    world.token_fails = True

    async def story() -> None:
        await asyncio.sleep(1)
        world.token_fails = False
        await asyncio.sleep(1)

    run(world, story)

    assert (world.opened, world.said[0]) == ([1.5], "QueueUnavailable no fresh token")


@pytest.mark.parametrize(
    ("meets", "lost_at", "reason"),
    [("silent", 5, "the join is not answered"), ("refused", 0, "refused no policy")],
)
def test_a_join_without_success_is_tried_again(
    world: World, meets: str, lost_at: float, reason: str
) -> None:
    world.meets = meets

    async def story() -> None:
        await asyncio.sleep(lost_at + 0.1)
        assert world.said == [reason]
        assert world.sockets[0].closed
        await asyncio.sleep(0.5)

    run(world, story)

    assert world.opened == [0, lost_at + 0.5]


@pytest.mark.parametrize(("kind", "reason"), [("closed", "closed"), ("error", "error why")])
def test_a_channel_that_ends_is_joined_again_over_another_socket(
    world: World, kind: str, reason: str
) -> None:
    async def story() -> None:
        await asyncio.sleep(60)
        world.sockets[0].hear(kind, "why" if kind == "error" else None)
        world.sockets[0].hear(kind, "again")
        await asyncio.sleep(1)

    run(world, story)

    joined = ("joined", TERMS)
    assert world.said == [joined, reason, joined]
    assert [each.joined for each in world.sockets] == [
        [("job:1", "token 1")], [("job:1", "token 2")]
    ]  # fmt: skip


def test_a_topic_that_rests_is_hurried_and_one_that_is_joined_is_not(world: World) -> None:
    """Reads that succeed again are worth another try, which counts as the first."""
    world.meets = "none"

    async def story() -> None:
        await asyncio.sleep(10)
        world.topic.hurry()
        await asyncio.sleep(1)
        assert world.opened[5:] == [10, 10.5]
        world.meets = "joined"
        await asyncio.sleep(10)
        world.topic.hurry()
        await asyncio.sleep(10)

    run(world, story)

    assert world.opened[7:] == [11.5]


def test_a_socket_that_delivers_nothing_is_closed_for_another(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(10)
        world.topic.reconnect()
        await asyncio.sleep(10)

    run(world, story)

    assert (world.opened, world.said[1]) == ([0, 10.5], "silent")
    assert world.sockets[0].closed


def test_a_machine_that_slept_opens_another_socket(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timers did not count that time, so no heartbeat was missed."""
    asleep = 0.0
    monkeypatch.setattr(time, "time", lambda: asyncio.get_running_loop().time() + asleep)

    async def story() -> None:
        nonlocal asleep
        await asyncio.sleep(25)
        asleep += 14
        await asyncio.sleep(20)
        assert world.opened == [0], "a slow machine has not slept"
        asleep += 16
        await asyncio.sleep(10)

    run(world, story)

    assert (world.opened, world.said[1]) == ([0, 50.5], "the machine slept")


def test_a_joined_topic_is_given_each_new_token(world: World) -> None:
    """Realtime closes a channel whose token has expired."""
    world.can_renew, world.seconds_left = True, 300

    async def story() -> None:
        await asyncio.sleep(650)

    run(world, story)

    assert world.sockets[0].renewed == [("job:1", "token 2", 300), ("job:1", "token 3", 600)]
    assert world.opened == [0]


@pytest.mark.parametrize(
    ("fails", "takes", "joined_at", "followed"),
    [
        (False, 0, 0, [0, 45, 90]),
        (True, 0, 0, [0, 60, 120]),
        (False, 600, 5, [0, 65]),  # one that is not answered keeps no one from joining
    ],
)
def test_a_follower_says_so_as_often_as_it_is_asked_to(
    world: World, fails: bool, takes: float, joined_at: float, followed: list[float]
) -> None:
    """What is held back is announced to followers alone."""
    world.follow_fails, world.follow_seconds = fails, takes

    async def story() -> None:
        await asyncio.sleep(125)

    run(world, story)

    assert (world.followed, world.opened) == (followed, [joined_at])
    assert world.said == [("joined", None if fails or takes else TERMS)]


def test_the_events_of_a_message_come_one_by_one(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        world.sockets[0].hear("ready")
        world.sockets[0].hear("message", {"events": [{"seq": 1}, {"seq": 2}]})
        await asyncio.sleep(1)

    run(world, story)

    assert world.said[1:] == ["ready", {"seq": 1}, {"seq": 2}]
