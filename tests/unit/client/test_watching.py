"""What a watch does before any wire: its imports, its tokens, its states."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jwt
import pytest

from minutehand.client import Client, QueueUnavailable, watch
from minutehand.client.access import Access, Tokens
from minutehand.client.follower import _MOST_QUEUED, Timing, Watcher
from minutehand.client.watch import FeedWatcher, JobWatcher
from minutehand.queue.client import UserQueue
from minutehand.queue.errors import QueueError, TokenRefused
from minutehand.queue.models import FeedPage, Job, JobEvent, TopicFollowed
from tests.support.official import official

SECRET = "a secret of at least thirty-two bytes"


def token(seconds: float) -> str:
    return jwt.encode({"exp": int(time.time() + seconds)}, SECRET, "HS256")


async def test_a_token_is_kept_until_shortly_before_it_expires() -> None:
    given: list[str] = []

    def fresh() -> str:
        given.append(token(3600))
        return given[-1]

    tokens = Tokens(fresh)

    assert await tokens.get() == await tokens.get() == given[0]
    assert 3500 < tokens.seconds_left <= 3540
    tokens.expire()
    await tokens.get()
    assert len(given) == 2


async def test_a_source_of_stale_tokens_is_not_asked_in_a_loop() -> None:
    tokens = Tokens(lambda: token(-60))

    asked_at = time.monotonic()
    await tokens.get()

    left = tokens.seconds_left
    assert left <= 1 < left + 0.1 + time.monotonic() - asked_at


@pytest.mark.parametrize(("life", "kept"), [(3600, 3540), (240, 180), (200, 150), (40, 30)])
async def test_a_short_token_is_replaced_in_the_last_quarter_of_its_life(
    life: float, kept: float
) -> None:
    """A minute before its end would be at once, and again each second."""
    tokens = Tokens(lambda: token(life))
    await tokens.get()

    assert tokens.seconds_left == pytest.approx(kept, abs=2)


async def test_a_token_that_is_no_jwt_is_asked_for_every_few_minutes() -> None:
    tokens = Tokens(lambda: "opaque")

    assert await tokens.get() == "opaque"
    assert 200 < tokens.seconds_left < 300


async def test_a_source_that_fails_is_a_failure_to_wait_out() -> None:
    def broken() -> str:
        raise OSError("the vault is unavailable")

    with pytest.raises(QueueUnavailable, match="the vault is unavailable"):
        await Tokens(broken).get()


class Many(Watcher):
    """More events than are kept for a reader, page by page."""

    async def _catch_up(self, queue: UserQueue) -> None:
        for start in range(0, 3 * _MOST_QUEUED, 500):
            await self._room.wait()
            self._tell(
                JobEvent(job_id="j", seq=start + n, type="job.log", data={}, created_at=EPOCH)
                for n in range(500)
            )
        self._finish()

    def _receive(self, event: JobEvent) -> None:
        """Nothing comes by messages."""


EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_reader_gets_more_than_is_kept_for_it() -> None:
    """Reading goes on as soon as there is room."""
    async with official("http://127.0.0.1:1", "k") as supabase:
        watcher = Many("job:j", Access(supabase, schema="public", token="t"), Timing())
        async with asyncio.timeout(120):
            seqs = [event.seq async for event in watcher]

    assert seqs == list(range(3 * _MOST_QUEUED))


class Refusing(Watcher):
    """A subject whose first token was revoked before it expired."""

    async def _catch_up(self, queue: UserQueue) -> None:
        if self._failures == 0:
            raise TokenRefused("revoked", status=401, code="PGRST301")
        self._finish()

    def _receive(self, event: JobEvent) -> None:
        """Nothing comes by messages."""


async def test_a_token_that_was_refused_is_not_sent_again() -> None:
    """A key that was rotated refuses tokens which have an hour to live by their own word."""
    given: list[str] = []

    def fresh() -> str:
        given.append(token(3600))
        return given[-1]

    async with official("http://127.0.0.1:1", "k") as supabase:
        access = Access(supabase, schema="public", token=fresh)
        watcher = Refusing("job:j", access, Timing(polling_interval=0.01))
        async with asyncio.timeout(60):
            assert [event async for event in watcher] == []

    assert (len(given), watcher._failures, watcher.error) == (2, 0, None)


async def test_a_project_that_is_unavailable_is_said_to_be_offline() -> None:
    """Nothing listens on port 1: neither reads nor the topic work."""
    async with official("http://127.0.0.1:1", "k") as supabase:
        watcher = Client(supabase).watch_job("x")
        assert watcher.freshness == "catching-up"

        async with watcher:
            await watcher.refresh()

            freshness: str = watcher.freshness
            assert freshness == "offline"
            assert isinstance(watcher.error, QueueUnavailable)
        assert [event async for event in watcher] == []


def event(seq: int, job: str = "j") -> JobEvent:
    return JobEvent(job_id=job, seq=seq, type="job.log", data={}, created_at=EPOCH)


def page(*events: JobEvent, more: bool = False, reset: bool = False) -> FeedPage:
    return FeedPage(events=events, cursor=f"c{len(events)}", more=more, reset=reset)


class Kept(UserQueue):
    """One job with so many events, and pages of a feed; keeps what it was asked for."""

    def __init__(self, events: int = 0, *pages: FeedPage | QueueError) -> None:
        self.events = events
        self.status = "completed"
        self.pages = list(pages)
        self.asked: list[Any] = []

    async def get_job(self, job_id: str) -> Job:
        row = {"id": job_id, "workspace_id": "w", "job_type": "t", "created_at": EPOCH}
        return Job.model_validate(row | {"status": self.status, "last_seq": self.events})

    async def events_after(
        self, job_id: str, after: int = 0, *, limit: int = 500
    ) -> list[JobEvent]:
        self.asked.append(after)
        return [event(seq) for seq in range(after + 1, min(after + limit, self.events) + 1)]

    async def workspace_feed(self, *asked: Any, **_: Any) -> FeedPage:
        self.asked.append(asked)
        found = self.pages.pop(0)
        if isinstance(found, QueueError):
            raise found
        return found

    session_feed = workspace_feed

    async def follow_topic(self, topic: str, follower_id: UUID) -> TopicFollowed:
        raise QueueUnavailable("away")


@pytest.mark.parametrize(
    ("events", "asked"), [(0, []), (499, [0]), (500, [0]), (501, [0, 500]), (1200, [0, 500, 1000])]
)
async def test_a_watch_reads_no_more_pages_than_a_job_has_events(
    events: int, asked: list[int]
) -> None:
    async with official("http://127.0.0.1:1", "k") as supabase:
        watcher, queue = JobWatcher(Access(supabase, schema="public", token="t"), "j"), Kept(events)
        queue.status = "processing"
        await watcher._catch_up(queue)
        assert (watcher.last_seq, queue.asked, watcher._done) == (events, asked, False)

        queue.status = "completed"
        await watcher._catch_up(queue)
        assert watcher._done


async def test_a_watch_waits_for_the_end_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that had read all of it before; closed by someone else, it has no end to give."""
    queue = Kept(7)

    async def user(*, read_once: bool) -> UserQueue:
        return queue

    async with official("http://127.0.0.1:1", "k") as supabase:
        access = Access(supabase, schema="public", token="t")
        monkeypatch.setattr(access, "user", user)
        async with asyncio.timeout(60):
            assert await JobWatcher(access, "j").ended() == await queue.get_job("j")
            assert (await JobWatcher(access, "j", after=9).ended()).last_seq == 7
            closed = JobWatcher(access, "j")
            await closed.aclose()
            with pytest.raises(QueueError, match="closed"):
                await closed.ended()


async def test_what_a_socket_missed_is_not_held_against_the_next() -> None:
    async with official("http://127.0.0.1:1", "k") as supabase:
        watcher = JobWatcher(Access(supabase, schema="public", token="t"), "j")
        for joins in (1, 2):
            watcher._expect([event(1)])
            watcher._on_joined(None)
            watcher._judge()
            assert (watcher._joins, watcher._distrusted) == (joins, False)


async def test_a_feed_is_read_to_its_end_and_again_for_what_is_announced() -> None:
    """A late message of what was read asks for nothing."""
    queue = Kept(0, page(event(1), event(2), more=True), page(event(1, "k"), reset=True), page())
    async with official("http://127.0.0.1:1", "k") as supabase:
        access = Access(supabase, schema="public", token="t")
        watcher = FeedWatcher(access, "workspace", "w", cursor="c")
        assert not watcher._has_gap
        await watcher._catch_up(queue)
        assert queue.asked == [("w", "c"), ("w", "c2")]
        assert (watcher.cursor, watcher.resets) == ("c1", 1)
        assert [(told.job_id, told.seq) for told in watcher._queue] == [
            ("j", 1),
            ("j", 2),
            ("k", 1),
        ]

        watcher._read_at = math.inf
        watcher._receive(event(2))
        assert (watcher._has_gap, watcher._read_at) == (False, math.inf)
        watcher._last_read = watcher._now()
        watcher._receive(event(2, "k"))
        assert watcher._has_gap
        assert 0 <= watcher._read_at - watcher._last_read <= 0.06
        due = watcher._read_at
        watcher._read_within(60)
        assert watcher._read_at == due, "what may wait postpones no read"
        await watcher._catch_up(queue)
        assert not watcher._has_gap


async def test_a_row_that_is_older_than_what_is_known_does_not_take_it_back() -> None:
    """A read may have begun before the last events came, from a replica or a slow gateway."""
    async with official("http://127.0.0.1:1", "k") as supabase:
        watcher, queue = JobWatcher(Access(supabase, schema="public", token="t"), "j"), Kept(5)
        queue.status = "processing"
        await watcher._catch_up(queue)
        queue.events = 3
        queue.status = "pending"

        await watcher._catch_up(queue)

        assert watcher.job is not None
        assert (watcher.job.last_seq, watcher.job.status) == (5, "processing")


async def test_a_feed_remembers_the_latest_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A workspace's watch may last for weeks; a late message of the others costs one read."""
    monkeypatch.setattr(watch, "_MOST_JOBS", 2)
    queue = Kept(0, page(event(1, "a"), event(1, "b"), event(2, "a"), event(1, "c")))
    async with official("http://127.0.0.1:1", "k") as supabase:
        access = Access(supabase, schema="public", token="t")
        watcher = FeedWatcher(access, "workspace", "w", cursor="c")
        await watcher._catch_up(queue)

    assert dict(watcher._last) == {"a": 2, "c": 1}


async def test_the_topic_of_a_session_that_has_begun_is_joined_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was refused until then, and rests; where the watch was there before, it is joined."""
    async with official("http://127.0.0.1:1", "k") as supabase:
        access = Access(supabase, schema="public", token="t")
        watcher = FeedWatcher(access, "session", "s")
        hurried: list[str | None] = []
        monkeypatch.setattr(watcher._topic, "hurry", lambda: hurried.append(watcher.cursor))

        await watcher._catch_up(Kept(0, page(event(1)), page()))
        await watcher._catch_up(Kept(0, page()))

    assert hurried == [None]


@pytest.mark.parametrize(
    ("word", "session", "cursor", "is_awaited"),
    [
        ("session_not_found", "s", None, True),
        ("session_not_found", "s", "c", False),
        ("session_not_found", "guest_s", None, False),
        ("forbidden", "s", None, False),
    ],
)
async def test_a_session_that_may_still_begin_is_awaited(
    word: str, session: str, cursor: str | None, is_awaited: bool
) -> None:
    refusal = QueueError("no", status=404, code="PT404", hint=word)
    async with official("http://127.0.0.1:1", "k") as supabase:
        access = Access(supabase, schema="public", token="t")
        watcher = FeedWatcher(access, "session", session, cursor=cursor)
        reading = watcher._catch_up(Kept(0, refusal))
        if is_awaited:
            await reading
        else:
            with pytest.raises(QueueError, match="no"):
                await reading
