"""Streams and the hub by themselves: pace, ends, stalls, and what frames may be believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from minutehand.clock import SystemClock
from minutehand.config import Settings
from minutehand.queue import QueueClient
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.models import FeedPage, JobEvent
from minutehand.web import streams
from minutehand.web.errors import ApiError
from minutehand.web.feeds import (
    JobFeed,
    seq_cursor,
)
from minutehand.web.hub import EventHub
from minutehand.web.ring import Frame
from minutehand.web.services import Services
from minutehand.web.sse import (
    KEEP_ALIVE,
    Batch,
    EventStream,
    Line,
    Pace,
    Reader,
    Stream,
)
from minutehand.web.streams import Opening

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
