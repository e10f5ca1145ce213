"""Who is woken by an enqueue, and who is not because a running tick will see to it."""

from __future__ import annotations

import asyncio
import time

from minutehand.queue import NewJob, UserQueue
from minutehand.worker import FanOut, Job, JobContext, Registry, TickOptions, Worker
from tests.support.functions import open_turn, until_waiting
from tests.support.killable import until
from tests.support.payloads import Nothing, nothing
from tests.support.project import ACME, Project


async def until_it_has_room(project: Project) -> None:
    """Wait until the only tick has said so."""
    await until(lambda: project.rows("select from queue.ticks where free_slots > 0"))


async def test_a_tick_with_room_makes_waking_another_needless(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """On Lambda the job is found by that tick's poll, and no invocation is paid for."""
    started, short_ran, release = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @registry.processor("long", payload=Nothing)
    async def long(job: Job[Nothing], ctx: JobContext) -> None:
        started.set()
        await release.wait()

    @registry.processor("short", payload=Nothing)
    async def short(job: Job[Nothing], ctx: JobContext) -> None:
        short_ran.set()

    await worker.register()
    await ada.enqueue(ACME, "long")
    options = TickOptions(concurrency=3, linger_seconds=0, poll_seconds=0.1)
    tick = asyncio.create_task(worker.tick(budget_seconds=120, options=options))
    await asyncio.wait_for(started.wait(), 60)
    await until_it_has_room(project)
    # callers count on what it said for two seconds, which may pass before the next line
    project.run_sql("update queue.ticks set seen_at = queue.clock() + interval '1 minute'")

    enqueued = await ada.enqueue(ACME, "short")

    assert enqueued.wake is False
    await asyncio.wait_for(short_ran.wait(), 60)
    release.set()
    await tick


async def test_a_tick_that_has_left_makes_no_one_wait(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Its room went with it: the very next enqueue wakes a worker."""
    registry.processor("short", payload=Nothing)(nothing)
    await worker.register()
    await ada.enqueue(ACME, "short")
    await worker.tick(budget_seconds=120)

    assert (await ada.enqueue(ACME, "short")).wake is True


async def test_a_job_enqueued_as_a_tick_leaves_is_not_left_behind(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """It saw the tick's room, which was gone before it was committed: it wakes nobody."""
    started, release = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    @registry.processor("long", payload=Nothing)
    async def long(job: Job[Nothing], ctx: JobContext) -> None:
        started.set()
        await release.wait()

    @registry.processor("short", payload=Nothing)
    async def short(job: Job[Nothing], ctx: JobContext) -> None:
        ran.append(job.id)

    await worker.register()
    await ada.enqueue(ACME, "long")
    await ada.enqueue(ACME, "short")
    options = TickOptions(concurrency=3, linger_seconds=0, poll_seconds=900)
    tick = asyncio.create_task(worker.tick(budget_seconds=3600, options=options))
    await asyncio.wait_for(started.wait(), 60)
    await until_it_has_room(project)  # by the settlement of the short one
    # callers count on what it said for two seconds, which may pass before the next line
    project.run_sql("update queue.ticks set seen_at = queue.clock() + interval '1 minute'")
    open_turn(project.run_sql, ACME, "short")
    with project.database.connect() as late, project.database.connect() as holder:
        late.execute("begin")
        [enqueued] = late.execute(
            "select public.enqueue_job(%s, 'short') -> 'wake'", (ACME,)
        ).fetchone() or [None]
        assert enqueued is False
        # the last settlement's lease reads it when it has chosen
        holder.execute("begin")
        holder.execute("lock table queue.waits in access exclusive mode")
        release.set()
        await asyncio.to_thread(until_waiting, project.database)
        late.execute("commit")
        holder.execute("commit")
    summary = await tick

    assert (summary.completed, len(ran)) == (3, 2)


async def test_a_storm_of_enqueues_wakes_once(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A thousand enqueues in a second must not become a thousand invocations."""
    registry.processor("short", payload=Nothing)(lambda job, ctx: None)
    await worker.register()

    began = time.monotonic()
    wakes = [(await ada.enqueue(ACME, "short")).wake for _ in range(40)]
    seconds = time.monotonic() - began

    assert wakes[0] is True
    assert sum(wakes) <= 1 + seconds / 2  # nobody answers: once every two seconds


async def test_a_backlog_starts_extra_workers_once_and_an_extra_worker_none(
    project: Project, registry: Registry, ada: UserQueue
) -> None:
    """Depth one: what was started by a tick starts nobody, whatever it finds."""
    started: list[int] = []

    @registry.processor("work", payload=Nothing)
    async def work(job: Job[Nothing], ctx: JobContext) -> None:
        await asyncio.sleep(0.01)

    async def start(count: int) -> int:
        started.append(count)
        return count - 1  # one is refused, as a 429 would

    worker = Worker(
        project.settings,
        registry=registry,
        options=TickOptions(concurrency=2, linger_seconds=0),
        fan_out=FanOut(most=4),
        start_extra_workers=start,
    )
    await worker.register()
    await ada.enqueue_many(ACME, [NewJob(job_type="work")] * 60)

    extra_worker = await worker.tick(budget_seconds=60, fan_out=False)
    assert (started, extra_worker.extra_workers) == ([], 0)

    await ada.enqueue_many(ACME, [NewJob(job_type="work")] * 60)
    summary = await worker.tick(budget_seconds=60)
    await worker.aclose()

    assert started == [4]
    assert (summary.extra_workers, summary.completed) == (3, 60)
