"""Streams and the hub by themselves: pace, ends, stalls, and what frames may be believed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from minutehand.clock import FrozenClock, SystemClock
from minutehand.config import Settings
from minutehand.queue import QueueClient
from minutehand.queue.errors import JobNotFound, QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import FeedPage, JobEvent
from minutehand.web import streams
from minutehand.web.caller import Caller
from minutehand.web.errors import ApiError
from minutehand.web.feeds import (
    READ_LIMIT,
    HistoryFeed,
    JobFeed,
    cursors_between,
    seq_cursor,
)
from minutehand.web.hub import CHECKS_PER_SECOND, READS_PER_SECOND, EventHub
from minutehand.web.ring import MAX_BYTES, MAX_FRAMES, Frame, Ring
from minutehand.web.services import Services
from minutehand.web.shared_reads import SharedReads
from minutehand.web.sse import (
    KEEP_ALIVE,
    Batch,
    EventStream,
    Line,
    Pace,
    Reader,
    Stream,
    UnnamedLine,
)
from minutehand.web.streams import BUFFERED_SECONDS, Opening, asked_at, buffered_pace

JOB = "019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11"
TOPIC = f"job:{JOB}"


class Script:
    """A feed that brings what it was told to, one item per look; an error is raised."""

    topic = TOPIC

    def __init__(self, *items: Batch | Exception) -> None:
        self.items = list(items)
        self.checks = 0
        self.seq = 0

    async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
        item = self.items.pop(0) if self.items else Batch()
        if isinstance(item, Exception):
            raise item
        return item

    async def check(self) -> Batch:
        self.checks += 1
        return Batch()

    @property
    def position(self) -> int | None:
        return self.seq

    def absorb(self, frames: Sequence[Frame]) -> Batch | None:
        self.seq = frames[-1].seq
        return Batch([line(each.seq) for each in frames])


def line(seq: int) -> Line:
    return Line(cursor=str(seq), type="job.progress", data={"seq": seq})


QUICK = Pace(streaming=True, keep_alive=0.05, poll=0.01, check=0.2, breath=0.0)
#: Nothing is found by waiting: each interval is beyond the limit of every wait.
NEVER = Pace(streaming=True, keep_alive=900.0, poll=900.0, check=900.0, breath=0.0)


def reader(lives: float) -> Reader:
    return Reader(
        token="t",
        expires_at=datetime.now(UTC) + timedelta(seconds=lives),
        began_at=SystemClock().monotonic(),
    )


async def until(so: Callable[[], bool], *, every: float = 0.005) -> None:
    """Wait until it is so; asked about `every` so many seconds."""
    async with asyncio.timeout(60):
        while not so():  # noqa: ASYNC110
            await asyncio.sleep(every)


async def read_all(
    feed: Script,
    *,
    hub: EventHub | None = None,
    pace: Pace = QUICK,
    lives: float = 900.0,
    first: Batch | None = None,
) -> str:
    stream = Stream(feed, hub or EventHub(), reader=reader(lives), pace=pace, clock=SystemClock())
    chunks = [chunk async for chunk in stream.chunks(first or Batch())]
    return b"".join(chunks).decode()


async def test_a_stream_reads_on_over_silence_and_outage_to_its_end() -> None:
    """A database that is unavailable makes it wait, not end."""
    feed = Script(
        Batch([line(1)]),
        Batch(),
        QueueUnavailable("away"),
        Batch([line(2)], more=True),
        Batch([line(3)], end="completed"),
    )

    text = await asyncio.wait_for(read_all(feed), 60)

    assert text.startswith("retry: 2000\n\n")
    ids = [each.removeprefix("id: ") for each in text.splitlines() if each.startswith("id: ")]
    assert ids == ["1", "2", "3"]
    assert text.endswith('event: end\ndata: {"reason":"completed"}\n\n')


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (JobNotFound("gone", status=404, code="PT404", hint="job_not_found"), "gone"),
        (TokenRefused("expired", status=401, code="PGRST301"), "token_expired"),
        (QueueError("no", status=403, code="42501"), "forbidden"),
    ],
)
async def test_an_end_names_its_reason(error: Exception, reason: str) -> None:
    """The page shows it, and knows whether coming back makes sense."""
    text = await asyncio.wait_for(read_all(Script(error)), 60)

    assert f'"reason":"{reason}"' in text


async def test_an_idle_stream_is_kept_open_by_comments() -> None:
    """Proxies close what says nothing."""
    hub = EventHub()
    stream = Stream(Script(), hub, reader=reader(300), pace=QUICK, clock=SystemClock())
    said: list[bytes] = []
    async with asyncio.timeout(60):
        async for chunk in stream.chunks(Batch()):
            said.append(chunk)
            if len(said) == 4:
                await hub.aclose()

    assert said[1:] == [KEEP_ALIVE] * 3


@pytest.mark.parametrize("pace", [QUICK, NEVER])
async def test_a_stream_ends_with_its_readers_token(pace: Pace) -> None:
    """A page comes back with another one, however quiet it was."""
    text = await asyncio.wait_for(read_all(Script(), lives=0.1, pace=pace), 60)

    assert '"reason":"token_expired"' in text


async def test_a_host_that_stops_lets_every_stream_go_without_an_end() -> None:
    """No reason, so that EventSource comes back to whoever serves next."""
    hub = EventHub()
    reading = [asyncio.ensure_future(read_all(Script(), hub=hub)) for _ in range(5)]
    await until(lambda: hub.count == 5)

    await hub.aclose()
    texts = await asyncio.wait_for(asyncio.gather(*reading), 60)

    assert all("event: end" not in text for text in texts)
    assert hub.count == 0


async def test_a_buffered_answer_holds_what_there_is_or_waits_for_the_first() -> None:
    """And never longer than its gateway."""
    short, long = (
        Pace(streaming=False, buffered_wait=seconds, poll=0.01, breath=0.0) for seconds in (0.1, 60)
    )

    at_once = await read_all(Script(), pace=long, first=Batch([line(1)]))
    waited = await read_all(Script(Batch(), Batch(), Batch([line(1)])), pace=long)
    nothing = await asyncio.wait_for(read_all(Script(), pace=short), 60)

    assert "id: 1\n" in at_once
    assert "id: 1\n" in waited
    assert nothing == "retry: 2000\n\n"


@pytest.mark.parametrize(
    ("sent", "age"),
    [(-0.5, 0.5), (-3.0, 3.0), (-29.0, 29.0), (-86_400.0, 0.0), (5.0, 0.0), (None, 0.0)],
)
def test_a_wait_begins_when_the_gateway_took_the_request(sent: float | None, age: float) -> None:
    """A cold start uses up the gateway's patience; an impossible age is another clock's."""
    clock = FrozenClock(datetime(2026, 11, 20, tzinfo=UTC))
    context = {} if sent is None else {"timeEpoch": int((clock.now().timestamp() + sent) * 1000)}
    request = Request({"type": "http", "aws.event": {"requestContext": context}})

    assert clock.monotonic() - asked_at(request, clock) == pytest.approx(age, abs=0.01)
    assert asked_at(Request({"type": "http"}), clock) == clock.monotonic()


async def test_a_guests_key_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The name of a guest session's topic is all that its holder needs."""
    feed = Script(QueueUnavailable("away"), Batch(end="gone"))
    feed.topic = f"session:guest_{'a' * 64}"

    with caplog.at_level(logging.DEBUG):
        await asyncio.wait_for(read_all(feed), 60)

    [told] = [r.__dict__ for r in caplog.records if r.__dict__.get("event") == "sse.waiting"]
    assert (told["topic"], told["reason"]) == ("session:guest_…", "away")


async def test_a_look_that_hangs_is_given_up_and_asked_again() -> None:
    """A call in flight when Postgres dies is never answered; a gateway does not wait for it."""

    class Hanging(Script):
        async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
            if len(self.items) > 1:
                self.items.pop(0)
                await asyncio.Event().wait()
            return await super().read()

    pace = Pace(streaming=True, poll=0.01, read_timeout=0.05, breath=0.0)
    feed = Hanging(Batch(), Batch(), Batch([line(1)], end="completed"))

    text = await asyncio.wait_for(read_all(feed, pace=pace), 60)

    assert "id: 1\n" in text


async def test_a_start_without_events_hands_out_its_cursor() -> None:
    """EventSource remembers an id without data and shows it to nobody."""
    pace = Pace(streaming=False, buffered_wait=0.0)

    text = await read_all(Script(), pace=pace, first=Batch(cursor="7:7:"))

    assert text == "retry: 2000\nid: 7:7:\n\n"


async def test_a_reader_that_finds_the_subject_gone_ends_the_others() -> None:
    """Fifty readers need not each wait for their own check."""
    hub = EventHub()
    gone = JobNotFound("gone", status=404, code="PT404", hint="job_not_found")
    others = [asyncio.ensure_future(read_all(Script(gone), hub=hub, pace=NEVER)) for _ in range(9)]
    await until(lambda: hub.count == 9)

    await read_all(Script(gone), hub=hub)
    texts = await asyncio.wait_for(asyncio.gather(*others), 60)

    assert all('"reason":"gone"' in text for text in texts)


class Live:
    """An upstream by which every update arrives, so that nothing is polled."""

    def follow(self, topic: str, *, token: str | None, until: datetime) -> None:
        pass

    def leave(self, topic: str) -> None:
        pass

    def is_live(self, topic: str) -> bool:
        return True

    async def aclose(self) -> None:
        pass


def live_hub() -> EventHub:
    hub = EventHub()
    hub.feed_from(Live())
    return hub


async def test_what_came_before_a_stream_was_followed_is_read_at_once() -> None:
    """Its update reached no one; where updates arrive, the next poll is far."""
    feed = Script(Batch([line(1)], end="completed"))

    text = await asyncio.wait_for(read_all(feed, hub=live_hub(), pace=NEVER), 60)

    assert "id: 1\n" in text


async def test_what_a_check_finds_ends_the_stream_at_once() -> None:
    """A removed member must not stay until the next comment or the next check."""
    hub = live_hub()

    class Removed(Script):
        async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
            hub.count = int(900 * CHECKS_PER_SECOND)  # of so many streams the next check is far
            return await super().read()

        async def check(self) -> Batch:
            await asyncio.sleep(0.01)
            return Batch(end="gone")

    pace = Pace(streaming=True, keep_alive=900.0, poll=900.0, check=0.1, breath=0.0)
    feed = Removed(Batch([line(1)]))

    text = await asyncio.wait_for(read_all(feed, hub=hub, pace=pace), 60)

    assert '"reason":"gone"' in text


async def test_the_subject_is_checked_although_frames_keep_coming() -> None:
    """A removed member must not stay for as long as the job is busy."""
    hub = EventHub()
    feed = Script()
    pace = Pace(streaming=True, poll=900.0, check=0.1, keep_alive=900.0, breath=0.0)
    reading = asyncio.ensure_future(read_all(feed, hub=hub, pace=pace))
    await until(lambda: hub.count == 1)
    sent = 0

    def notified_until_checked() -> bool:
        nonlocal sent
        sent += 1
        hub.notify(TOPIC, Frame(sent, size=1))
        return feed.checks >= 3 and feed.seq >= 9

    await until(notified_until_checked, every=0.02)
    kept = hub.frames_of(TOPIC, sent - 1)
    await hub.aclose()
    text = await asyncio.wait_for(reading, 60)

    assert "id: 9\n" in text
    assert kept
    assert not hub.frames_of(TOPIC, sent - 1), "no one reads it"


class HeldBack(Script):
    """Held back from its first look on, until a later one has found nothing more."""

    def __init__(self, hub: EventHub, *items: Batch) -> None:
        super().__init__(*items)
        self.hub = hub
        self.held_at: float | None = None
        self.found_nothing = False

    async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
        now = asyncio.get_running_loop().time()
        if self.held_at is None:
            self.held_at = now
            self.hub.look_again(TOPIC)
            return Batch()
        if self.items:
            return await super().read()
        if self.found_nothing:
            return Batch([line(3)], end="completed")
        self.found_nothing = now > self.held_at + 0.1
        if self.found_nothing:
            self.hub.notify(TOPIC)  # of the end
        return Batch()


@pytest.mark.parametrize(
    ("hub", "poll"), [(EventHub(), 0.02), (live_hub(), 900.0)], ids=["polled", "live"]
)
async def test_a_stream_says_that_it_is_catching_up_until_a_look_finds_nothing_more(
    hub: EventHub, poll: float
) -> None:
    """Held back messages leave a reader behind for seconds: it is told, and told when it is not."""
    feed = HeldBack(hub, Batch([line(1)]), Batch([line(2)]))
    pace = Pace(
        streaming=True, poll=poll, keep_alive=900.0, check=900.0, breath=0.0, look_again=0.1
    )

    text = await asyncio.wait_for(read_all(feed, hub=hub, pace=pace), 60)

    held, live = (
        f'event: freshness\ndata: {{"freshness":"{each}"}}' for each in ("catching-up", "live")
    )
    # without an id, so that EventSource comes back to the last event
    told = [each for each in text.split("\n\n") if each in {held, live} or each.startswith("id: ")]
    assert [each.split("\n")[0] for each in told] == [
        "event: freshness",
        "id: 1",
        "id: 2",
        "event: freshness",
        "id: 3",
    ]
    assert (told[0], told[3]) == (held, live)


async def test_what_one_reader_finds_in_the_log_the_others_need_not_read() -> None:
    """Fifty polling readers of one job cost one read, where no Realtime tells of news."""
    hub = EventHub()
    found = Batch([line(1)], frames=[Frame(1, size=1)], end="completed")
    others = [Script() for _ in range(5)]
    reading = [asyncio.ensure_future(read_all(each, hub=hub, pace=NEVER)) for each in others]
    await until(lambda: hub.count == 5)

    await read_all(Script(found), hub=hub)
    await until(lambda: all(each.seq == 1 for each in others))
    await hub.aclose()
    texts = await asyncio.wait_for(asyncio.gather(*reading), 60)

    assert all("id: 1\n" in text for text in texts)


async def test_a_frame_of_many_jobs_makes_its_readers_read() -> None:
    """Without numbers it is a hint alone: only the log says what came before it."""
    hub = live_hub()

    class Many(Script):
        topic, position = "workspace:w", None

    feed = Many(Batch(), Batch([line(1)], end="completed"))
    reading = asyncio.ensure_future(read_all(feed, hub=hub, pace=NEVER))
    await until(lambda: len(feed.items) == 1)
    hub.notify("workspace:w", Frame(1, size=1))

    assert "id: 1\n" in await asyncio.wait_for(reading, 60)


async def test_all_streams_of_a_process_share_a_budget_of_reads_and_of_checks() -> None:
    """Each reads less often the more there are: the database sees the same."""
    hub = EventHub()
    async with contextlib.AsyncExitStack() as stack:
        ends = datetime.now(UTC)
        for number in range(400):
            one = hub.subscribe(f"job:{number}", token=None, until=ends)
            await stack.enter_async_context(one)

        assert (400 / one.pause, 400 / one.check_pause) == (READS_PER_SECOND, CHECKS_PER_SECOND)


async def test_events_of_many_jobs_are_not_kept() -> None:
    """Their numbers do not follow on each other: no reader could take them from a ring."""
    hub = EventHub()
    async with hub.subscribe("workspace:w", token=None, until=datetime.now(UTC)) as one:
        hub.notify("workspace:w", Frame(1, size=1))

        assert one.since(0) == []


async def test_a_read_for_an_update_shares_no_answer_from_before_it() -> None:
    """A poll may take one as old as its interval; an update has only just been committed."""
    hub, asked = EventHub(), []

    class Asked(Script):
        async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
            asked.append((thorough, since))
            return await super().read()

    feed = Asked(Batch([line(1)], end="completed"))
    feed.absorb = lambda frames: None  # type: ignore[method-assign]
    reading = asyncio.ensure_future(read_all(feed, hub=hub, pace=NEVER))
    await until(lambda: hub.count == 1)
    notified_at = asyncio.get_running_loop().time()
    hub.notify(TOPIC, Frame(1, size=1))
    await asyncio.wait_for(reading, 60)

    [(thorough, since)] = asked
    assert thorough or since is None or since >= notified_at


@given(
    offered=st.lists(st.tuples(st.integers(1, 30), st.integers(1, MAX_BYTES)), max_size=40),
    at=st.integers(0, 30),
)
def test_a_ring_never_hides_a_gap(offered: list[tuple[int, int]], at: int) -> None:
    """Whatever comes in whatever order, a reader gets all after its place, or is told to look."""
    ring = Ring()
    newest = 0
    for seq, size in offered:
        assert ring.offer(Frame(seq, size=size)) is (seq > newest)
        newest = max(newest, seq)

    kept = ring.after(at)

    if kept is not None:
        assert [each.seq for each in kept] == (
            list(range(at + 1, newest + 1)) if newest > at else []
        )


def test_a_ring_is_bounded_by_number_and_by_bytes() -> None:
    """Memory is neither the client's nor the processor's to fill."""
    again = Ring()
    for seq in (1, 3, 4):
        again.offer(Frame(seq, size=MAX_BYTES // 2))
    assert [frame.seq for frame in again.after(2) or []] == [3, 4], "what a gap dropped is gone"
    many, large = Ring(), Ring()
    for seq in range(1, 2 * MAX_FRAMES):
        many.offer(Frame(seq, size=1))
        large.offer(Frame(seq, size=MAX_BYTES // 10))

    newest = 2 * MAX_FRAMES - 1
    assert many.after(newest - MAX_FRAMES) is not None
    assert many.after(newest - MAX_FRAMES - 1) is None
    assert len(large.after(newest - 10) or []) == 10
    assert large.after(newest - 11) is None
    for seq in (newest + 1, newest + 2):
        large.offer(Frame(seq, size=2 * MAX_BYTES))
        assert [frame.seq for frame in large.after(seq - 1) or []] == [seq], "one always fits"
        assert large.after(seq - 2) is None


async def test_a_client_that_takes_no_data_is_let_go() -> None:
    """Its turn ends, and so does what it holds."""
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    response = EventStream(chunks(), stalled_after=0.05)
    await asyncio.wait_for(response({"type": "http"}, receive, send), 60)  # type: ignore[arg-type]

    assert closed.is_set()


async def test_a_client_that_leaves_ends_its_stream_at_once() -> None:
    """The subscription goes with it."""
    hub = EventHub()
    stream = Stream(Script(), hub, reader=reader(300), pace=QUICK, clock=SystemClock())
    left = asyncio.Event()
    sent: list[dict[str, Any]] = []

    body = [{"type": "http.request", "body": b""}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    response = EventStream(stream.chunks(Batch()), stalled_after=5)
    serving = asyncio.ensure_future(response({"type": "http"}, receive, send))  # type: ignore[arg-type]
    await until(lambda: hub.count == 1 and len(sent) > 1)

    left.set()
    await asyncio.wait_for(serving, 60)

    assert hub.count == 0


def job_feed(settings: Settings, after: int) -> JobFeed:
    return JobFeed(QueueClient(settings).acting_as("t"), JOB, after=after)


def framed(content: Any) -> Frame:
    return Frame(content.get("seq", 1), content, size=100)


def frame_of(seq: int, **changes: Any) -> dict[str, Any]:
    return {
        "job_id": JOB,
        "seq": seq,
        "type": "job.progress",
        "data": {"progress": {"percentage": seq}},
        "at": "2026-11-20T08:00:00.5+00:00",
        **changes,
    }


@given(
    after=st.integers(0, 5),
    seqs=st.lists(st.integers(1, 12), max_size=6)
    | st.integers(0, 8).flatmap(lambda n: st.just(list(range(n, n + 4)))),
)
def test_frames_are_believed_only_while_they_follow_on(after: int, seqs: list[int]) -> None:
    """Dropped, doubled, reordered: nothing of them is told, and the log is read."""
    settings = Settings(supabase_url="http://x.test", supabase_publishable_key="k")
    feed = job_feed(settings, after)

    batch = feed.absorb([framed(frame_of(seq)) for seq in seqs])

    whole = seqs == list(range(after + 1, after + 1 + len(seqs)))
    assert (batch is not None) is whole
    if batch is not None:
        assert [int(each.cursor) for each in batch.lines] == seqs
        assert feed.position == after + len(seqs)
    else:
        assert feed.position == after


@pytest.mark.parametrize(
    "frame",
    [
        {},
        frame_of(1, job_id="another"),
        frame_of(1, at="never"),
        {**frame_of(1), "seq": "one"},
        {"job_id": JOB, "seq": 1},
    ],
)
def test_a_frame_of_another_shape_is_not_believed(settings: Settings, frame: Any) -> None:
    """Then the log is read."""
    assert job_feed(settings, 0).absorb([framed(frame)]) is None
    assert job_feed(settings, 0).absorb([Frame(1, size=1)]) is None, "it brought no event"


def test_a_frame_is_read_once_for_all_who_get_it(settings: Settings) -> None:
    """Fifty readers of a job cost one validation."""
    frame = framed(frame_of(1))
    lines = [job_feed(settings, 0).absorb([frame]) for _ in "ab"]

    assert lines[0] is not None
    assert lines[1] is not None
    assert lines[0].lines[0] is lines[1].lines[0]


def test_a_frame_shows_the_same_as_the_log(settings: Settings) -> None:
    """Whichever way an event comes, its reader cannot tell."""
    batch = job_feed(settings, 0).absorb([framed(frame_of(1))])

    assert batch is not None
    [told] = batch.lines
    assert told.cursor == "1"
    assert told.data == {
        "job_id": JOB,
        "seq": 1,
        "type": "job.progress",
        "data": {"progress": {"percentage": 1}},
        "at": datetime(2026, 11, 20, 8, 0, 0, 500_000, UTC),
    }
    assert json.loads(json.dumps(told.data, default=str))


@pytest.mark.parametrize("end", ["job.completed", "job.failed", "job.cancelled"])
def test_the_end_of_a_job_makes_the_next_look_immediate(settings: Settings, end: str) -> None:
    """Whether it has ended for good is only known to the database."""
    batch = job_feed(settings, 0).absorb([framed(frame_of(1, type=end))])

    assert batch is not None
    assert batch.more
    assert batch.end is None


def test_a_full_page_is_followed_by_the_next(settings: Settings) -> None:
    """A stream that is far behind does not wait for news."""
    frames = [framed(frame_of(seq)) for seq in range(1, READ_LIMIT + 1)]
    whole, part = (job_feed(settings, 0).absorb(some) for some in (frames, frames[1:]))

    assert whole is not None
    assert whole.more
    assert part is None
    rest = job_feed(settings, 1).absorb(frames[1:])
    assert rest is not None
    assert not rest.more


@pytest.mark.parametrize(
    ("header", "after", "seq"),
    [(None, None, 0), ("", 4, 4), (" 7 ", 4, 7), ("7", 9, 7), ("9" * 18, 4, 10**18 - 1)],
)
def test_a_cursor_in_the_header_beats_the_query(
    header: str | None, after: int | None, seq: int
) -> None:
    """EventSource repeats the URL and updates the header."""
    assert seq_cursor(header, after) == seq


@pytest.mark.parametrize("header", ["x", "-1", "1.5", "٣", "9" * 19])
def test_a_header_that_is_no_cursor_is_refused(header: str) -> None:
    """Digits of other scripts included, which `int` would take."""
    with pytest.raises(ApiError) as refused:
        seq_cursor(header, None)

    assert refused.value.info[0]["location"] == "header"


def page(count: int, cursor: str, *, more: bool = False) -> FeedPage:
    events = [
        {
            "job_id": JOB,
            "seq": seq,
            "type": "job.created",
            "data": {},
            "created_at": f"2026-11-20T08:00:0{seq}.000001+00:00",
        }
        for seq in range(1, count + 1)
    ]
    places = [str(700 + seq) for seq in range(1, count + 1)]
    return FeedPage.model_validate(
        {"events": events, "places": places, "cursor": cursor, "more": more}
    )


def test_each_event_of_a_page_has_a_cursor_to_resume_after_it() -> None:
    """Between pages it is the database's, inside one it names the event."""
    whole = cursors_between("5:5:", page(2, "9:9:"))
    first = cursors_between(None, page(2, "1:1:~9:9:~t~j~2", more=True))
    inside = cursors_between("5:5:~8:8:~t~j~1", page(2, "9:9:"))

    at = "701"
    assert whole == [f"5:5:~9:9:~{at}~{JOB}~1", "9:9:"]
    assert first == [f"1:1:~9:9:~{at}~{JOB}~1", "1:1:~9:9:~t~j~2"]
    assert inside == [f"5:5:~8:8:~{at}~{JOB}~1", "9:9:"]
    assert cursors_between("5:5:", page(0, "9:9:")) == []


class Log:
    """A queue with one job: which of its events are kept, how many there were, how it is."""

    def __init__(self, kept: int, last: int, status: str, *, type: str = "job.progress") -> None:
        self.kept, self.last, self.status, self.type = kept, last, status, type
        self.late = self.asked = 0

    async def events_after(self, _: str, seq: int, *, limit: int) -> list[JobEvent]:
        if self.late:
            self.late -= 1
            return []
        whole = range(seq + 1, self.kept + 1)[:limit]
        found = [
            frame_of(each, type=self.type if each == self.last else "job.log") for each in whole
        ]
        return [JobEvent.model_validate({**each, "created_at": each["at"]}) for each in found]

    async def get_job(self, _: str) -> Any:
        self.asked += 1
        return SimpleNamespace(
            last_seq=self.last, status=self.status, ended=self.status == "completed"
        )


def said(batch: Batch) -> tuple[list[str], bool, str | None]:
    return [each.cursor for each in batch.lines], batch.more, batch.end


DONE = "job.completed"


@pytest.mark.parametrize(
    ("log", "first", "second", "check"),
    [
        (Log(2, 2, "processing"), (["2"], False, None), ([], False, None), (False, None)),
        (Log(2, 2, "completed", type=DONE), (["2"], True, None), ([], False, "completed"),
         (False, "completed")),
        (Log(2, 2, "processing", type=DONE), (["2"], True, None), ([], False, None), (False, None)),
        (Log(1, 1, "completed"), ([], False, "completed"), ([], False, None), (False, "completed")),
        (Log(1, 1, "processing"), ([], False, None), ([], False, None), (False, None)),
        (Log(0, 3, "completed"), ([], False, "completed"), ([], False, None), (True, None)),
        (Log(0, 3, "processing"), ([], False, None), ([], False, None), (True, None)),
    ],
)  # fmt: skip
async def test_a_jobs_end_is_sent_after_all_its_events_that_are_kept(
    log: Any, first: Any, second: Any, check: Any
) -> None:
    """A job that was retried goes on; one whose events were removed ends without them."""
    feed = JobFeed(log, JOB, after=1)

    assert said(await feed.start()) == first
    assert said(await feed.read()) == second
    assert said(await feed.check())[1:] == check


async def test_events_that_come_between_a_read_and_its_check_are_sent() -> None:
    """They come with the frames for the job's other readers, and before its end."""
    log: Any = Log(2, 2, "completed", type=DONE)
    log.late = 1
    feed = JobFeed(log, JOB, after=1)

    first = await feed.start()

    assert feed.topic == TOPIC
    assert said(first) == (["2"], True, None)
    assert [(frame.seq, frame.size) for frame in first.frames] == [(2, len(first.lines[0].encoded))]


async def test_a_job_that_was_retried_is_asked_for_once() -> None:
    """Not with every read for as long as it runs."""
    log: Any = Log(2, 2, "processing", type=DONE)
    feed = JobFeed(log, JOB, after=1)

    for _ in range(4):
        await feed.read()

    assert log.asked == 1


async def test_a_subject_is_left_with_its_last_reader() -> None:
    """Else each subject that was ever read would stay joined."""
    done: list[str] = []

    class Noting(Live):
        def leave(self, topic: str) -> None:
            done.append(topic)

        async def aclose(self) -> None:
            done.append("closed")

    hub = EventHub()
    hub.feed_from(Noting())
    ends = datetime.now(UTC)
    async with hub.subscribe(TOPIC, token="t", until=ends):
        async with hub.subscribe(TOPIC, token="t", until=ends):
            pass
        assert done == []
    assert done == [TOPIC]
    assert not hub._readers, "no subject that was left is remembered"
    await hub.aclose()
    assert done == [TOPIC, "closed"]


async def test_what_wakes_a_reader_says_whether_the_log_must_be_read() -> None:
    """One reason to read is not forgotten for the next that is none."""
    hub, ends = EventHub(), datetime.now(UTC)
    async with (
        hub.subscribe(TOPIC, token="t", until=ends) as one,
        hub.subscribe(TOPIC, token="t", until=ends) as other,
        hub.subscribe("workspace:w", token="t", until=ends) as many,
    ):
        one.share(Frame(1, size=1))
        many.share(Frame(1, size=1))
        woken = [await each.wait(0.001) for each in (one, other, many)]
        assert woken == [False, True, False], "its finder has it"
        assert not other.must_read()

        hub.notify(TOPIC)
        hub.notify(TOPIC, Frame(2, size=1))
        assert [one.must_read(), one.must_read()] == [True, False]
        hub.look_again(TOPIC)
        assert one.must_read()


def test_a_line_without_a_name_and_what_is_not_logged() -> None:
    """`onmessage` of EventSource gets what has no name; logs get neither data nor tokens."""
    unnamed = UnnamedLine("7", "secret", {"a": "secret"})

    assert unnamed.encoded == b'id: 7\ndata: {"a":"secret"}\n\n'
    assert "{" not in repr(unnamed)
    assert "secret" not in repr(Reader(token="secret", expires_at=datetime.now(UTC), began_at=0))


def test_a_buffered_answer_ends_before_its_function_and_its_gateway() -> None:
    """After its longest wait it may read once more."""
    pace = Pace(streaming=False)

    assert pace.buffered_wait + pace.read_timeout < 28
    assert BUFFERED_SECONDS + pace.read_timeout < 20


async def test_the_history_of_many_jobs_is_read_from_cursor_to_cursor() -> None:
    """A check moves nothing; a cursor that the database does not know begins again."""
    asked: list[str | None] = []
    again = page(1, "20:20:").model_copy(update={"reset": True})
    pages = iter([page(2, "9:9:", more=True), page(1, "10:10:"), page(0, "10:10:"), again])

    async def read_after(cursor: str | None) -> FeedPage:
        asked.append(cursor)
        return next(pages)

    feed = HistoryFeed("workspace:w", read_after, after="5:5:", reads=SharedReads())
    first, checks = await feed.read(), [await feed.check() for _ in range(2)]
    last = await feed.read()

    assert asked == ["5:5:", "9:9:", "9:9:", "9:9:"]
    assert said(first) == ([f"5:5:~9:9:~701~{JOB}~1", "9:9:"], True, None)
    assert (first.cursor, [each.more for each in checks]) == ("9:9:", [True, False])
    assert [(each.type, each.cursor) for each in last.lines] == [
        ("reset", "20:20:"), ("job.created", "20:20:"),
    ]  # fmt: skip
    assert last.lines[0].data == {"reason": "cursor"}


async def test_readers_of_one_circle_at_one_place_share_a_read() -> None:
    """Those of another see other events, and one without a place is at its own beginning."""
    reads, asked = EventHub().reads, 0

    async def read_after(cursor: str | None) -> FeedPage:
        nonlocal asked
        asked += 1
        return page(0, cursor or "1:1:")

    counts = []
    for circle, place, since in (
        ("a", "5:5:", 0.0), ("a", "5:5:", 0.0), ("b", "5:5:", 0.0), ("a", "6:6:", 0.0),
        ("a", None, 0.0), ("a", None, 0.0), ("a", "5:5:", None),
    ):  # fmt: skip
        feed = HistoryFeed("workspace:w", read_after, after=place, reads=reads, circle=circle)
        await feed.read(since=since)
        counts.append(asked)

    assert counts == [1, 1, 2, 3, 4, 5, 6]


class Leaving:
    """A client that hangs up when it is told to."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def request(self) -> Request:
        return Request({"type": "http", "headers": []}, self.receive)


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    """Of a process that lets a guest session have two streams."""
    settings = Settings(
        supabase_url="http://127.0.0.1:1", supabase_publishable_key="p", caller_streams=2
    )
    made = Services(settings, pace=QUICK)
    yield made
    await made.aclose()


async def test_a_first_read_is_given_up_with_its_reader(services: Services) -> None:
    """Readers who open and leave during an outage would pile up reads that nobody wants."""
    client, given_up = Leaving(), asyncio.Event()

    async def never() -> Batch:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        raise AssertionError("unreachable")

    async def leave() -> None:
        await asyncio.sleep(0)
        client.gone.set()

    leaving = asyncio.ensure_future(leave())
    async with Opening(client.request, services, None, guest="session:s") as opening:
        with pytest.raises(ApiError) as left:
            await opening.read(never())
        assert services.limits.streams == 1
    await leaving

    assert left.value.status_code == 499
    assert given_up.is_set()
    assert services.limits.streams == 0


async def test_a_process_has_room_for_so_many_streams(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one meets another process."""
    monkeypatch.setattr(streams, "MAX_STREAMS", 1)
    client = Leaving()
    async with Opening(client.request, services, None, guest="session:s"):
        with pytest.raises(ApiError) as full:
            async with Opening(client.request, services, None, guest="session:other"):
                raise AssertionError("unreachable")

    assert full.value.status_code == 503
    assert services.limits.streams == 0


@pytest.mark.parametrize("refusal", [QueueError("too many", status=429), asyncio.CancelledError()])
@pytest.mark.parametrize("streaming", [True, False])
async def test_where_each_stream_holds_an_invocation_the_database_counts_them(
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    streaming: bool,
    refusal: BaseException,
) -> None:
    """And one that it refuses, or whose request ends meanwhile, holds no place."""

    class Refusing:
        async def open_stream(self) -> None:
            raise refusal

    monkeypatch.setattr(services, "queue_of", lambda _: Refusing())
    monkeypatch.setattr(services, "pace", dataclasses.replace(QUICK, streaming=streaming))
    caller = Caller(uuid4(), "authenticated", token="t", expires_at=datetime.now(UTC))
    client = Leaving()

    with contextlib.nullcontext() if streaming else pytest.raises(type(refusal)):
        async with Opening(client.request, services, caller, guest=""):
            pass
    async with Opening(client.request, services, None, guest="session:s"):
        pass  # of a guest the session is counted

    assert services.limits.streams == 0


def test_an_apps_answer_waits_no_longer_than_its_function_may(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less where the process waits less."""
    for wait in (1.0, 2 * BUFFERED_SECONDS):
        monkeypatch.setattr(services, "pace", dataclasses.replace(QUICK, buffered_wait=wait))
        assert buffered_pace(services).buffered_wait == min(wait, BUFFERED_SECONDS)


async def test_a_stream_counts_as_its_readers_before_its_first_read(services: Services) -> None:
    """Else a loop of openings would read as often as it likes."""
    client = Leaving()
    async with (
        Opening(client.request, services, None, guest="session:s"),
        Opening(client.request, services, None, guest="session:s"),
    ):
        with pytest.raises(ApiError) as refused:
            async with Opening(client.request, services, None, guest="session:s"):
                raise AssertionError("unreachable")
        async with Opening(client.request, services, None, guest="session:other"):
            assert services.limits.streams == 3

    assert refused.value.info["limit"] == "streams"
    assert services.limits.streams == 0


async def test_a_stream_keeps_its_place_until_it_ends(services: Services) -> None:
    """The place of a first read that failed is free again at once."""
    client, feed = Leaving(), Script()

    async def refuse() -> Batch:
        raise JobNotFound("no such job")

    with pytest.raises(JobNotFound):
        async with Opening(client.request, services, None, guest="session:s") as opening:
            await opening.read(refuse())
    assert services.limits.streams == 0
    async with Opening(client.request, services, None, guest="session:s") as opening:
        first = await opening.read(feed.read())
        stream = opening.stream(feed, first, began_at=0.0, pace=QUICK)
    assert services.limits.streams == 1

    sent = b""

    async def send(message: Any) -> None:
        nonlocal sent
        sent += message.get("body", b"")
        if sent:
            client.gone.set()

    await asyncio.wait_for(stream({"type": "http"}, client.receive, send), 60)
    assert services.limits.streams == 0
    assert b"token_expired" not in sent, "a guest session ends in the database"


async def test_a_stream_counts_its_wait_from_the_request_and_lets_a_stalled_reader_go(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold start has used some of the gateway's time, and a place is not kept for no one."""
    pace = dataclasses.replace(NEVER, streaming=False, buffered_wait=900.0, stalled_after=0.01)
    monkeypatch.setattr(services, "pace", pace)
    client, sent = Leaving(), []

    async def send(message: Any) -> None:
        sent.append(message)

    async def stall(message: Any) -> None:
        if "body" in message:
            await asyncio.Event().wait()

    began_at = services.clock.monotonic() - 900.0
    for taking, began in ((send, began_at), (stall, services.clock.monotonic())):
        async with Opening(client.request, services, None, guest="session:s") as opening:
            response = opening.stream(Script(), Batch(), began_at=began, pace=pace)
        await asyncio.wait_for(response({"type": "http"}, client.receive, taking), 20)
        assert services.limits.streams == 0

    assert sent[-1]["more_body"] is False


async def test_a_users_stream_is_theirs_and_ends_with_their_token(services: Services) -> None:
    """And the feed of an app says its end itself."""
    client = Leaving()
    ada, ben = (
        Caller(uuid4(), "authenticated", token="t", expires_at=datetime.now(UTC)) for _ in "ab"
    )
    before = asyncio.all_tasks()
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async with contextlib.AsyncExitStack() as stack:
        for caller in (ada, ben, ada, ben):  # each may have two
            opening = Opening(client.request, services, caller, guest="")
            await stack.enter_async_context(opening)
            await opening.read(Script().read())
        assert asyncio.all_tasks() == before, "no one waits for its reader to leave"
        for is_bare in (False, True):
            response = opening.stream(Script(), Batch(), began_at=0.0, pace=QUICK, is_bare=is_bare)
            await asyncio.wait_for(response({"type": "http"}, client.receive, send), 60)

    assert b"".join(sent).count(b"token_expired") == 1
