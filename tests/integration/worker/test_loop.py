"""The loop that ticks where no scheduler does: woken, polling, outliving outages, stopping well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from minutehand.queue import EnqueueOptions, NewJob, UserQueue
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.lease_requests import LeaseRequests
from minutehand.worker.tick import Tick
from tests.support.payloads import Nothing
from tests.support.project import ACME, Gateway, Project

#: Starts the loop with the given options; returns its task and its wake-up.
StartLoop = Callable[..., tuple[asyncio.Task[None], asyncio.Event]]


@pytest.fixture
async def run_loop(
    worker: Worker,
) -> AsyncIterator[StartLoop]:
    """Starts the loop and stops it at the end of the test."""
    tasks: list[asyncio.Task[None]] = []

    def start(**options: float) -> tuple[asyncio.Task[None], asyncio.Event]:
        wakeups = asyncio.Event()
        tasks.append(asyncio.create_task(worker.run_forever(wakeups, **options)))
        return tasks[-1], wakeups

    yield start
    worker.stop()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `condition` holds; fails when it never does."""
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def until_first_tick(caplog: pytest.LogCaptureFixture) -> None:
    """Wait until the loop has looked once and found nothing."""

    async def completed() -> bool:
        return any(getattr(line, "event", "") == "tick.completed" for line in caplog.records)

    await until(completed)


async def test_a_wake_up_is_enough(
    registry: Registry,
    ada: UserQueue,
    worker: Worker,
    run_loop: StartLoop,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a poll an hour apart, only the wake-up can have found the job."""
    ran = asyncio.Event()

    @registry.processor("noop", payload=Nothing)
    async def noop(job: Job[Nothing], ctx: JobContext) -> None:
        ran.set()

    await worker.register()
    caplog.set_level("INFO")
    _, wakeups = run_loop(poll_seconds=3600)
    await until_first_tick(caplog)
    await ada.enqueue(ACME, "noop")

    wakeups.set()

    await asyncio.wait_for(ran.wait(), 60)


async def test_a_wake_up_received_while_a_tick_ends_is_the_next_ones(
    project: Project, registry: Registry
) -> None:
    """It calls the publishers for it first, and is over before they answer."""
    started, release, heard, ran = (asyncio.Event() for _ in range(4))
    ended: list[Tick] = []

    @registry.processor("long", payload=Nothing)
    async def long(job: Job[Nothing], ctx: JobContext) -> None:
        started.set()
        await release.wait()

    @registry.processor("noop", payload=Nothing)
    async def noop(job: Job[Nothing], ctx: JobContext) -> None:
        ran.set()

    async def publish() -> int:
        if started.is_set() and not ended:
            heard.set()
            await asyncio.Event().wait()
        return 0

    def at_the_end(tick: Tick) -> None:
        if not ended:
            project.insert("noop")
        ended.append(tick)

    registry.publisher("app", publish)
    worker = Worker(
        project.settings,
        registry=registry,
        options=TickOptions(linger_seconds=0, grace_seconds=0.3),
        on_tick=at_the_end,
    )
    await worker.register()
    project.insert("long")
    wakeups = asyncio.Event()
    loop = asyncio.create_task(worker.run_forever(wakeups, poll_seconds=3600))
    await asyncio.wait_for(started.wait(), 60)
    wakeups.set()
    await asyncio.wait_for(heard.wait(), 60)
    release.set()

    await asyncio.wait_for(ran.wait(), 60)
    worker.stop()
    await asyncio.wait_for(loop, 60)
    await worker.aclose()


async def test_a_wake_up_reaches_a_tick_that_is_busy(
    registry: Registry,
    ada: UserQueue,
    worker: Worker,
    run_loop: StartLoop,
) -> None:
    """A long job must not keep the free slots from short ones."""
    long_runs, short_ran, release = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @registry.processor("long", payload=Nothing)
    async def long(job: Job[Nothing], ctx: JobContext) -> None:
        long_runs.set()
        await release.wait()

    @registry.processor("short", payload=Nothing)
    async def short(job: Job[Nothing], ctx: JobContext) -> None:
        short_ran.set()

    await worker.register()
    await ada.enqueue(ACME, "long")
    _, wakeups = run_loop(poll_seconds=3600)
    await asyncio.wait_for(long_runs.wait(), 60)
    await ada.enqueue(ACME, "short")

    wakeups.set()

    await asyncio.wait_for(short_ran.wait(), 60)
    release.set()


async def test_scheduled_work_is_found_when_it_falls_due(
    registry: Registry,
    ada: UserQueue,
    worker: Worker,
    run_loop: StartLoop,
) -> None:
    ran = asyncio.Event()

    @registry.processor("later", payload=Nothing)
    async def later(job: Job[Nothing], ctx: JobContext) -> None:
        ran.set()

    await worker.register()
    soon = datetime.now(UTC) + timedelta(seconds=1)
    await ada.enqueue(ACME, "later", options=EnqueueOptions(scheduled_for=soon))

    run_loop(poll_seconds=3600)

    await asyncio.wait_for(ran.wait(), 60)


async def test_the_poll_finds_what_no_wake_up_announced(
    project: Project,
    registry: Registry,
    worker: Worker,
    run_loop: StartLoop,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran = asyncio.Event()

    @registry.processor("noop", payload=Nothing)
    async def noop(job: Job[Nothing], ctx: JobContext) -> None:
        ran.set()

    await worker.register()
    caplog.set_level("INFO")
    run_loop(poll_seconds=0.2)
    await until_first_tick(caplog)

    project.insert("noop")

    await asyncio.wait_for(ran.wait(), 60)


async def test_the_loop_outlives_an_outage_of_the_data_api(
    project: Project,
    gateway: Gateway,
    registry: Registry,
    ada: UserQueue,
    worker: Worker,
    run_loop: StartLoop,
) -> None:
    """A job that ends during the outage is settled after it, with its own result."""
    started, release = asyncio.Event(), asyncio.Event()

    @registry.processor("work", payload=Nothing, lease=300)  # longer than the outage, however slow
    async def work(job: Job[Nothing], ctx: JobContext) -> dict[str, int]:
        started.set()
        await release.wait()
        return {"attempt": job.attempt}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "work")).job.id
    run_loop(poll_seconds=0.2)
    await asyncio.wait_for(started.wait(), 60)

    gateway.stop()
    release.set()
    await asyncio.sleep(1.0)
    await asyncio.to_thread(gateway.start)

    async def completed() -> bool:
        return (await ada.get_job(job_id)).status == "completed"

    await until(completed)
    assert (await ada.get_job(job_id)).result == {"attempt": 1}
    assert project.event_types(job_id) == ["created", "leased", "completed"]


async def test_stopping_hands_running_jobs_back_unspent(
    project: Project, registry: Registry, ada: UserQueue, worker: Worker
) -> None:
    """A deployment must not cost attempts."""
    started = asyncio.Event()

    @registry.processor("work", payload=Nothing)
    async def work(job: Job[Nothing], ctx: JobContext) -> None:
        started.set()
        await asyncio.sleep(60)

    await worker.register()
    batch = await ada.enqueue_many(ACME, [NewJob(job_type="work")] * 7)
    loop = asyncio.create_task(worker.run_forever(asyncio.Event()))
    await asyncio.wait_for(started.wait(), 60)

    worker.stop()
    await asyncio.wait_for(loop, 60)

    jobs = [await ada.get_job(entry.job.id) for entry in batch.jobs]
    assert {(job.status, job.attempts) for job in jobs} == {("pending", 0)}


async def test_a_job_that_a_deploy_stops_continues_in_the_new_code(
    project: Project, registry: Registry, ada: UserQueue
) -> None:
    """Steps that the old code recorded keep its results; a step it did not have runs."""
    charged, after = asyncio.Event(), Registry()

    async def made_by(code: str) -> str:
        return code

    @registry.processor("work", payload=Nothing)
    async def old(job: Job[Nothing], ctx: JobContext) -> None:
        await ctx.step("charge", partial(made_by, "old"))
        charged.set()
        await asyncio.sleep(60)

    @after.processor("work", payload=Nothing)
    async def new(job: Job[Nothing], ctx: JobContext) -> list[str]:
        made = partial(made_by, "new")
        return [await ctx.step(name, made) for name in ("audit", "charge", "ship")]

    async def deployed(commit: str, code: Registry) -> tuple[Worker, asyncio.Task[None]]:
        worker = Worker(project.settings.model_copy(update={"commit": commit}), registry=code)
        await worker.register()
        loop = worker.run_forever(asyncio.Event(), poll_seconds=0.1)
        return worker, asyncio.create_task(loop)

    async def ended() -> bool:
        return (await ada.get_job(job_id)).status == "completed"

    before, running = await deployed("a" * 40, registry)
    job_id = (await ada.enqueue(ACME, "work")).job.id
    await asyncio.wait_for(charged.wait(), 60)
    before.stop()
    await asyncio.wait_for(running, 60)
    next_one, running = await deployed("b" * 40, after)
    await until(ended)
    next_one.stop()
    await asyncio.wait_for(running, 60)
    for worker in (before, next_one):
        await worker.aclose()

    assert (await ada.get_job(job_id)).result == ["new", "old", "new"]
    assert (await ada.get_job(job_id)).attempts == 1


async def test_overlapping_ticks_share_the_work(
    project: Project, registry: Registry, ada: UserQueue, worker: Worker
) -> None:
    """A schedule that fires twice, or a wake-up beside it, is harmless."""
    ran: list[str] = []

    @registry.processor("noop", payload=Nothing)
    async def noop(job: Job[Nothing], ctx: JobContext) -> None:
        ran.append(job.id)
        await asyncio.sleep(0.01)

    await worker.register()
    await ada.enqueue_many(ACME, [NewJob(job_type="noop")] * 40)
    other = Worker(project.settings, registry=registry, options=TickOptions(linger_seconds=0))

    summaries = await asyncio.gather(
        worker.tick(budget_seconds=120),
        worker.tick(budget_seconds=120),
        other.tick(budget_seconds=120),
    )
    await other.aclose()

    assert sum(summary.completed for summary in summaries) == 40
    assert len(ran) == len(set(ran)) == 40


async def test_a_loop_under_steady_load_still_does_its_maintenance(
    project: Project,
    registry: Registry,
    ada: UserQueue,
    worker: Worker,
    run_loop: StartLoop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database does them at a tick's first call, and this tick never ends."""
    monkeypatch.setattr(LeaseRequests, "LEASE_ID_SECONDS", 0.3)
    release = asyncio.Event()

    @registry.processor("long", payload=Nothing)
    async def long(job: Job[Nothing], ctx: JobContext) -> None:
        await release.wait()

    await worker.register()
    await ada.enqueue(ACME, "long")
    run_loop(poll_seconds=0.2)

    async def several_ids() -> bool:
        [row] = project.rows("select count(*) as n from queue.ticks where last_call > 0")
        return int(row["n"]) >= 3

    await until(several_ids)
    assert project.rows("select fence from queue.leases") == [{"fence": 1}]
    release.set()
