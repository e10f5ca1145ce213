"""When a stream reads, checks and says something, to the second of leaping time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from minutehand.web.hub import EventHub
from minutehand.web.ring import Frame
from minutehand.web.sse import KEEP_ALIVE, Batch, EventStream, Line, Pace, Reader, Stream
from tests.support.virtual_time import BEGAN, LoopClock, leaping

PACE = Pace(streaming=True, check=900.0)


class Feed:
    """Notes when it is asked; brings what it is given, one batch a read."""

    topic = "job:j"

    def __init__(self, *items: Batch, position: int | None = 0) -> None:
        self.items, self.position = list(items), position
        self.reads: list[tuple[float, bool, float | None]] = []
        self.checks: list[float] = []
        self.slow_check = self.slow = 0.0
        self.found = Batch()
        self.left = False

    async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
        self.reads.append((now(), thorough, since))
        await asyncio.sleep(self.slow)
        return self.items.pop(0) if self.items else Batch()

    async def check(self) -> Batch:
        self.checks.append(now())
        try:
            await asyncio.sleep(self.slow_check)
        except asyncio.CancelledError:
            self.left = True
            raise
        found, self.found = self.found, Batch()
        return found

    def absorb(self, frames: Sequence[Frame]) -> Batch | None:
        self.position = frames[-1].seq
        return Batch([line(frame.seq) for frame in frames])


class Upstream:
    """Every update arrives, or none."""

    def __init__(self, *, live: bool) -> None:
        self.live = live
        self.followed: list[tuple[str | None, datetime]] = []

    def follow(self, topic: str, *, token: str | None, until: datetime) -> None:
        self.followed.append((token, until))

    def leave(self, topic: str) -> None:
        pass

    def is_live(self, topic: str) -> bool:
        return self.live

    async def aclose(self) -> None:
        pass


def now() -> float:
    return round(asyncio.get_running_loop().time(), 2)


def line(seq: int) -> Line:
    return Line(cursor=str(seq), type="job.log", data={})


class Running:
    """A stream that is read as it comes, with when each chunk came."""

    def __init__(
        self,
        feed: Feed,
        *,
        pace: Pace = PACE,
        live: bool = True,
        valid_seconds: float = 1e6,
        began: float = 0.0,
        first: Batch | None = None,
        bare: bool = False,
    ) -> None:
        self.hub, self.upstream = EventHub(), Upstream(live=live)
        self.hub.feed_from(self.upstream)
        self.feed = feed
        reader = Reader(
            token="t", expires_at=BEGAN + timedelta(seconds=valid_seconds), began_at=began
        )
        stream = Stream(feed, self.hub, reader=reader, pace=pace, clock=LoopClock(), is_bare=bare)
        self.said: list[tuple[float, bytes]] = []
        self.task = asyncio.ensure_future(self._run(stream.chunks(first or Batch())))

    async def _run(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            self.said.append((now(), chunk))

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def read_at(self) -> list[float]:
        return [at for at, _, _ in self.feed.reads]


def in_time(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test in time that leaps; no stream is in step with another by chance."""

    def test() -> None:
        leaping(story())

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return test


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda start, end: (start + end) / 2)


@in_time
async def test_an_idle_stream_has_a_comment_after_each_quarter_of_a_minute() -> None:
    running = Running(Feed())
    await asyncio.sleep(40)
    running.hub.notify("job:j", Frame(1, size=1))
    await asyncio.sleep(20)
    comments = [at for at, chunk in running.said if chunk == KEEP_ALIVE]
    assert comments == [15.05, 30.05, 55]
    assert running.upstream.followed == [("t", BEGAN + timedelta(seconds=1e6))]
    assert running.feed.reads == [(0.05, True, None)], "what came before it was followed"
    await running.leave()

    polled = Running(Feed(), live=False)
    await asyncio.sleep(40)
    polled.hub.notify("job:j", Frame(1, size=1))
    await asyncio.sleep(20)
    assert [at for at, chunk in polled.said if chunk == KEEP_ALIVE] == [75, 90, 115]
    await polled.leave()


@in_time
async def test_a_stream_ends_when_its_token_does_unless_it_has_ended() -> None:
    running = Running(Feed(), valid_seconds=20)
    await running.task
    assert running.said[-1] == (20, b'event: end\ndata: {"reason":"token_expired"}\n\n')
    ended = Running(Feed(), valid_seconds=0, first=Batch([line(1)], end="completed", cursor="1"))
    await ended.task
    assert ended.said[0][1] == b"retry: 2000\n\n", "the lines have cursors"
    assert b"completed" in ended.said[-1][1]


@in_time
async def test_a_bare_stream_has_no_events_but_its_feeds() -> None:
    running = Running(Feed(), bare=True)
    await asyncio.sleep(1)
    running.hub.look_again("job:j")
    await asyncio.sleep(10)
    running.feed.items = [Batch([line(1)], end="completed")]
    running.hub.notify("job:j")
    await running.task
    assert [chunk for _, chunk in running.said[1:]] == [line(1).encoded]


@in_time
async def test_a_buffered_answer_is_whole_and_in_time_for_its_gateway() -> None:
    pace = replace(PACE, streaming=False, buffered_wait=20)
    await asyncio.sleep(1)
    late = Running(Feed(), pace=pace, began=-14, live=False)
    await late.task
    assert 6 <= now() <= 6.5
    pages = Feed(Batch([line(2)], more=True), Batch([line(3)]))
    whole = Running(pages, pace=pace, began=now(), first=Batch([line(1)], more=True))
    await whole.task
    assert len(whole.said) == 4
    assert pages.reads[0][1] is False, "to catch up is no reason to check"


@in_time
async def test_what_is_polled_is_read_so_often_as_all_streams_may() -> None:
    few = Running(Feed(), live=False)
    await asyncio.sleep(1.6)
    assert few.feed.reads == [(at, False, at - 0.5) for at in (0.5, 1.0, 1.5)]
    await few.leave()
    began = now()
    many = Running(Feed(), live=False)
    await asyncio.sleep(0)
    many.hub.count = 1000  # 200 reads a second
    await asyncio.sleep(10.6)
    assert [round(at - began, 1) for at in many.read_at] == [5, 10]
    assert many.feed.reads[-1][2] == pytest.approx(began + 5, abs=0.01)
    await many.leave()


@in_time
async def test_constant_updates_are_read_a_breath_apart() -> None:
    running = Running(Feed())
    await asyncio.sleep(1)
    running.feed.reads = []
    for _ in range(20):
        running.hub.notify("job:j")
        await asyncio.sleep(0.01)
    assert running.feed.reads == [(at, True, None) for at in (1, 1.05, 1.1, 1.15, 1.2)]
    await asyncio.sleep(1)
    running.feed.reads = []
    for frame in (None, Frame(9, size=1), None):
        running.hub.notify("job:j", frame)
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert [thorough for _, thorough, _ in running.feed.reads] == [True, True]
    await running.leave()


@in_time
async def test_a_history_is_read_when_something_happened_and_while_that_is_reported() -> None:
    running = Running(Feed(position=None))
    await asyncio.sleep(50)
    assert running.read_at == [0.05]
    running.hub.notify("job:j", Frame(1, size=1))
    await asyncio.sleep(1)
    assert running.feed.reads[1:] == [(50, False, 50)]
    running.upstream.live = False
    await asyncio.sleep(14.6)
    assert running.read_at[2:] == [65, 65.5]
    await running.leave()


@in_time
async def test_what_the_hub_has_kept_is_not_read_again() -> None:
    running = Running(Feed(), live=False)
    await asyncio.sleep(0.4)
    for seq in (1, 1):
        running.hub.notify("job:j", Frame(seq, size=1))
        await asyncio.sleep(0.05)
    assert running.read_at == []
    assert len(running.said) == 2
    running.hub.notify("job:j", Frame(9, size=1))
    await asyncio.sleep(0.05)
    assert running.feed.position == 1
    assert len(running.read_at) == 1, "between them something is missing"
    await running.leave()

    pages = Feed(Batch([line(1)], more=True))
    pages.slow = 1
    behind = Running(pages, first=Batch([line(0)], more=True))
    await asyncio.sleep(0.5)
    behind.hub.notify("job:j", Frame(1, size=1))
    await asyncio.sleep(0.51)
    assert pages.position == 1
    await behind.leave()


@in_time
async def test_checks_do_not_overlap_and_one_that_is_not_needed_any_more_ends() -> None:
    running = Running(Feed(), pace=replace(PACE, check=4))
    running.feed.slow_check = 4.9
    await asyncio.sleep(21)
    assert running.feed.checks == [3, 7.9, 12.8, 17.7]
    running.feed.slow_check = 12
    await asyncio.sleep(1)
    await running.leave()
    assert running.feed.left

    began = now()
    many = Running(Feed(), pace=replace(PACE, check=4))
    await asyncio.sleep(0)
    many.hub.count = 400  # 20 checks a second
    await asyncio.sleep(50)
    assert [at - began for at in many.feed.checks] == [3, 23, 43]
    await many.leave()


@in_time
async def test_what_a_check_has_found_is_read_thoroughly() -> None:
    running = Running(Feed(), pace=replace(PACE, check=4))
    await asyncio.sleep(1)
    running.feed.found = Batch(more=True)
    await asyncio.sleep(5)
    assert running.feed.reads[1:] == [(3, True, None)]
    await running.leave()

    began = now()
    both = Running(Feed(), pace=replace(PACE, check=4))
    both.feed.slow_check = 1
    await asyncio.sleep(4)
    both.hub.notify("job:j")
    await asyncio.sleep(1)
    assert both.feed.reads[1:] == [(began + 4, True, None)], "whatever the check found"
    await both.leave()


@in_time
async def test_what_is_held_back_is_read_every_so_often_until_a_read_finds_nothing() -> None:
    running = Running(Feed())
    await asyncio.sleep(10)
    running.feed.items = [Batch([line(1)]), Batch(cursor="2", more=True), Batch([line(3)])]
    running.hub.look_again("job:j")
    await asyncio.sleep(0.5)
    running.hub.notify("job:j", Frame(1, size=1))  # it brings itself
    await asyncio.sleep(9.5)
    assert running.read_at[1:] == [10, 11.5, 11.5, 13]
    freshness = [(at, chunk) for at, chunk in running.said if b"freshness" in chunk]
    assert [at for at, _ in freshness] == [10, 13]
    await running.leave()


@in_time
async def test_a_read_right_after_the_news_of_held_messages_does_not_end_it() -> None:
    """They are not in the log yet."""
    running = Running(Feed())
    await asyncio.sleep(10)
    running.hub.notify("job:j")
    await asyncio.sleep(0.01)
    running.hub.look_again("job:j")
    await asyncio.sleep(5)
    assert running.read_at[1:] == [10, 10.05, 11.55]
    assert [at for at, chunk in running.said if b'"live"' in chunk] == [11.55]
    await running.leave()


@in_time
async def test_a_response_says_that_it_is_whole_or_why_it_is_not() -> None:
    sent: list[dict[str, Any]] = []

    async def chunks(error: Exception | None) -> AsyncIterator[bytes]:
        yield b"a"
        if error:
            raise error

    async def send(message: Any) -> None:
        sent.append(message)

    await EventStream(chunks(None), stalled_after=1)({}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert EventStream(chunks(None), stalled_after=1).background is None, "a framework's to set"
    assert sent[0]["status"] == 200
    headers = dict(sent[0]["headers"])
    assert headers[b"cache-control"] == b"no-cache, no-transform"
    assert headers[b"x-accel-buffering"] == b"no"
    assert [part["more_body"] for part in sent[1:]] == [True, False]
    with pytest.raises(ZeroDivisionError):
        await EventStream(chunks(ZeroDivisionError()), stalled_after=1)(
            {},
            asyncio.Event().wait,  # type: ignore[arg-type]
            send,
        )
