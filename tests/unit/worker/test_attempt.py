"""An attempt's own life: its limits, what it is given and reports, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from datetime import timedelta
from typing import Any

import pytest

from infra.bench.scratch import WORKSPACE
from minutehand.clock import FrozenClock
from minutehand.log import request_context
from minutehand.queue.errors import LeaseLost, QueueError
from minutehand.queue.models import Lease, LeasedJob
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Job, JobContext, trace
from minutehand.worker.attempt import database_clock
from minutehand.worker.context import Updates
from minutehand.worker.isolation import Blocked, contained
from minutehand.worker.registry import UnknownProcessor
from minutehand.worker.settlement import Abandoned, Raised
from tests.unit.worker.attempts import CLOCK, SETTINGS, held_attempt


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
    """Python stops a thread at its next instruction only, and it is in a lock."""
    ended, threads = asyncio.Event(), list[int]()

    def run(job: Any, ctx: JobContext) -> None:
        threads.append(threading.get_ident())
        ctx.wait(asyncio.sleep(600))

    async def is_blocked() -> None:
        frames = sys._current_frames
        while not threads or frames()[threads[0]].f_code.co_name != "wait":  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    with contained(asyncio.get_running_loop()):
        attempt = held_attempt(WorkerQueue(SETTINGS), on_end=lambda _: ended.set(), run=run)
        attempt.start()
        await asyncio.wait_for(is_blocked(), 60)
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
    traces: list[str | None] = []

    async def run(job: Job[Any], ctx: JobContext) -> None:
        traces.extend([ctx.traceparent, trace.current_traceparent()])
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
    own, sent_along = map(trace.parse, traces)
    assert own is not None
    assert (own, own[0]) == (sent_along, "a" * 32)
    assert own[1] != "b" * 16, "a span of its own"
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


async def test_an_attempt_has_until_its_timeout_or_until_its_tick_stops_working() -> None:
    queue, clock = WorkerQueue(SETTINGS), FrozenClock()
    stops = clock.monotonic() + 7

    assert held_attempt(queue, clock, timeout_seconds=60, work_until=stops).remaining() == 7
    assert held_attempt(queue, clock, timeout_seconds=5, work_until=stops).remaining() == 5


async def test_who_waits_for_a_refused_update_gets_its_error() -> None:
    """Else a step would count as stored that no later attempt finds."""
    attempt = held_attempt(WorkerQueue(SETTINGS))
    attempt.context.log("info", "x")
    waiting = asyncio.create_task(attempt.flush())
    await asyncio.sleep(0)

    attempt.refused(QueueError("too large"))

    with pytest.raises(QueueError, match="too large"):
        await asyncio.wait_for(waiting, 60)


async def test_an_attempt_that_ends_by_itself_leaves_nothing_to_say(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its own task still runs then, and is none that it left."""
    ended = asyncio.Event()

    async def run(job: Any, ctx: JobContext) -> None:
        for _ in range(Updates.MAX_LOGS + 2):
            ctx.log("info", "x")

    with contained(asyncio.get_running_loop()):
        attempt = held_attempt(WorkerQueue(SETTINGS), on_end=lambda _: ended.set(), run=run)
        attempt.start()
        await asyncio.wait_for(ended.wait(), 60)

    item = attempt.settlement()
    assert item is not None
    assert len(item.logs) == Updates.MAX_LOGS + 1
    assert item.logs[-1].message.startswith("2 log lines"), "which were dropped"
    assert caplog.messages == []


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
