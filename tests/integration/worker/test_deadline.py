"""A tick never outlives its deadline, whatever hangs; and it leaves nothing behind in memory."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import pytest

from minutehand.local.ports import reserve_port
from minutehand.queue import NewJob, QueueUnavailable, UserQueue
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker, otel
from tests.support.faulty_proxy import FaultyProxy
from tests.support.killable import until
from tests.support.payloads import Nothing
from tests.support.project import ACME, Project, settings_at


class HangingProxy(FaultyProxy):
    """Passes calls on until told to hang; then it takes them and never answers."""

    def __init__(self, port: int, upstream_port: int) -> None:
        super().__init__(port, upstream_port, random.Random(0))
        self.hangs = False
        #: Calls of this function wait until `answer_again` is set.
        self.hangs_on = b""
        self.answer_again = asyncio.Event()
        self.has_hung = asyncio.Event()

    async def _pass_on(self, call: bytes, writer: asyncio.StreamWriter) -> bool:
        if self.hangs:
            await asyncio.sleep(600)
        if self.hangs_on and self.hangs_on in call.partition(b"\r\n")[0]:
            self.has_hung.set()
            await self.answer_again.wait()
        return await super()._pass_on(call, writer)


@pytest.fixture
async def proxy(project: Project) -> AsyncIterator[HangingProxy]:
    made = HangingProxy(reserve_port(), project.gateway.port)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def behind(proxy: HangingProxy, registry: Registry) -> AsyncIterator[Worker]:
    """A worker behind the proxy."""
    made = Worker(
        settings_at(f"http://127.0.0.1:{proxy.port}"),
        registry=registry,
        options=TickOptions(linger_seconds=0, grace_seconds=0.2),
    )
    yield made
    await made.aclose()


async def test_a_database_that_hangs_does_not_keep_the_tick(
    registry: Registry,
    proxy: HangingProxy,
    behind: Worker,
    ada: UserQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Lambda would kill it in mid-call; instead it ends, says what it could not settle, and why."""

    @registry.processor("work", payload=Nothing)
    async def work(job: Job[Nothing], ctx: JobContext) -> None:
        proxy.hangs = True
        await asyncio.sleep(600)

    await behind.register()
    job_id = (await ada.enqueue(ACME, "work")).job.id

    summary = await asyncio.wait_for(behind.tick(budget_seconds=6), 60)

    assert (summary.leased, summary.lost) == (1, 1)
    assert summary.error
    assert (await ada.get_job(job_id)).status == "processing"


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside a running one"])
async def test_a_lease_is_renewed_until_its_settle_is_answered(
    project: Project,
    registry: Registry,
    proxy: HangingProxy,
    behind: Worker,
    ada: UserQueue,
    others: int,
) -> None:
    """Else it expires while the settle hangs, and another worker runs the job a second time."""
    released = asyncio.Event()

    @registry.processor("quick", payload=Nothing, lease=12)
    async def quick(job: Job[Nothing], ctx: JobContext) -> int:
        proxy.hangs_on = b"/rpc/settle_jobs"
        return 1

    @registry.processor("slow", payload=Nothing, lease=12)
    async def slow(job: Job[Nothing], ctx: JobContext) -> int:
        await proxy.has_hung.wait()  # ends while the other's settle is under way
        return 2

    await behind.register()
    batch = await ada.enqueue_many(
        ACME, [NewJob(job_type="quick")] + [NewJob(job_type="slow")] * others
    )
    ticking = asyncio.create_task(behind.tick(budget_seconds=300))
    ticking.add_done_callback(lambda _: released.set())

    async with asyncio.timeout(120):
        while not released.is_set():
            renewed = project.rows(
                "select 1 from queue.leases where expires_at > leased_at"
                " + make_interval(secs => lease_seconds) + interval '0.5 seconds'"
            )
            if len(renewed) == len(batch.jobs):
                break
            await asyncio.sleep(0.1)
    proxy.answer_again.set()
    summary = await asyncio.wait_for(ticking, 120)

    assert (summary.completed, summary.lost) == (len(batch.jobs), 0)
    for entry in batch.jobs:
        job = await ada.get_job(entry.job.id)
        assert (job.status, job.attempts) == ("completed", 1)


async def test_a_database_that_hangs_from_the_start_is_given_up(
    registry: Registry, proxy: HangingProxy, behind: Worker
) -> None:
    registry.processor("work", payload=Nothing)(lambda job, ctx: None)
    await behind.register()
    proxy.hangs = True

    with pytest.raises(QueueUnavailable):
        await asyncio.wait_for(behind.tick(budget_seconds=2), 60)


@pytest.fixture
def _without_logs() -> Iterator[None]:
    """The kept records would be counted: pytest keeps each of a test."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # also forgets what each logger has cached
    yield
    logging.disable(before)


@pytest.mark.timeout(600)  # eighty ticks, however slow the machine
@pytest.mark.usefixtures("_without_logs")
async def test_ticks_leave_nothing_behind(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A warm environment lives for hours: objects that pile up would end it."""
    registry.around(otel.spans)
    registry.around(otel.metrics)

    @registry.processor("work", payload=Nothing)
    async def work(job: Job[Nothing], ctx: JobContext) -> dict[str, Any]:
        async def step() -> int:
            return 1

        ctx.progress(50)
        ctx.log("info", "working")
        return {"step": await ctx.step("one", step)}

    async def ticks(count: int) -> Counter[str]:
        for _ in range(count):
            await ada.enqueue_many(ACME, [NewJob(job_type="work")] * 2)
            await worker.tick(budget_seconds=60)
        gc.collect()
        return Counter(type(found).__qualname__ for found in gc.get_objects())

    await worker.register()
    await ticks(15)

    gc.freeze()  # millions of objects of other tests, which no round need count
    try:
        alive = [await ticks(11) for _ in range(6)]
    finally:
        gc.unfreeze()

    # one object leaked per job would show in each round; what is made now and then, e.g. one
    # more connection of the pool while the machine is busy, shows in some
    grown = [later.total() - earlier.total() for earlier, later in pairwise(alive)]
    assert min(grown) < 22, (grown, (alive[-1] - alive[-2]).most_common(8))


async def test_a_key_refused_for_a_while_costs_no_result(
    project: Project,
    registry: Registry,
    worker: Worker,
    ada: UserQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """During a rotation the database and the worker disagree for a moment."""
    running, settled = asyncio.Event(), asyncio.Event()

    @registry.processor("work", payload=Nothing, lease=300)  # longer than the refusal, however slow
    async def work(job: Job[Nothing], ctx: JobContext) -> dict[str, int]:
        running.set()
        await settled.wait()
        return {"attempt": job.attempt}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "work")).job.id
    tick = asyncio.create_task(worker.tick(budget_seconds=120))
    await asyncio.wait_for(running.wait(), 60)

    right, gateway = project.gateway.jwt_secret, project.gateway
    gateway.stop()
    gateway.jwt_secret = "another-secret-of-at-least-32-characters"
    await asyncio.to_thread(gateway.start)
    settled.set()
    await until(
        lambda: "settle.repeated" in [getattr(line, "event", "") for line in caplog.records]
    )
    gateway.stop()
    gateway.jwt_secret = right
    await asyncio.to_thread(gateway.start)
    summary = await asyncio.wait_for(tick, 60)

    assert summary.completed == 1
    assert (await ada.get_job(job_id)).result == {"attempt": 1}
