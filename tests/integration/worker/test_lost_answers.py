"""Calls whose answers are lost, cut or doubled: nothing is leased, run or settled twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from minutehand.local.ports import reserve_port
from minutehand.queue import NewJob, UserQueue
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from tests.support.faulty_proxy import FaultyProxy, Odds
from tests.support.payloads import Nothing
from tests.support.project import ACME, Project, settings_at

BUT_ONCE = {
    "lose_request": Odds(lose_request=1),
    "lose_answer": Odds(lose_answer=1),
    "cut_answer": Odds(cut_answer=1),
    "double": Odds(double=1),
}


class OnceProxy(FaultyProxy):
    """Inflicts its fault on every second call only, so that each repetition gets through."""

    async def _pass_on(self, call: bytes, writer: asyncio.StreamWriter) -> bool:
        odds, self.odds = self.odds, self.odds if self._is_odd() else Odds()
        try:
            return await super()._pass_on(call, writer)
        finally:
            self.odds = odds

    def _is_odd(self) -> bool:
        return sum(self.counts.values()) % 2 == 0


@pytest.fixture
async def through(project: Project) -> AsyncIterator[Callable[[Odds], Awaitable[Any]]]:
    """Settings of a project behind a faulty proxy."""
    proxies: list[FaultyProxy] = []

    async def make(odds: Odds) -> Any:
        proxy = OnceProxy(reserve_port(), project.gateway.port, random.Random(1), odds)
        await proxy.start()
        proxies.append(proxy)
        return settings_at(f"http://127.0.0.1:{proxy.port}")

    yield make
    for proxy in proxies:
        await proxy.stop()


@pytest.mark.parametrize("fault", BUT_ONCE)
async def test_every_job_runs_once_and_ends_once(
    project: Project,
    registry: Registry,
    ada: UserQueue,
    through: Callable[[Odds], Awaitable[Any]],
    fault: str,
) -> None:
    """Leases are idempotent by tick and call, settles by job and fence, logs by their number."""
    ran: list[tuple[str, int]] = []

    @registry.processor("note", payload=Nothing)
    async def note(job: Job[Nothing], ctx: JobContext) -> dict[str, int]:
        ran.append((job.id, job.fence))
        for number in range(3):
            ctx.log("info", f"line {number}")
            await ctx.flush()
        ctx.log("info", "line 3")
        return {"attempt": job.attempt}

    settings = await through(BUT_ONCE[fault])
    worker = Worker(settings, registry=registry, options=TickOptions(linger_seconds=0))
    await worker.register()
    batch = await ada.enqueue_many(ACME, [NewJob(job_type="note")] * 12)

    summary = await worker.tick(budget_seconds=150)
    await worker.aclose()

    assert summary.completed == 12
    assert len(ran) == len(set(ran)) == 12
    assert project.rows("select * from queue.leases") == []
    for entry in batch.jobs:
        job = await ada.get_job(entry.job.id)
        assert (job.status, job.attempts, job.result) == ("completed", 1, {"attempt": 1})
        assert project.event_types(job.id).count("completed") == 1
        lines = [line.message for line in (await ada.logs(job.id)).logs]
        assert lines == [f"line {number}" for number in range(4)]


async def test_children_are_spawned_once_however_often_the_call_is_made(
    project: Project,
    registry: Registry,
    ada: UserQueue,
    through: Callable[[Odds], Awaitable[Any]],
) -> None:
    @registry.processor("child", payload=Nothing)
    async def child(job: Job[Nothing], ctx: JobContext) -> int:
        return 1

    @registry.processor("parent", payload=Nothing)
    async def parent(job: Job[Nothing], ctx: JobContext) -> int:
        return sum(await ctx.map([{}] * 4, "child"))

    settings = await through(BUT_ONCE["lose_answer"])
    worker = Worker(settings, registry=registry, options=TickOptions(linger_seconds=0))
    await worker.register()
    job_id = (await ada.enqueue(ACME, "parent")).job.id

    await worker.tick(budget_seconds=150)
    await worker.aclose()

    assert (await ada.get_job(job_id)).result == 4
    assert len(project.rows("select id from public.jobs where parent_id = %s", job_id)) == 4
