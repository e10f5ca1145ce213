"""When a watch reads, what it says of itself, and what it asks of its socket, in leaping time.

The browser's counterpart is tests/unit/console/follower.test.mjs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from minutehand.client import follower
from minutehand.client.access import Access
from minutehand.client.follower import Timing, Watcher
from minutehand.queue.client import UserQueue
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import JobEvent, TopicFollowed
from tests.support.virtual_time import leaping

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
AWAY = QueueUnavailable("away")
LOOK = {"look_again": True}


class Socket:
    """A topic in the test's hand."""

    def __init__(self, *_: object, timeout: float, **heard: Callable[..., None]) -> None:
        self.joined, self.ready = heard["joined"], heard["ready"]
        self.lost, self.message = heard["lost"], heard["message"]
        self.hurried = self.reconnects = 0

    async def run(self) -> None:
        await asyncio.Event().wait()

    def hurry(self) -> None:
        self.hurried += 1

    def reconnect(self) -> None:
        self.reconnects += 1
        self.lost("silent")

    def join(self, terms: TopicFollowed | None = None) -> None:
        self.joined(terms)
        self.ready()


class Holder:
    """Whose queue is asked, and whether there is another token."""

    can_renew = False
    expired = 0

    def __init__(self) -> None:
        self.tokens = self

    async def user(self, *, read_once: bool) -> None:
        assert read_once

    def expire(self) -> None:
        self.expired += 1


class Bare(Watcher):
    """A watch of nothing: what it would find and miss is set from outside."""

    gap = heals = numbered = False
    slow = 0.0
    refusal: QueueError | None = None

    def __init__(self, **timing: float) -> None:
        self.holder = Holder()
        super().__init__("t", cast("Access", self.holder), Timing(**timing))
        self.reads: list[float] = []
        self.received: list[int] = []
        self.said: list[str] = []
        self.finds: list[JobEvent] = []
        self.subscribe(lambda: self.said.append(self.word))

    @property
    def word(self) -> str:
        return self.freshness

    @property
    def socket(self) -> Socket:
        return cast("Socket", self._topic)

    @property
    def _has_gap(self) -> bool:
        return self.gap

    @property
    def _is_numbered(self) -> bool:
        return self.numbered

    async def _catch_up(self, queue: UserQueue) -> None:
        self.reads.append(self._now())
        await asyncio.sleep(self.slow)
        if self.heals:
            self.gap = False
        if self.refusal is not None:
            raise self.refusal
        self._tell(self.finds)
        self.finds = []

    def _receive(self, event: JobEvent) -> None:
        self.received.append(event.seq)

    def hear(self, seq: int = 1) -> None:
        """A message comes."""
        self.socket.message({"job_id": "j", "seq": seq, "type": "job.log", "at": "2026-01-01"})

    def find(self, seq: int = 1) -> None:
        """A read will find what no message brought."""
        self.finds = [JobEvent(job_id="j", seq=seq, type="job.log", data={}, created_at=EPOCH)]

    async def reads_in(self, seconds: float) -> list[float]:
        """When the next so many seconds have reads."""
        began, self.reads = self._now(), []
        await asyncio.sleep(seconds)
        return [round(at - began, 2) for at in self.reads]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "Topic", Socket)
    monkeypatch.setattr(random, "random", lambda: 0.5)


async def live(terms: TopicFollowed | None = None, **timing: float) -> Bare:
    watch = Bare(**timing)
    watch._start()
    await asyncio.sleep(0.01)
    watch.socket.join(terms)
    await asyncio.sleep(0.01)
    assert watch.word == "live"
    return watch


async def _later(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await asyncio.sleep(1)  # no loop's time is 0
    await story()


def told(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test in time that leaps."""

    def test() -> None:
        leaping(_later(story))

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return test


@told
async def test_a_watch_is_about_to_join_for_five_seconds() -> None:
    slow, watch = Bare(), Bare()
    slow.slow = 6
    assert slow.word == "catching-up"
    for each in (slow, watch):
        each._start()
    await asyncio.sleep(4.9)
    assert watch.word == "catching-up"
    await asyncio.sleep(0.2)
    assert (watch.word, slow.word) == ("polling", "catching-up")
    await asyncio.sleep(1)
    assert slow.word == "polling"


@told
async def test_what_is_lost_is_read_for_at_once() -> None:
    """Whether or not it was ever joined, but once."""
    watch = Bare()
    watch._start()
    for reason in ("refused", "cut", "cut"):
        await asyncio.sleep(0.1)
        watch.socket.lost(reason)
        watch.socket.lost(reason)
        assert watch.word != "live"
        assert await watch.reads_in(0.1) == [0]
        watch.socket.lost(reason)
        assert await watch.reads_in(0.1) == []
        watch.socket.join()


@told
async def test_every_change_is_said_once_also_while_a_read_hangs() -> None:
    watch = await live()
    assert watch.said[-1] == "live"
    watch.slow = 1e6
    watch.said = []
    watch.socket.message(LOOK)
    watch.hear()
    watch.socket.lost("cut")
    await watch.reads_in(1)
    watch.socket.joined(None)
    assert watch.said == ["catching-up", "polling", "catching-up"]
    end = watch.subscribe(lambda: end())
    heard: list[str] = []
    leave = watch.subscribe(lambda: heard.append(watch.word))
    for _ in range(2):
        leave()
    await watch.aclose()
    assert (watch.said[3:], heard) == (["offline"], [])


@told
async def test_an_error_is_forgotten_with_the_next_answer() -> None:
    """A read that fails offline may have left the socket half-open: another is trusted."""
    watch = await live()
    watch.refusal = AWAY
    await watch.refresh()
    assert (watch.word, watch.error) == ("offline", AWAY)
    watch.refusal = QueueUnavailable("busy", status=429)
    await watch.refresh()
    assert (watch.word, watch.socket.hurried) == ("live", 0)
    await watch.refresh()
    watch.refusal = None
    await watch.refresh()
    assert (watch.word, watch.error) == ("live", None)
    assert (watch.socket.hurried, watch.socket.reconnects) == (1, 0)

    watch.refusal = AWAY
    await watch.refresh()
    watch.refusal = None
    await watch.refresh()
    assert (watch.word, watch.socket.reconnects) == ("polling", 1)
    watch.socket.join()
    await asyncio.sleep(0)
    assert watch.word != "polling"


@told
async def test_a_refused_token_ends_a_watch_that_cannot_ask_for_another() -> None:
    for can_renew in (True, False):
        watch = await live()
        watch.holder.can_renew = can_renew
        watch.refusal = TokenRefused("expired", status=401, code="PGRST301")
        await watch.refresh()
        assert (watch.holder.expired, watch._done) == (can_renew, not can_renew)
        if not can_renew:
            with pytest.raises(TokenRefused):
                await anext(aiter(watch))


@told
async def test_a_refusal_or_a_defect_is_the_readers_to_see() -> None:
    refused = await live()
    refused.refusal = QueueError("gone", status=404)
    await refused.refresh()
    await refused.refresh()  # nothing is read any more
    with pytest.raises(QueueError, match="gone"):
        await anext(aiter(refused))

    broken = await live()
    broken.refusal = cast("QueueError", ZeroDivisionError())
    await broken.refresh()
    await asyncio.sleep(0.01)
    assert broken.word != "live"
    with pytest.raises(ZeroDivisionError):
        await anext(aiter(broken))


@told
async def test_a_closed_watch_is_silent() -> None:
    watch = await live()
    watch.slow = 1
    watch.find()
    waits = asyncio.create_task(watch.refresh())
    tasks = watch._tasks
    reader = asyncio.create_task(anext(aiter(watch), None))
    await asyncio.sleep(0.1)
    await watch.aclose()
    assert all(task.done() for task in tasks)
    await waits
    assert await reader is None
    watch.hear()
    await watch.refresh()
    watch._start()
    assert await watch.reads_in(60) == []
    assert (watch.received, watch.word) == ([], "offline")


@told
async def test_leaving_the_loop_or_the_block_closes_a_watch() -> None:
    watch = Bare()
    watch.find()
    watch.finds *= 2
    async with asyncio.timeout(5):
        await watch.refresh()  # which starts it
    async for _ in watch:
        break
    await watch.aclose()
    assert [event async for event in watch] == [], "the rest is dropped"
    async with asyncio.timeout(5), (inside := Bare()):
        assert await inside.reads_in(0.1) == [0]
    await asyncio.sleep(0)
    for each in (watch, inside):
        await asyncio.sleep(0.01)
        assert each.word == "offline"
        assert await each.reads_in(60) == []


@told
async def test_a_check_follows_each_sign_of_life_soon_and_silence_ever_later() -> None:
    watch = await live()
    assert await watch.reads_in(3.1) == [1.49, 2.99], "a join"
    await asyncio.sleep(1200)
    watch.hear()
    assert await watch.reads_in(1.6) == [1.5], "a message"
    await asyncio.sleep(1200)
    watch.find()
    await watch.refresh()
    assert await watch.reads_in(1.6) == [1.5], "what a read found"

    busy = TopicFollowed(receivers=9, again_seconds=60, check_seconds=10, quiet=False)
    advised = await live(busy)
    assert await advised.reads_in(20) == [9.99, 19.99], "as the project's followers allow"
    quiet = await live(busy.model_copy(update={"check_seconds": 0, "quiet": True}))
    await asyncio.sleep(1200)
    quiet.hear()
    assert len(await quiet.reads_in(29)) <= 1, "a message of a quiet topic proves little"


@told
async def test_messages_postpone_no_check_before_the_first_or_that_shows_no_hole() -> None:
    for numbered in (False, True):
        watch = await live()
        watch.numbered, watch.heals = numbered, True
        await asyncio.sleep(2)
        if numbered:
            watch.socket.lost("cut")
            watch.socket.join()
            await asyncio.sleep(0.01)
            watch.gap = True  # to read for it is no check
        watch.hear()
        await asyncio.sleep(0.2)
        watch.reads = []
        for _ in range(16):
            watch.hear()
            await asyncio.sleep(0.1)
        assert watch.reads
        if numbered:
            watch.reads = []
            for _ in range(40):
                watch.hear()
                await asyncio.sleep(0.1)
            assert watch.reads == [], "now each message would show what is missing"


@told
async def test_a_hole_is_read_a_tenth_of_a_second_after_it_was_seen() -> None:
    """Until it is closed, and no longer; not while messages are held back."""
    watch = await live()
    watch.gap = True
    watch.hear()
    assert watch.word == "catching-up"
    await asyncio.sleep(0.06)
    watch.hear()
    assert await watch.reads_in(0.3) == [0.04, 0.14, 0.24]
    watch.gap = False
    assert await watch.reads_in(1) == [0.04]
    assert watch.word == "live"

    watch.gap = True
    watch.socket.message(LOOK)
    watch.hear()
    assert await watch.reads_in(1) == [0.15]


@told
async def test_a_watch_whose_reads_fail_polls_ever_less() -> None:
    watch = await live()
    watch.refusal = AWAY
    await watch.refresh()
    assert await watch.reads_in(13) == [4.8, 12.48]
    await asyncio.sleep(120)
    first, second = await watch.reads_in(60)
    assert second - first == pytest.approx(30)
    watch.refusal = None
    await watch.refresh()
    watch.socket.join()
    assert await watch.reads_in(3.1) == [0, 1.5, 3.0]

    alone = Bare()
    alone._start()
    await asyncio.sleep(0)
    assert await alone.reads_in(7) == [3, 6]


@told
async def test_a_deaf_join_is_read_for_until_messages_arrive() -> None:
    watch = Bare(first_silence=0.5)
    watch._start()
    await asyncio.sleep(0.01)
    watch.socket.joined(None)
    assert await watch.reads_in(1.1) == [0.49, 0.99]
    watch.slow = 1
    await watch.refresh()
    assert await watch.reads_in(12) == [5, 11], "a slow server rests"
    watch.slow = 0
    assert watch.word == "catching-up"
    watch.hear()
    watch.find()
    assert (await watch.reads_in(0.2))[0] == 0, "a message proves that they arrive"
    assert watch.word == "live"

    watch.slow = 1
    watch.socket.join()
    assert watch.word == "catching-up", "what came before is still to be read"
    await asyncio.sleep(1.1)
    assert watch.word == "live"
    watch.hear()
    assert await watch.reads_in(0.5) == []

    old = await live(ready_timeout=20)
    old.socket.joined(None)
    await asyncio.sleep(19)
    assert old.word == "catching-up"
    await asyncio.sleep(2)
    assert old.word == "live", "older servers never say so"


@told
async def test_what_is_held_back_is_read_for_until_a_read_finds_nothing_more() -> None:
    watch = await live()
    watch.socket.message(LOOK)
    for expected in ([0.15], [0.65], [], [0.15]):
        watch.find()
        assert await watch.reads_in(1) == expected
        assert watch.word == "catching-up"
    await asyncio.sleep(1.5)
    assert watch.word == "live"

    watch.slow = 1
    reading = asyncio.create_task(watch.refresh())
    await asyncio.sleep(0.9)
    watch.socket.message(LOOK)
    await reading
    assert watch.word == "catching-up", "that read began before the notice"


@told
async def test_a_read_that_was_under_way_at_the_join_makes_nothing_live() -> None:
    watch = Bare()
    watch.slow = 1
    watch._start()
    await asyncio.sleep(0.5)
    watch.socket.join()
    await asyncio.sleep(0.6)
    assert watch.word == "catching-up"
    await asyncio.sleep(1)
    assert watch.word == "live"


@told
async def test_a_silent_socket_is_replaced_and_the_next_one_trusted_once() -> None:
    """After that it is polled beside it, until something comes."""
    watch = await live()
    await asyncio.sleep(1200)

    async def replace() -> str:
        before = watch.socket.reconnects
        watch.find()
        for _ in range(700):
            await asyncio.sleep(0.1)
            if watch.socket.reconnects > before:
                break
        assert watch.said[-1] == watch.word == "polling"
        watch.socket.join()
        await asyncio.sleep(0.01)
        return watch.word

    assert await replace() == "live"
    watch.hear(2)
    await asyncio.sleep(70)
    assert await replace() == "live"
    assert await replace() == "polling"
    reads = await watch.reads_in(10)
    assert reads[2] - reads[1] == pytest.approx(3)
    assert watch.socket.reconnects == 3
    watch.hear(3)
    assert watch.word != "polling"


@told
async def test_a_socket_is_not_trusted_for_what_the_one_before_it_brought() -> None:
    watch = await live()
    watch.hear()
    watch.socket.lost("cut")
    watch.socket.join()
    await asyncio.sleep(0.01)
    watch.find(2)
    await asyncio.sleep(3.2)
    assert watch.word == "polling"
    watch.socket.lost("cut")
    await asyncio.sleep(60)
    assert watch.socket.reconnects == 0, "a socket that is lost is not judged"


async def _late(watch: Bare) -> None:
    await asyncio.sleep(2)  # the check has found it, and no message brought it yet
    watch.hear()


async def _cut(watch: Bare) -> None:
    await asyncio.sleep(2)
    watch.socket.lost("cut")
    watch.socket.join()


async def _held(watch: Bare) -> None:
    await asyncio.sleep(2)
    watch.socket.message(LOOK)


async def _asked(watch: Bare) -> None:
    await watch.refresh()


async def _after_an_outage(watch: Bare) -> None:
    watch.refusal = QueueUnavailable("busy", status=429)
    await watch.refresh()
    watch.refusal = None


@pytest.mark.parametrize("excuse", [_late, _cut, _held, _asked, _after_an_outage])
def test_a_socket_is_excused(excuse: Callable[[Bare], Coroutine[Any, Any, None]]) -> None:
    async def story() -> None:
        watch = await live()
        watch.find()
        await excuse(watch)
        await asyncio.sleep(8)
        assert (watch.word, watch.socket.reconnects) == ("live", 0)

    leaping(_later(story))


@told
async def test_a_quiet_topic_is_not_asked_for_what_it_does_not_carry() -> None:
    watch = await live(TopicFollowed(receivers=1, again_seconds=60, quiet=True))
    watch.find()
    await asyncio.sleep(10)
    assert (watch.word, watch.socket.reconnects) == ("live", 0)


@told
async def test_what_was_dropped_is_read_for_over_a_minute() -> None:
    watch = await live()
    watch.hear()
    watch.find(2)
    await asyncio.sleep(3.1)
    assert watch.word == "catching-up"
    await asyncio.sleep(60)
    assert watch.word == "live"
    await asyncio.sleep(60)
    assert (watch.word, watch.socket.reconnects) == ("live", 0)


@told
async def test_a_slow_reader_is_read_for_when_it_has_room() -> None:
    watch = await live()
    many = [
        JobEvent(job_id="j", seq=seq, type="job.log", data={}, created_at=EPOCH)
        for seq in range(1, follower._MOST_QUEUED + 1)
    ]
    watch.finds = many[:]
    await watch.refresh()
    watch.hear(9999)
    assert (watch.received, watch.word) == ([], "catching-up")
    assert await watch.reads_in(30) == []
    reader = aiter(watch)
    assert (await anext(reader)).seq == 1
    assert await watch.reads_in(0.1) == [0]
    assert watch.word == "live"
    assert [(await anext(reader)).seq for _ in many[1:]] == [each.seq for each in many[1:]]
    await watch.aclose()
