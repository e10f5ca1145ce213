"""Reads that many readers share: never an old answer, never another's refusal."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from minutehand.functions.status import routes
from minutehand.queue.errors import QueueUnavailable, TokenRefused
from minutehand.queue.models import FeedPage
from minutehand.web import shared_reads
from minutehand.web.caller import Caller
from minutehand.web.hub import EventHub
from minutehand.web.shared_reads import SharedReads


class Log:
    """A log that grows, read slowly; it counts its reads and may refuse."""

    def __init__(self) -> None:
        self.length = 0
        self.reads = 0
        self.refusal: Exception | None = None

    async def read(self) -> int:
        self.reads += 1
        seen, refusal = self.length, self.refusal
        await asyncio.sleep(0.02)
        if refusal is not None:
            raise refusal
        return seen


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_readers_woken_together_cost_one_read() -> None:
    """Fifty pages on one workspace are one question."""
    reads, log = SharedReads(), Log()
    woken = now()

    answers = await asyncio.gather(*(reads.get("q", log.read, since=woken) for _ in range(50)))

    assert answers == [0] * 50
    assert log.reads == 1


async def test_an_answer_from_before_the_news_is_not_taken() -> None:
    """It was asked for too early to know."""
    reads, log = SharedReads(), Log()
    early = asyncio.ensure_future(reads.get("q", log.read, since=now()))
    await asyncio.sleep(0.005)
    log.length = 1

    late = await reads.get("q", log.read, since=now())

    assert (await early, late) == (0, 1)


async def test_another_question_has_another_answer() -> None:
    """Another place, another workspace, another circle."""
    reads, log = SharedReads(), Log()

    await asyncio.gather(*(reads.get(each, log.read, since=0.0) for each in ("a", "b")))

    assert log.reads == 2


async def test_anothers_refusal_is_not_mine() -> None:
    """The first reader's token has ended; the second's has not."""
    reads, mine, theirs = SharedReads(), Log(), Log()
    theirs.refusal = TokenRefused("expired", status=401)
    mine.length = 7
    first = asyncio.ensure_future(reads.get("q", theirs.read, since=0.0))
    await asyncio.sleep(0.005)

    second = await reads.get("q", mine.read, since=0.0)

    assert second == 7
    with pytest.raises(TokenRefused):
        await first


async def test_an_outage_is_not_asked_about_by_everyone() -> None:
    """A database that struggles is not helped by fifty more questions."""
    reads, log = SharedReads(), Log()
    log.refusal = QueueUnavailable("away")

    answers = await asyncio.gather(
        *(reads.get("q", log.read, since=0.0) for _ in range(50)), return_exceptions=True
    )

    assert all(isinstance(answer, QueueUnavailable) for answer in answers)
    assert log.reads == 1


@pytest.mark.parametrize("leaves", [0, 1])
async def test_a_reader_that_leaves_takes_the_answer_from_no_other(leaves: int) -> None:
    """The read goes on for those who wait for it, whoever asked first."""
    reads, log = SharedReads(), Log()
    asking = []
    for _ in range(2):
        asking.append(asyncio.ensure_future(reads.get("q", log.read, since=0.0)))
        await asyncio.sleep(0.005)

    leaving, staying = asking[leaves], asking[1 - leaves]
    leaving.cancel()

    assert await staying == 0
    assert log.reads == 1


async def test_a_refusal_that_no_one_awaits_any_more_is_not_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Asyncio would log it as never retrieved."""
    reads, log = SharedReads(), Log()
    log.refusal = TokenRefused("expired", status=401)
    leaving = asyncio.ensure_future(reads.get("q", log.read, since=0.0))
    await asyncio.sleep(0.005)
    leaving.cancel()
    await asyncio.sleep(0.05)

    assert caplog.records == []


async def test_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cursors come once; a process that kept them would grow."""
    monkeypatch.setattr(shared_reads, "KEPT_SECONDS", 0.03)
    reads, log = SharedReads(), Log()
    for question in range(20):
        await reads.get(question, log.read, since=0.0)

    await asyncio.sleep(0.1)

    assert reads._reads == {}


async def test_members_of_two_tenants_at_one_place_of_a_session_each_read_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients choose session ids, so that two tenants may meet in one; guests hold the same key."""
    asked: list[UUID | None] = []

    class Queue:
        def __init__(self, caller: Caller | None) -> None:
            self.subject = caller.subject if caller is not None else None

        async def session_feed(self, session_id: str, after: str | None) -> FeedPage:
            asked.append(self.subject)
            return FeedPage.model_validate({"events": [], "places": [], "cursor": after})

    async def read_at_once(_: Any, __: Any, ___: Any, feed: Any) -> None:
        await feed.read(since=0.0)

    monkeypatch.setattr(routes, "_feed_answer", read_at_once)
    services: Any = SimpleNamespace(stream_queue_of=Queue, hub=EventHub())
    ada, eve = (Caller(UUID(int=n), "authenticated", "t", datetime.now(UTC)) for n in (1, 2))
    for caller in (ada, ada, eve, None, None):
        await routes.get_session_events(None, "s", caller, services, "5:5:")  # type: ignore[arg-type]

    assert asked == [ada.user_id, eve.user_id, None]
