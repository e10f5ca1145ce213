"""The reporter's own life; what it reports is tested through ticks."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta

import pytest

from infra.bench.scratch import WORKSPACE, scratch_settings
from minutehand.clock import FrozenClock, SystemClock
from minutehand.queue.errors import LeaseLost
from minutehand.queue.models import Lease, LeasedJob
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.attempt import Attempt, database_clock
from minutehand.worker.reporter import Reporter

CLOCK = SystemClock()


def held_attempt(queue: WorkerQueue) -> Attempt:
    """A lease of a minute, just taken: the reporter waits to renew it."""
    job = LeasedJob(
        id="01a200a6-7884-7030-864b-60cc70f7392f",
        workspace_id=WORKSPACE,
        job_type="a",
        created_at=CLOCK.now(),
    )
    return Attempt(
        Lease(job=job, fence=1),
        None,
        clock=CLOCK,
        sent_at=CLOCK.monotonic(),
        work_until=math.inf,
        had_fair_time=True,
        queue=queue,
        on_news=lambda: None,
        on_end=lambda _: None,
    )


@pytest.mark.parametrize("turns", range(6))
async def test_news_at_the_moment_of_its_end_does_not_keep_it_alive(turns: int) -> None:
    """A reporter that survives its tick renews leases of jobs that no one runs any more."""
    queue = WorkerQueue(scratch_settings("http://127.0.0.1:9"))
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
    queue = WorkerQueue(scratch_settings("http://127.0.0.1:9"))
    attempt = held_attempt(queue)
    attempt.reporting = True
    waiting = asyncio.create_task(attempt.flush())
    await asyncio.sleep(0)

    assert not waiting.done()
    attempt.stored()
    await asyncio.wait_for(waiting, 60)
    await queue.aclose()


async def test_a_lost_lease_stores_nothing_and_says_so_at_once() -> None:
    """Else a processor that cleans up would wait for a report that is never sent."""
    queue = WorkerQueue(scratch_settings("http://127.0.0.1:9"))
    attempt = held_attempt(queue)
    attempt.stop("lost")
    attempt.context.log("info", "cleaning up")

    async with asyncio.timeout(10):
        with pytest.raises(LeaseLost):
            await attempt.flush()
    await queue.aclose()


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
