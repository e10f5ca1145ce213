"""The reporter's own life; what it reports is tested through ticks."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from infra.bench.scratch import WORKSPACE, scratch_settings
from minutehand.clock import Clock, FrozenClock, SystemClock
from minutehand.log import request_context
from minutehand.queue.errors import LeaseLost, QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import Lease, LeasedJob, ReportItem, ReportResult
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Job, JobContext, Registry
from minutehand.worker.attempt import Attempt, database_clock
from minutehand.worker.isolation import Blocked, contained
from minutehand.worker.registry import UnknownProcessor
from minutehand.worker.reporter import Reporter
from minutehand.worker.settlement import Abandoned, Raised, Returned

CLOCK = SystemClock()
SETTINGS = scratch_settings("http://127.0.0.1:9")


def held_attempt(
    queue: WorkerQueue,
    clock: Clock = CLOCK,
    *,
    timeout_seconds: float | None = None,
    on_end: Callable[[Attempt], None] = lambda _: None,
    run: Callable[[Any, Any], Any] | None = None,
    on_news: Callable[[], None] = lambda: None,
    had_fair_time: bool = True,
    deadline_at: datetime | None = None,
    payload: Any = None,
    leased: LeasedJob | None = None,
    **lease: Any,
) -> Attempt:
    """A lease of a minute, just taken: the reporter waits to renew it."""
    job = leased or LeasedJob(
        id="01a200a6-7884-7030-864b-60cc70f7392f",
        workspace_id=WORKSPACE,
        job_type="a",
        payload={} if payload is None else payload,
        created_at=CLOCK.now(),
        timeout_seconds=timeout_seconds,
        deadline_at=deadline_at,
    )
    registry = Registry()
    if run is not None:
        registry.processor("a", payload=dict)(run)
    return Attempt(
        Lease(job=job, fence=1, **lease),
        registry.find("a"),
        clock=clock,
        sent_at=clock.monotonic(),
        work_until=math.inf,
        had_fair_time=had_fair_time,
        queue=queue,
        on_news=on_news,
        on_end=on_end,
    )


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


async def test_a_step_waits_for_the_report_that_carries_it() -> None:
    """A processor in a thread may find its step taken already: it is stored with the answer."""
    queue = WorkerQueue(SETTINGS)
    attempt = held_attempt(queue)
    nothing = asyncio.create_task(attempt.flush())
    await asyncio.sleep(0)
    assert nothing.done()

    attempt.reporting = True
    waiting = asyncio.create_task(attempt.flush())
    await asyncio.sleep(0)

    assert not waiting.done()
    attempt.stored()
    await asyncio.wait_for(waiting, 60)
    await queue.aclose()


@pytest.mark.parametrize("is_abandoned", [False, True])
async def test_a_lost_lease_stores_nothing_and_says_so_at_once(is_abandoned: bool) -> None:
    """Else a processor that cleans up would wait for a report that is never sent."""
    queue = WorkerQueue(SETTINGS)
    ended = asyncio.Event()
    attempt = held_attempt(queue, on_end=lambda _: ended.set())
    attempt.stop("timeout" if is_abandoned else "lost", grace_seconds=0)
    attempt.context.log("info", "cleaning up")

    async with asyncio.timeout(60):
        if is_abandoned:
            await ended.wait()
        with pytest.raises(LeaseLost):
            await attempt.flush()
    await queue.aclose()


async def test_an_attempt_that_is_stopped_before_its_first_line_has_ended() -> None:
    """Its task is cancelled before it runs, and could not say so itself."""
    ended = asyncio.Event()
    attempt = held_attempt(WorkerQueue(SETTINGS), on_end=lambda _: ended.set())
    attempt.start()
    with pytest.raises(RuntimeError, match="still running"):
        attempt.settlement()
    attempt.stop("cancel")
    assert attempt.ending is None

    await asyncio.wait_for(ended.wait(), 60)

    attempt.stop("lost")
    item = attempt.settlement()
    assert item is not None
    assert (item.outcome, item.cost_usd) == ("cancelled", None)
    assert isinstance(attempt.ending, Raised), "nothing was abandoned"


@pytest.mark.parametrize(
    ("ran", "outcome", "error"), [(60.0, "completed", None), (60.1, "retry", "AttemptTimeout")]
)
async def test_an_attempt_is_settled_with_its_time_and_its_cost(
    ran: float, outcome: str, error: str | None
) -> None:
    """What it kept the loop for counts as well: past its timeout it has no result."""
    clock, ended = FrozenClock(), asyncio.Event()

    async def run(job: Any, ctx: JobContext) -> None:
        clock.advance(seconds=ran)
        ctx.cost_usd += 0.25

    attempt = held_attempt(
        WorkerQueue(SETTINGS), clock, timeout_seconds=60, on_end=lambda _: ended.set(), run=run
    )
    attempt.group.blocked = Blocked(ran, "app.py:1")
    clock.advance(seconds=5)
    attempt.start()
    await asyncio.wait_for(ended.wait(), 60)
    clock.advance(seconds=5)
    assert attempt.stop_requested()

    item = attempt.settlement(cost_usd=0.5)
    assert item is not None
    assert (item.outcome, item.error and item.error.type) == (outcome, error)
    assert item.error is None or "app.py:1" in item.error.message
    assert (item.duration_ms, item.cost_usd) == (1000 * ran, 0.75)
    assert attempt.remaining() == 0


@pytest.mark.parametrize(
    ("had_fair_time", "steps", "outcome"),
    [(True, 0, "retry"), (False, 0, "released"), (True, 1, "snoozed")],
)
async def test_an_attempt_that_runs_out_of_time_is_charged_if_that_was_fair(
    had_fair_time: bool, steps: int, outcome: str
) -> None:
    """Its clean-up may go on in a task of its own; what it left running ends with it."""
    ended, cleaned, left = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def clean() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        cleaned.set()

    async def forget() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            left.set()

    async def run(job: Any, ctx: JobContext) -> None:
        tasks.append(asyncio.create_task(forget()))
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.shield(asyncio.create_task(clean()))

    with contained(asyncio.get_running_loop()):
        attempt = held_attempt(
            WorkerQueue(SETTINGS), on_end=lambda _: ended.set(), run=run,
            had_fair_time=had_fair_time,
        )  # fmt: skip
        attempt.context.new_steps = steps
        attempt.start()
        await asyncio.sleep(0.01)
        attempt.stop("deadline")
        assert attempt.stop_requested()
        await asyncio.wait_for(ended.wait(), 60)
        item = attempt.settlement()

        assert item is not None
        assert (item.outcome, cleaned.is_set()) == (outcome, True)
        await asyncio.wait_for(left.wait(), 60)


async def test_a_processor_that_does_not_stop_is_left_and_says_where_it_was() -> None:
    """Its slot is free at once; what it still does is cancelled a second time."""
    ended, waits, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def resist(job: Any, ctx: JobContext) -> None:
        waits.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            try:
                await asyncio.sleep(600)
            finally:
                left.set()

    attempt = held_attempt(WorkerQueue(SETTINGS), on_end=lambda _: ended.set(), run=resist)
    attempt.start()
    await asyncio.wait_for(waits.wait(), 60)
    attempt.stop("timeout", grace_seconds=0)
    await asyncio.wait_for(ended.wait(), 60)
    item = attempt.settlement()

    assert isinstance(attempt.ending, Abandoned)
    assert item is not None
    assert (item.outcome, item.error and item.error.type) == ("retry", "AttemptTimeout")
    assert item.error is not None
    assert item.error.traceback is not None
    assert item.error.traceback["frames"][0]["function"] == "resist"
    await asyncio.wait_for(left.wait(), 60)


async def test_a_plain_processor_that_waits_for_the_loop_is_stopped() -> None:
    ended, waits = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        waits.set()
        await asyncio.sleep(600)

    def run(job: Any, ctx: JobContext) -> None:
        ctx.wait(hang())

    with contained(asyncio.get_running_loop()):
        attempt = held_attempt(WorkerQueue(SETTINGS), on_end=lambda _: ended.set(), run=run)
        attempt.start()
        await asyncio.wait_for(waits.wait(), 60)
        attempt.stop("cancel")
        await asyncio.wait_for(ended.wait(), 60)

    assert isinstance(attempt.ending, Raised), "nothing was abandoned"


async def test_an_attempt_knows_its_earlier_steps_and_keeps_the_databases_time() -> None:
    clock = FrozenClock()
    there = clock.now() + timedelta(hours=1)

    attempt = held_attempt(
        WorkerQueue(SETTINGS), clock, steps={"done": 1}, lease_seconds=60,
        lease_expires_at=there + timedelta(seconds=60), deadline_at=there + timedelta(seconds=9),
    )  # fmt: skip

    assert attempt.context.has_step("done")
    assert attempt.remaining() == 9


async def test_a_processor_sees_all_of_its_job() -> None:
    """What the lease has and the job lacks, a processor takes for absent."""
    seen: asyncio.Future[Job[Any]] = asyncio.get_running_loop().create_future()

    async def run(job: Job[Any], ctx: JobContext) -> None:
        seen.set_result(job)

    leased = LeasedJob(
        id="01a200a6-7884-7030-864b-60cc70f7392f", workspace_id=WORKSPACE, job_type="a",
        payload={"n": 1}, user_id="u", session_id="s", parent_id="p", queue="q", priority=7,
        attempts=2, max_attempts=3, created_at=CLOCK.now(), deadline_at=CLOCK.now(),
        traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
    )  # fmt: skip
    attempt = held_attempt(
        WorkerQueue(SETTINGS), run=run, leased=leased, ready_at=leased.created_at,
        lease_expires_at=leased.created_at + timedelta(seconds=61.5),
    )  # fmt: skip
    attempt.start()
    job = await asyncio.wait_for(seen, 60)

    assert (job.attempt, job.fence, job.queued_seconds) == (2, 1, 1.5)
    said = {name: getattr(job, name) for name in type(leased).model_fields if hasattr(job, name)}
    assert said == {name: getattr(leased, name) for name in said}
    assert set(type(leased).model_fields) - set(said) == {
        "attempts", "progress", "schema_version", "timeout_seconds"
    }  # fmt: skip


@pytest.mark.parametrize("payload", [None, "no object"])
async def test_a_failure_says_where_it_happened_and_where_its_log_is(payload: Any) -> None:
    """A payload that was refused passed through no code of the processor's."""
    ended = asyncio.Event()

    async def run(job: Any, ctx: JobContext) -> None:
        raise KeyError("x")

    with request_context("request-1"):
        attempt = held_attempt(
            WorkerQueue(SETTINGS), on_end=lambda _: ended.set(), run=run, payload=payload
        )
        attempt.start()
        await asyncio.wait_for(ended.wait(), 60)
        item = attempt.settlement()

    assert item is not None
    assert item.error is not None
    assert item.error.origin == {"request_id": "request-1"}
    assert (item.error.traceback is None) == bool(payload)


async def test_news_from_a_thread_reaches_the_loop() -> None:
    heard: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    attempt = held_attempt(
        WorkerQueue(SETTINGS), on_news=lambda: heard.set_result(threading.get_ident())
    )

    await asyncio.to_thread(attempt.announce)

    assert await asyncio.wait_for(heard, 60) == threading.get_ident()


async def test_a_lease_is_renewed_at_a_third_and_with_others_at_a_quarter() -> None:
    attempt = held_attempt(WorkerQueue(SETTINGS), FrozenClock(), timeout_seconds=90)
    assert (attempt.renew_at, attempt.may_renew_at, attempt.lease_until) == (20, 15, 60)

    attempt.renewed(40)

    assert (attempt.renew_at, attempt.may_renew_at, attempt.lease_until) == (60, 55, 100)
    assert attempt.remaining() == 90


async def test_an_attempt_of_an_unknown_type_ends_and_says_which() -> None:
    """A newer worker may know it."""
    ended = asyncio.Event()
    attempt = held_attempt(WorkerQueue(SETTINGS), on_end=lambda _: ended.set())
    assert attempt.company == 1
    attempt.start()
    await asyncio.wait_for(ended.wait(), 60)

    assert isinstance(attempt.ending, Raised)
    assert isinstance(attempt.ending.error, UnknownProcessor)
    assert "'a'" in str(attempt.ending.error)
    item = attempt.settlement()
    assert item is not None
    assert (item.job_id, item.fence) == (attempt.job_id, 1)


@pytest.mark.parametrize(
    ("timeout", "ahead", "limit"), [(9, 5, 5), (5, 9, 5), (None, -9, 0), (None, 7, 7)]
)
async def test_an_attempt_s_limit_is_the_nearer_of_timeout_and_deadline(
    timeout: float | None, ahead: float, limit: float
) -> None:
    clock = FrozenClock()
    deadline = clock.now() + timedelta(seconds=ahead)

    attempt = held_attempt(
        WorkerQueue(SETTINGS), clock, timeout_seconds=timeout, deadline_at=deadline
    )

    assert attempt.timeout_seconds == limit


async def test_a_second_reason_to_stop_changes_nothing_unless_the_lease_is_lost() -> None:
    ended = asyncio.Event()

    async def run(job: Any, ctx: JobContext) -> None:
        await asyncio.sleep(600)

    attempt = held_attempt(WorkerQueue(SETTINGS), on_end=lambda _: ended.set(), run=run)
    attempt.start()
    attempt.stop("timeout")
    attempt.stop("cancel")
    first = attempt.stop_reason
    attempt.stop("lost")

    assert (first, attempt.stop_reason) == ("timeout", "lost")
    await asyncio.wait_for(ended.wait(), 60)


async def test_an_ended_attempt_is_let_go_of() -> None:
    """Not kept until its timeout: a worker runs many in these hours."""
    queue = WorkerQueue(SETTINGS)
    ended = asyncio.Event()
    attempt = held_attempt(queue, timeout_seconds=43_200, on_end=lambda _: ended.set())
    attempt.start()
    await asyncio.wait_for(ended.wait(), 60)

    kept = weakref.ref(attempt)
    del attempt
    await asyncio.sleep(0)
    gc.collect()

    assert kept() is None
    await queue.aclose()


def test_queue_time_ends_where_the_lease_began() -> None:
    """By the database's clock, which alone knows since when the attempt was due."""
    due_at = CLOCK.now()
    job = LeasedJob(id="j", workspace_id=WORKSPACE, job_type="a", created_at=due_at)
    expires_at = due_at + timedelta(seconds=100)

    lease = Lease(job=job, fence=1, lease_seconds=60, lease_expires_at=expires_at, ready_at=due_at)

    assert lease.queued_seconds == 40


@pytest.mark.parametrize(("ahead", "seen"), [(-3600, 0), (3600, 0), (1.5, 1.5)])
def test_a_clock_that_is_plainly_wrong_is_set_right_by_the_lease(ahead: float, seen: float) -> None:
    """Deadlines and waits are the database's instants; a second may be the way of the answer."""
    leased_at = CLOCK.now()
    job = LeasedJob(id="j", workspace_id=WORKSPACE, job_type="a", created_at=leased_at)
    lease = Lease(
        job=job, fence=1, lease_seconds=60, lease_expires_at=leased_at + timedelta(seconds=60)
    )

    clock = database_clock(lease, FrozenClock(leased_at + timedelta(seconds=ahead)))

    assert clock.now() == leased_at + timedelta(seconds=seen)


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
