"""Event streams: how they end, how they survive outages, and slow readers."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from starlette.requests import Request

from infra.bench.scratch import scratch_settings
from minutehand.queue.errors import JobNotFound, QueueError, QueueUnavailable, RateLimited
from minutehand.tasks import end_tasks
from minutehand.web.caller import Caller
from minutehand.web.errors import ApiError
from minutehand.web.services import (
    MAX_READ_RATE,
    READ_BURST,
    ReadPacer,
    Services,
    SlotLimiter,
    StreamTiming,
)
from minutehand.web.sse import Batch, SseEvent, stream_response
from tests.unit.web.conftest import ADA, Json

JOB = "019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11"
QUICK = StreamTiming(streaming=True, keep_alive=900, poll=0.01, max_poll=0.01, stall_timeout=0.1)


class Script:
    """An event feed that returns the test's items, one for each read. An error is raised."""

    subject = f"job:{JOB}"

    def __init__(self, *items: Batch | Exception) -> None:
        self.items = list(items)

    async def read(self) -> Batch:
        item = self.items.pop(0) if self.items else Batch()
        if isinstance(item, Exception):
            raise item
        return item


def line(seq: int) -> SseEvent:
    return SseEvent(cursor=str(seq), type="job.progress", data={"seq": seq})


class Client:
    """A client of a stream that stores what it receives."""

    received = b""

    async def receive(self) -> Json:
        return await asyncio.Future[Json]()

    async def send(self, message: Json) -> None:
        self.received += message.get("body", b"")

    async def open(self, services: Services, feed: Script, caller: Caller | None = None) -> str:
        """Read a stream to its end, and return its text."""
        scope = {"type": "http", "method": "GET", "headers": []}
        response = await stream_response(Request(scope, self.receive), services, caller, feed)
        async with asyncio.timeout(60):
            await response(scope, self.receive, self.send)  # type: ignore[arg-type]
        assert services.streams.count == 0
        return self.received.decode()


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    """The services of a process whose database does not respond."""
    made = Services(scratch_settings(), timing=QUICK)
    yield made
    await made.aclose()


def ada(seconds: float) -> Caller:
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    return Caller(user_id=UUID(ADA), role="authenticated", token="t", expires_at=expires_at)


async def test_a_stream_reads_on_over_silence_and_outage_to_its_end(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream continues after an outage of the database and ends with its feed.

    The log does not contain the id of a guest session, which grants access.
    """
    feed = Script(
        Batch([line(1)]),
        Batch(),
        QueueUnavailable("away"),
        QueueError("lacks a function", status=404, code="42883"),
        RateLimited("busy", status=429, details='{"retry_after_seconds": 900}'),
        Batch([line(2)], more=True),
        Batch([line(3)], end="completed"),
    )
    feed.subject = "session:guest_1"

    text = await Client().open(services, feed)

    ids = [each for each in text.splitlines() if each.startswith("id: ")]
    assert ids == ["id: 1", "id: 2", "id: 3"]
    assert {vars(each).get("subject") for each in caplog.records} == {"session:guest_…"}
    assert text.endswith('event: end\ndata: {"reason":"completed"}\n\n')


@pytest.mark.parametrize(
    ("found", "seconds", "reason"),
    [(JobNotFound("no", status=404), 900, "gone"), (Batch(), 0.2, "token_expired")],
)
async def test_a_stream_ends_with_its_subject_and_its_readers_token(
    services: Services, found: Batch | Exception, seconds: float, reason: str
) -> None:
    """A stream ends with a reason when its job is gone or the reader's token has expired."""
    text = await Client().open(services, Script(Batch([line(1)]), found), ada(seconds))

    assert f'{{"reason":"{reason}"}}' in text


async def test_a_reader_that_takes_nothing_is_let_go(services: Services) -> None:
    """A stream ends if its client stops reading. At most one chunk is kept for that client."""

    class Slow(Client):
        async def send(self, message: Json) -> None:
            if message["type"] != "http.response.start":
                await asyncio.Event().wait()

    feed = Script(*(Batch([line(seq)]) for seq in range(1, 99)))
    await Slow().open(services, feed)

    assert len(feed.items) > 90


async def test_the_streams_of_a_caller_read_two_at_a_time(services: Services) -> None:
    reading = list[str]()

    class Slow(Script):
        async def read(self) -> Batch:
            reading.append(self.subject)
            return await asyncio.Future[Batch]()

    request = Request({"type": "http", "headers": []})
    callers = (*[ada(900)] * 5, None)
    asked = [
        asyncio.create_task(stream_response(request, services, each, Slow())) for each in callers
    ]
    await asyncio.sleep(0)
    assert len(reading) == 3
    await end_tasks(asked)


def test_slots_are_limited_in_total_and_per_caller() -> None:
    limiter = SlotLimiter("streams", 2, limit=3)
    for _ in range(2):
        with limiter.slot("a"), limiter.slot("a"):
            with pytest.raises(ApiError, match="Too many"), limiter.slot("a"):
                pass
            with limiter.slot("b"), pytest.raises(ApiError, match="no capacity"), limiter.slot("c"):
                pass
        assert limiter.count == 0


def test_the_reads_of_all_streams_have_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause of any length, only a burst of reads may start immediately."""
    pacer = ReadPacer()

    for now in (900.0, 1800.0):
        monkeypatch.setattr(time, "monotonic", partial(float, now))
        waits = [pacer.seconds_left() for _ in range(READ_BURST + 2)]
        expected = [0] * READ_BURST + [1 / MAX_READ_RATE, 2 / MAX_READ_RATE]
        assert waits == pytest.approx(expected, abs=1e-6)
