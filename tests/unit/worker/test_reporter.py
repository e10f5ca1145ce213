"""The reporter's own life; what it reports is tested through ticks."""

from __future__ import annotations

import asyncio
import math

import pytest

from infra.bench.scratch import WORKSPACE, scratch_settings
from minutehand.clock import SystemClock
from minutehand.queue.models import Lease, LeasedJob
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.attempt import Attempt
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
