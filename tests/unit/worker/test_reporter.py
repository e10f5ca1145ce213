"""The reporter's own life; what it reports is tested through ticks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from infra.bench.scratch import WORKSPACE
from minutehand.clock import Clock, FrozenClock
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import LeasedJob, ReportItem, ReportResult
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.attempt import Attempt
from minutehand.worker.reporter import Reporter
from minutehand.worker.settlement import Returned
from tests.support.virtual_time import LoopClock, leaping
from tests.unit.worker.attempts import CLOCK, SETTINGS, held_attempt


@pytest.mark.parametrize("turns", range(6))
async def test_news_at_the_moment_of_its_end_does_not_keep_it_alive(turns: int) -> None:
    """A reporter that survives its tick renews leases of jobs that no one runs any more."""
    queue = WorkerQueue(SETTINGS)
    attempt = held_attempt(queue)
    reporter = Reporter(queue, {attempt.key: attempt}, worker_id="w", tick_id="t", clock=CLOCK)
    running = asyncio.create_task(reporter.run())
    for _ in range(5):
        await asyncio.sleep(0)

    reporter.announce()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()

    _, left = await asyncio.wait({running}, timeout=60)
    assert not left
    await queue.aclose()


class Answering(WorkerQueue):
    """Answers reports in turn; an error is raised. Keeps the jobs and the lines of each."""

    def __init__(self, *answers: QueueError | str) -> None:
        super().__init__(SETTINGS)
        self.answers = list(answers)
        self.jobs: list[list[str]] = []
        self.lines: list[list[str]] = []
        self.answered = asyncio.Event()

    async def report(
        self, items: Sequence[ReportItem], *, worker_id: str, tick_id: str, attempts: int = 2
    ) -> list[ReportResult]:
        """The next answer, about each."""
        self.jobs.append([item.job_id for item in items])
        self.lines.append([line.message for item in items for line in item.logs])
        answer = self.answers.pop(0)
        if not self.answers:
            self.answered.set()
        if isinstance(answer, QueueError):
            raise answer
        told = [{"job_id": each.job_id, "fence": each.fence, "outcome": answer} for each in items]
        return [ReportResult.model_validate(each) for each in told]


async def reported(
    queue: Answering,
    *attempts: Attempt,
    clock: Clock = CLOCK,
    settling: Sequence[Attempt] = (),
) -> None:
    """Report until all answers were given."""
    running = {(attempt.job_id, number): attempt for number, attempt in enumerate(attempts)}
    reporter = Reporter(
        queue, running, worker_id="w", tick_id="t", clock=clock, interval=0.001,
        settling={attempt.key: attempt for attempt in settling},
    )  # fmt: skip
    reporting = asyncio.create_task(reporter.run())
    async with asyncio.timeout(60):
        await queue.answered.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    reporting.cancel()
    await asyncio.gather(reporting, return_exceptions=True)
    await queue.aclose()


def named_attempt(name: str, queue: WorkerQueue, clock: Clock, *, age: float = 0) -> Attempt:
    """An attempt of a job of that id, which renewed its lease so long ago."""
    leased = LeasedJob(id=name, workspace_id=WORKSPACE, job_type="a", created_at=CLOCK.now())
    attempt = held_attempt(queue, clock, leased=leased)
    attempt.renewed(clock.monotonic() - age)
    return attempt


async def test_a_process_that_was_paused_for_a_whole_lease_asks_before_it_gives_up() -> None:
    """After a SIGSTOP, or a frozen Lambda, no other worker may have come for the job."""
    clock, queue = FrozenClock(), Answering("ok")
    attempt = held_attempt(queue, clock)
    clock.advance(seconds=100)

    await reported(queue, attempt, clock=clock)

    assert (attempt.stop_reason, attempt.renewed_at) == (None, 100)


@pytest.mark.parametrize("lost", [QueueUnavailable("away"), TokenRefused("expired", status=401)])
@pytest.mark.parametrize("refused", [[], [QueueError("refused", status=400, code="PT400")]])
async def test_a_line_whose_own_report_is_lost_is_sent_again(
    refused: list[QueueError], lost: QueueError
) -> None:
    """Also when its batch was refused for another's: the line is not to go with that."""
    queue = Answering(*refused, lost, "ok")
    attempt = held_attempt(queue)
    attempt.context.log("info", "begun")

    await reported(queue, attempt)

    assert queue.lines == [["begun"]] * (len(refused) + 2)


async def test_a_report_has_what_is_new_and_the_leases_that_are_due() -> None:
    """What a job's end left is for its settle, and of a lost lease nothing is said."""
    clock, queue = FrozenClock(), Answering("ok")
    clock.advance(seconds=100)
    new, young, due, ended, lost = (
        named_attempt(name, queue, clock, age=age)
        for name, age in (("new", 0), ("young", 14), ("due", 15), ("ended", 16), ("lost", 17))
    )
    settled, settled_lost = (
        named_attempt(name, queue, clock, age=18) for name in ("settled", "settled_lost")
    )
    for attempt in (new, ended, lost):
        attempt.context.log("info", attempt.job_id)
    for attempt in (lost, settled_lost):
        attempt.stop_reason = "lost"
    for attempt in (ended, settled, settled_lost):
        attempt.ending = Returned(None)

    await reported(
        queue, new, young, due, ended, lost, clock=clock, settling=[settled, settled_lost]
    )

    assert (queue.jobs, queue.lines) == ([["settled", "ended", "due", "new"]], [["new"]])
    assert [attempt.renewed_at for attempt in (due, ended, settled, young)] == [100, 100, 100, 86]
    assert ended.updates


@pytest.mark.parametrize(
    ("outcome", "has_ended", "stopped", "renewed_at"),
    [
        ("ok", False, None, 20),
        ("cancel", False, "cancel", 20),
        ("lost", False, "lost", 0),
        ("ok", True, None, 20),
        ("cancel", True, None, 20),
        ("lost", True, None, 0),
    ],
)
async def test_an_answer_renews_the_lease_or_stops_the_processor(
    outcome: str, has_ended: bool, stopped: str | None, renewed_at: float
) -> None:
    """A lease has begun when its report was sent; with a job that ended nothing is left to stop."""
    clock, queue = FrozenClock(), Answering(outcome)
    attempt = held_attempt(queue, clock)
    clock.advance(seconds=20)
    if has_ended:
        attempt.ending = Returned(None)

    await reported(queue, attempt, clock=clock)

    assert (attempt.stop_reason, attempt.renewed_at) == (stopped, renewed_at)


async def test_a_step_is_on_its_way_while_its_report_is() -> None:
    """Its waiters continue with the answer, and not before."""
    seen: list[tuple[bool, ...]] = []

    class Looking(Answering):
        async def report(self, *args: Any, **kwargs: Any) -> list[ReportResult]:
            idle = asyncio.create_task(reporter.wait_idle(seconds=60))
            for _ in range(3):
                await asyncio.sleep(0)
            seen.append((attempt.reporting, step.done(), idle.done()))
            idles.append(idle)
            return await super().report(*args, **kwargs)

    queue = Looking("ok")
    attempt = held_attempt(queue)
    reporter = Reporter(queue, {attempt.key: attempt}, worker_id="w", tick_id="t", clock=CLOCK)
    idles = [asyncio.create_task(reporter.wait_idle(seconds=60))]
    attempt.context.log("info", "begun")
    step = asyncio.create_task(attempt.flush())
    await asyncio.sleep(0)
    assert idles[0].done()

    reporting = asyncio.create_task(reporter.run())
    await asyncio.wait_for(step, 60)

    assert seen == [(True, False, False)]
    assert not attempt.reporting
    await asyncio.gather(*idles)
    reporting.cancel()
    await asyncio.gather(reporting, return_exceptions=True)
    await queue.aclose()


async def test_what_is_new_since_a_report_was_sent_is_stored_by_the_next() -> None:
    """A step that ends meanwhile has not been part of what is answered."""
    steps: list[asyncio.Task[None]] = []
    done: list[bool] = []

    class Meanwhile(Answering):
        async def report(self, *args: Any, **kwargs: Any) -> list[ReportResult]:
            if not steps:
                attempt.context.log("info", "done")
                steps.append(asyncio.create_task(attempt.flush()))
                await asyncio.sleep(0)
            done.append(steps[0].done())
            return await super().report(*args, **kwargs)

    queue = Meanwhile("ok", "ok")
    attempt = held_attempt(queue)
    attempt.context.log("info", "begun")

    await reported(queue, attempt)

    assert (queue.lines, done) == ([["begun"], ["done"]], [False, False])
    await asyncio.wait_for(steps[0], 60)


def test_a_queue_that_is_away_is_not_asked_faster_for_a_waiting_step() -> None:
    """Which is why it is away, perhaps."""
    asked: list[float] = []

    class Away(Answering):
        async def report(self, *args: Any, **kwargs: Any) -> list[ReportResult]:
            asked.append(asyncio.get_running_loop().time())
            return await super().report(*args, **kwargs)

    async def story() -> None:
        clock = LoopClock()
        queue = Away(QueueUnavailable("away"), QueueUnavailable("away"), "ok")
        attempt = held_attempt(queue, clock)
        attempt.context.log("info", "begun")
        step = asyncio.create_task(attempt.flush())
        reporter = Reporter(
            queue, {attempt.key: attempt}, worker_id="w", tick_id="t", clock=clock, interval=4
        )
        reporting = asyncio.create_task(reporter.run())
        await step
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)

    leaping(story())

    assert asked == [0, 4, 8]


async def test_a_lease_that_no_report_could_renew_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another worker may have the job by now; one within its lease is reported again."""
    caplog.set_level(logging.WARNING, "minutehand.worker.reporter")
    clock, queue = FrozenClock(), Answering(QueueUnavailable("away"), "ok")
    old, young = (named_attempt(name, queue, clock) for name in ("old", "young"))
    clock.advance(seconds=60.1)
    young.renewed(30)
    young.context.log("info", "begun")
    step = asyncio.create_task(young.flush())
    await asyncio.sleep(0)

    await reported(queue, old, young, clock=clock)

    assert queue.jobs == [["young", "old"], ["young"]]
    assert (old.stop_reason, young.stop_reason) == ("lost", None)
    assert [each for each in caplog.messages if "renewed" in each] == [
        "Lease could not be renewed in time"
    ]
    await asyncio.wait_for(step, 60)


async def test_reports_are_an_interval_apart_and_a_lease_is_renewed_at_its_third() -> None:
    clock, queue = FrozenClock(), Answering(*["ok"] * 4)
    attempt = held_attempt(queue, clock)
    running = {attempt.key: attempt}
    reporter = Reporter(queue, running, worker_id="w", tick_id="t", clock=clock, interval=4)
    reporting = asyncio.create_task(reporter.run())

    async def sent_after(seconds: float, news: str | None = None) -> int:
        clock.advance(seconds=seconds)
        if news:
            attempt.context.log("info", news)
        reporter.announce()
        for _ in range(5):
            await asyncio.sleep(0)
        return len(queue.jobs)

    assert await sent_after(19.5) == 0
    assert await sent_after(0.5) == 1
    assert await sent_after(3.5, "soon") == 1
    assert await sent_after(0.5) == 2
    assert await sent_after(19.5) == 2
    assert await sent_after(0.5) == 3
    reporting.cancel()
    await asyncio.gather(reporting, return_exceptions=True)
    await queue.aclose()


async def test_what_is_refused_for_good_is_said_to_those_who_wait_for_it() -> None:
    """A step that is not stored is not done, and the processor must not wait for it for ever."""
    refused = QueueError("refused", status=400, code="PT400")
    queue = Answering(refused, refused)
    attempt = held_attempt(queue)
    attempt.context.log("info", "begun")
    step = asyncio.create_task(attempt.flush())
    await asyncio.sleep(0)

    await reported(queue, attempt)

    with pytest.raises(QueueError, match="refused"):
        await asyncio.wait_for(step, 60)


async def test_a_full_report_carries_what_is_waited_for_then_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With more jobs than fit, one that never comes first would lose its lease."""
    monkeypatch.setattr(Reporter, "BATCH", 1)
    queue = Answering("ok", "ok", "ok")
    attempts = {name: held_attempt(queue) for name in ("young", "old", "urgent")}
    for name, attempt in attempts.items():
        attempt.context.log("info", name)
    attempts["old"].renewed_at -= 1
    step = asyncio.create_task(attempts["urgent"].flush())
    await asyncio.sleep(0)

    await reported(queue, *attempts.values())

    assert queue.lines == [["urgent"], ["old"], ["young"]]
    await asyncio.wait_for(step, 60)
