"""A followed subject in leaping time: the stories and cases that the browser's client runs too."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from minutehand.client import watch
from minutehand.client.access import Access
from minutehand.client.follow import EventSequence, event_of_frame
from minutehand.client.watch import FeedWatcher, JobWatcher
from minutehand.queue.errors import JobNotFound, QueueUnavailable
from minutehand.queue.models import FeedPage, Job, JobEvent, TopicFollowed
from minutehand.queue.realtime import events_of_message
from tests.support.virtual_time import leaping

CASES = json.loads((Path(__file__).parents[1] / "console/follow.json").read_text("utf-8"))
AT = datetime(2026, 11, 20, 8, tzinfo=UTC)
JOB = "j"


def named(cases: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", CASES[cases], ids=lambda case: case["name"])


def labels(given: Any) -> list[Any]:
    return list(range(given["from"], given["to"] + 1)) if isinstance(given, dict) else given


def event(label: int | str) -> JobEvent:
    """Event 2 of the job, or of job a."""
    job, seq = (JOB, label) if isinstance(label, int) else (label[0], int(label[1:]))
    return JobEvent(job_id=job, seq=seq, type="job.log", data={}, created_at=AT)


def key(event: JobEvent) -> tuple[str, int]:
    return event.job_id, event.seq


class World:
    """Realtime, the database and a topic's owner, all in one."""

    can_renew = False

    def __init__(self, story: dict[str, Any]) -> None:
        self.log = [event(label) for label in labels(story["log"])]
        self.is_feed = story.get("of") == "feed"
        self.takes = story.get("read_takes", 0)
        self.database = story.get("database", "there")
        self.ended = story.get("ended", False)
        self.tokens = self.reader = self
        self.reads = self.reconnects = 0
        self.shown: list[JobEvent] = []
        self.topic: Any = None

    def open(self, after: int) -> FeedWatcher | JobWatcher:
        access = cast("Access", self)
        if self.is_feed:
            return FeedWatcher(access, "workspace", "w")
        return JobWatcher(access, JOB, after=after)

    def socket(self, *_: object, **received: Any) -> World:
        self.topic = SimpleNamespace(**received)
        return self

    async def run(self) -> None:
        await asyncio.Event().wait()

    def reconnect(self) -> None:
        self.reconnects += 1
        self.topic.lost("silent")

    async def _begin_read(self) -> None:
        self.reads += 1
        self.shown = [*self.log]
        database, self.row = self.database, self._row()
        await asyncio.sleep(self.takes)
        if database == "refuses":
            raise JobNotFound("no job", status=404)
        if database != "there":
            raise QueueUnavailable(database, status=429 if database == "busy" else 0)

    def _row(self) -> Job:
        row = {"id": JOB, "workspace_id": "w", "job_type": "t", "created_at": AT}
        status = "completed" if self.ended else "processing"
        last_seq = max((each.seq for each in self.log), default=0)
        return Job.model_validate({**row, "status": status, "last_seq": last_seq})

    async def get_job(self, _: str) -> Job:
        await self._begin_read()
        return self.row

    async def events_after(self, _: str, seq: int, *, limit: int) -> list[JobEvent]:
        return [each for each in self.shown if each.seq > seq][:limit]

    async def workspace_feed(self, _: str, cursor: str | None, *, limit: int) -> FeedPage:
        await self._begin_read()
        start = int(cursor or 0)
        page = self.shown[start : start + limit]
        more = len(self.shown) > start + limit
        return FeedPage(events=tuple(page), cursor=str(start + len(page)), more=more)

    def do(self, step: dict[str, Any]) -> None:
        """What a step has happen."""
        self.database = step.get("database", self.database)
        self.log += [event(label) for label in labels(step.get("commit", []))]
        self.log = [each for each in self.log if self.is_feed or each.seq > step.get("prune", 0)]
        if "end" in step:
            self.ended = True
            end = {"type": "job.completed", "data": {"status": "completed"}}
            self.log[-1] = self.log[-1].model_copy(update=end)
        if "join" in step:
            terms = {"again_seconds": 60, **step["join"]}
            self.topic.joined(TopicFollowed.model_validate(terms))
        if "ready" in step:
            self.topic.ready()
        if "drop" in step:
            self.topic.lost(step["drop"])
        for label in labels(step.get("message", [])):
            if label == "look again":
                self.topic.message({"look_again": True})
            elif label == "garbage":
                self.topic.message({})
            else:
                [one] = [each for each in self.log if key(each) == key(event(label))]
                self.topic.message({**one.model_dump(), "at": one.created_at})


@named("stories")
def test_a_subject_is_followed(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing missed, nothing twice, and what is said of it is true."""

    async def story() -> None:
        world = World(case)
        monkeypatch.setattr(watch, "Topic", world.socket)
        watcher = world.open(case.get("after", 0))
        watcher._start()
        try:
            for number, step in enumerate(case["steps"], 1):
                reads = world.reads
                world.do(step)
                if "wait" in step:
                    await asyncio.sleep(step["wait"] + 0.02)
                if "delivered" in step:
                    delivered = [*watcher._follow.delivered]
                    watcher._follow.delivered.clear()
                    wanted = [key(event(each)) for each in labels(step["delivered"])]
                    assert [key(each) for each in delivered] == wanted, number
                if "says" in step:
                    assert watcher.freshness == step["says"], number
                if "reads_at_most" in step:
                    assert world.reads - reads <= step["reads_at_most"], number
                if "reconnects" in step:
                    assert world.reconnects == step["reconnects"], number
                if "ends" in step:
                    assert watcher._finished, number
                    assert (watcher._failure is None) == (step["ends"] == "ended"), number
        finally:
            await watcher.aclose()

    leaping(story())


async def test_a_reader_gets_more_than_is_kept_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading continues as soon as there is room; leaving the loop closes the watch."""
    world = World({"log": {"from": 1, "to": 5000}, "ended": True})
    monkeypatch.setattr(watch, "Topic", world.socket)
    watcher = world.open(0)

    async with asyncio.timeout(60):
        seqs = [each.seq async for each in watcher]

    assert seqs == list(range(1, 5001))
    assert watcher.freshness == "offline"


@named("order")
def test_events_arrive_in_their_order(case: dict[str, Any]) -> None:
    sequence = EventSequence(case["after"])
    for step in case["steps"]:
        if "offer" in step:
            delivered = sequence.offer(map(event, labels(step["offer"])))
        else:
            page = [event(each) for each in labels(step["page"])]
            delivered = sequence.offer_page(page, is_last=step["is_last"])
        assert [each.seq for each in delivered] == labels(step["delivered"])
        assert sequence.last == step.get("last", sequence.last)
        assert sequence.has_gap == step.get("has_gap", sequence.has_gap)


@named("frames")
def test_a_frame_is_an_event_or_none(case: dict[str, Any]) -> None:
    found = event_of_frame(case["frame"])
    assert (found and found.seq) == case["seq"]


@named("messages")
def test_a_message_has_its_events(case: dict[str, Any]) -> None:
    assert events_of_message(case["message"]) == case["events"]
