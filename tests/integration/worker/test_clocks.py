"""A worker on a machine with a wrong clock. Its waits use the database's clock."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from infra.bench.scratch import scratch_settings
from minutehand.clock import SystemClock
from minutehand.queue.direct import DirectApi
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.remote import RemoteFailed
from minutehand.worker.testing import drain
from tests.support.engine import Engine, Json
from tests.support.renewed import Renewed

WRONG = (timedelta(hours=1), timedelta(days=-3))


class WrongClock(SystemClock):
    """A machine's clock that is wrong by a fixed time."""

    def __init__(self, ahead: timedelta) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        """Return the wrong time."""
        return super().now() + self._ahead


@asynccontextmanager
async def working(
    engine: Engine, registry: Registry, ahead: timedelta, *, is_direct: bool = False
) -> AsyncIterator[Worker]:
    """Run a worker that calls the Data API, or Postgres directly without a token.

    Its ticks do not wait for jobs that fall due.
    """
    assert isinstance(engine.database, Renewed)
    settings, clock = scratch_settings(engine.database.gateway.url), WrongClock(ahead)
    api = DirectApi(engine.database.url, schema="public") if is_direct else None
    queue = WorkerQueue(settings, api=api, clock=clock)
    options = TickOptions(linger_seconds=0)
    worker = Worker(settings, registry=registry, queue=queue, clock=clock, options=options)
    await worker.register()
    try:
        yield worker
    finally:
        await worker.aclose()


@pytest.mark.parametrize("is_direct", [False, True])
@pytest.mark.parametrize("ahead", WRONG)
async def test_a_wait_lasts_as_long_as_it_was_to_last(
    engine: Engine, ahead: timedelta, is_direct: bool
) -> None:
    """A job's wait of a minute lasts a minute, although the worker's clock is wrong.

    The job's start, deadline and log times follow the database's clock.
    """
    registry = Registry()

    @registry.processor("naps", payload=dict, timeout=7200)
    async def nap(job: Job[Json], ctx: JobContext) -> Any:
        ctx.log("info", "at work")
        match job.payload["how"]:
            case "sleep":
                await ctx.sleep(60)
                return "over"
            case "works":
                return ctx.remaining
            case "starts":
                return "over"
        call = ctx.ask if job.payload["how"] == "ask" else ctx.wait_for_event
        return await call("ready", timeout=timedelta(minutes=1), default="over")

    async with working(engine, registry, ahead, is_direct=is_direct) as worker:
        for how in ("sleep", "ask", "wait_for_event"):
            engine.enqueue({"how": how}, job_type="naps")
        until = engine.one("select (queue.clock() + interval '1 minute')::text")
        starts = engine.enqueue({"how": "starts"}, job_type="naps", scheduled_for=until)
        await worker.tick()
        lengths = engine.rows("select timeout_at - created_at from queue.waits")
        lengths += engine.rows(
            "select (data -> 'wait' ->> 'until')::timestamptz - created_at"
            " from job_events where type = 'job.waiting'"
        )
        until = engine.one("select (queue.clock() + interval '30 minutes')::text")
        works = engine.enqueue({"how": "works"}, job_type="naps", deadline_at=until)
        await worker.tick()
        engine.elapse(60)
        # `elapse` leaves out maintenance that another connection runs at the moment
        while engine.count("jobs where status <> 'completed'"):
            engine.maintain()
            await drain(worker)
    assert lengths == [timedelta(minutes=1)] * 6
    ended = "select status, result from jobs where id <> %s"
    assert engine.rows(ended, works) == [("completed", "over")] * 4
    [started] = engine.rows("select started_at - scheduled_for from jobs where id = %s", starts)
    assert started >= timedelta()
    assert 1700 < engine.job(works)["result"] <= 1800
    [late] = engine.rows("select max(queue.clock() - created_at) from job_logs")
    assert abs(late) < timedelta(minutes=5)


async def test_remote_work_has_one_deadline_for_workers_of_different_times(engine: Engine) -> None:
    left_of: list[float] = []
    registry = Registry()

    async def reject(*, left: float) -> str:
        left_of.append(left)
        raise RemoteFailed("down")

    @registry.processor("remote", payload=dict)
    async def run(job: Job[Json], ctx: JobContext) -> str:
        services: list[Any] = [SimpleNamespace(name="vendor", submit=reject)]
        return await ctx.remote("work", services, within=1000)

    job_id = ""
    for ahead in WRONG:
        async with working(engine, registry, ahead) as worker:
            job_id = job_id or engine.enqueue(job_type="remote")
            await worker.tick()
        engine.elapse(100)

    first, second = left_of
    assert 990 < first <= 1000
    assert 700 < second <= 900


async def test_a_worker_logs_once_that_its_clock_is_wrong_and_a_finding_names_it(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry()
    registry.processor("nothing", payload=dict)(print)
    for ahead in (timedelta(seconds=2), *WRONG):
        async with working(engine, registry, ahead) as worker:
            for _ in range(2):
                engine.enqueue(job_type="nothing")
                await worker.tick()

    findings = engine.rpc("explain_queue")["findings"]
    found = {each["key"]: each["sentence"] for each in findings if each["reason"] == "clock_skew"}
    assert sorted("3600 s ahead of" in sentence for sentence in found.values()) == [False, True]
    ahead_of, behind = (
        each for each in caplog.records if getattr(each, "event", "") == "worker.clock_skew"
    )
    assert ahead_of.levelno == behind.levelno == logging.WARNING
    assert "ahead of" in ahead_of.getMessage()
    assert "behind" in behind.getMessage()
