"""Work at other services: one deadline, the next service for one that does not do its part."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

import pytest

from minutehand.clock import FrozenClock
from minutehand.worker import Job, JobContext
from minutehand.worker.remote import (
    CANCEL_SECONDS,
    NoService,
    OutOfTime,
    Remote,
    RemoteFailed,
    RemoteTask,
    StillRunning,
)
from minutehand.worker.testing import ProcessorTest
from tests.support.virtual_time import leaping

Manner = Literal["well", "refuses", "hangs", "late", "drips", "slow", "clings", "fails", "cancels"]


@dataclass
class Vendor:
    """A service that behaves in one manner, and remembers what it was asked."""

    name: str
    manner: Manner = "well"
    stays: bool = False
    asked: list[str] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    polled_at: list[float] = field(default_factory=list)

    async def submit(self, *, left: float) -> str:
        """Accept, unless it refuses or hangs."""
        self.asked.append("submit")
        self.left.append(left)
        if self.manner == "refuses":
            raise RemoteFailed(f"{self.name} answered with status 500")
        if self.manner in {"hangs", "late"}:
            await asyncio.sleep(600 if self.manner == "hangs" else 0.15)
        return f"task of {self.name}"

    async def poll(self, task_id: str) -> RemoteTask:
        """Say how far it is."""
        self.polled_at.append(asyncio.get_running_loop().time())
        if self.manner == "fails":
            return RemoteTask("failed", "out of memory")
        if self.manner == "cancels":
            return RemoteTask("cancelled")
        return RemoteTask("running" if self.manner in {"slow", "clings"} else "completed")

    async def result(self, task_id: str) -> str:
        """Give what it made, byte by byte if it drips."""
        if self.manner == "drips":
            await asyncio.sleep(600)
        return f"made by {self.name}"

    async def cancel(self, task_id: str) -> None:
        """Stop, or refuse to."""
        self.asked.append(f"cancel {task_id}")
        if self.stays:
            raise RemoteFailed(f"{self.name} answered with status 500")
        await asyncio.sleep(600 if self.manner == "clings" else 0)


def remote(*vendors: Vendor) -> tuple[Remote[str], list[StillRunning | None]]:
    """Work at these, with calls of at most 0.2 s, and what is noted of it."""
    noted: list[StillRunning | None] = []

    async def note(running: StillRunning | None) -> None:
        noted.append(running)

    return Remote(vendors, note, call_seconds=0.2), noted


@pytest.mark.parametrize(
    ("manner", "words", "left"),
    [
        ("refuses", "a answered with status 500", 60),
        ("hangs", "a took longer than 0.2 s to answer", 59.8),
        ("drips", "a took longer than 0.2 s to answer", 59.8),
        ("fails", "a failed the task: out of memory", 60),
        ("cancels", "a cancelled the task", 60),
    ],
)
def test_another_does_what_the_first_did_not(manner: Manner, words: str, left: float) -> None:
    """However it failed: the next has the time that is left, and what happened is reported."""
    second = Vendor("b")
    work, _ = remote(Vendor("a", manner), second)

    async def story() -> str | StillRunning:
        made = await work.run(left=60)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, "no call is left behind"
        return made

    assert leaping(story()) == "made by b"
    assert work.reports == {"a": words, "b": None}
    assert second.left == [pytest.approx(left)]


async def test_where_none_succeeded_the_reasons_are_shown() -> None:
    """All of them, in the order they were asked; also when there is none."""
    with pytest.raises(NoService, match="a answered with status 500; b failed the task"):
        await remote(Vendor("a", "refuses"), Vendor("b", "fails"))[0].run(left=60)
    with pytest.raises(NoService):
        await remote()[0].run(left=60)


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize(
    ("manner", "left"),
    [
        ("hangs", 0.1),
        ("hangs", 0.04),
        ("late", 0.1),
        ("drips", 0.1),
        ("slow", 0.1),
        ("clings", 0.1),
    ],
)
def test_the_deadline_is_one_for_all_of_it(manner: Manner, left: float, stays: bool) -> None:
    """No other service is begun when time is over, and one that has accepted must stop if it can.

    One that kept it waiting for a good part of a call is reported, so that it is not asked first.
    """
    first, second = Vendor("a", manner, stays), Vendor("b")
    work, _ = remote(first, second)

    async def story() -> None:
        with pytest.raises(OutOfTime):
            await work.run(left=left)
        assert asyncio.get_running_loop().time() <= left + CANCEL_SECONDS

    leaping(story())
    is_lively = manner in {"slow", "clings"} or left < 0.05
    assert list(work.reports) == ([] if is_lively else ["a"])
    assert second.asked == []
    stopped = ["submit"] if manner == "hangs" else ["submit", "cancel task of a"]
    assert first.asked == stopped


def test_long_work_is_left_and_followed_by_the_next_attempt() -> None:
    """It is noted once, before the slot is given back, and not submitted again."""
    vendor = Vendor("a", "slow")
    work, noted = remote(vendor)

    async def story() -> str | StillRunning:
        left = await work.run(left=60)
        assert noted == [left]
        assert await work.run(left=60, resume=StillRunning("a", "task of a")) == left
        assert noted == [left]
        vendor.manner = "well"
        assert isinstance(left, StillRunning)
        return await remote(vendor)[0].run(left=60, resume=left)

    assert leaping(story()) == "made by a"
    assert vendor.asked == ["submit"]
    polls = [0, 0.05, 0.15, 0.35, 0.75, 1.25, 1.75, 2.25]
    assert vendor.polled_at[:9] == pytest.approx([*polls, polls[-1]])


async def test_what_was_left_with_a_service_that_fails_is_given_to_another() -> None:
    """And no longer noted."""
    work, noted = remote(Vendor("a", "fails"), Vendor("b"))

    assert await work.run(left=60, resume=StillRunning("a", "t")) == "made by b"
    assert noted == [None]
    gone = StillRunning("of the release before", "t")
    assert await remote(Vendor("a"))[0].run(left=60, resume=gone) == "made by a"


def at(*vendors: Vendor) -> ProcessorTest[None]:
    """A job with work at these, of at most a minute."""

    async def made(job: Job[None], ctx: JobContext) -> str:
        return await ctx.remote("made", vendors, within=60, call_seconds=0.2)

    return ProcessorTest(made, None)


def test_a_job_leaves_long_work_and_its_next_attempt_takes_it_up() -> None:
    """Submitted once; a look that finds it running stores nothing; then it fails over."""

    async def story() -> None:
        slow = Vendor("a", "slow")
        job = at(Vendor("0", "drips"), slow, Vendor("b"))
        first = await job.run()
        stored = dict(job.steps)
        again = await job.run()
        assert (first.outcome, again.outcome) == ("snoozed", "snoozed")
        assert job.steps == stored
        assert slow.asked == ["submit"]
        assert first.messages == ["made: 0 failed"]

        slow.manner = "fails"
        run = await job.run()
        assert (run.outcome, run.result) == ("completed", "made by b")
        assert run.messages == ["made: a failed", "made: 0 failed"]
        assert (await job.run()).result == "made by b"
        assert slow.asked == ["submit", "submit"]

    leaping(story())


def test_a_job_has_one_deadline_for_all_its_attempts() -> None:
    """The service at work is told to stop, and no attempt follows; where none did it, one does."""

    async def story() -> None:
        none = await at(Vendor("a", "refuses"), Vendor("b", "fails")).run()
        slow = Vendor("a", "slow")
        job = at(slow)
        clock = job.clock = FrozenClock()
        left = await job.run()
        clock.advance(seconds=61)
        late = await job.run()

        assert none.outcome == "retry"
        assert none.error is not None
        assert "made: a answered with status 500; b failed the task" in none.error.message
        assert (left.outcome, late.outcome) == ("snoozed", "failed")
        assert late.error is not None
        assert late.error.message == "made: no answer within 60 s"
        assert slow.asked == ["submit", "cancel task of a"]

    leaping(story())
