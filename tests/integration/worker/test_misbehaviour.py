"""Processors that behave badly: none takes the others down, and each is named in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from typing import Any

import pytest

from minutehand.queue import EnqueueOptions, NewJob, UserQueue
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from tests.support.payloads import Nothing, Number
from tests.support.project import ACME, Gateway, Project
from tests.support.virtual_time import LeapingClock


@pytest.fixture(autouse=True)
def _all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def events_of(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    return {getattr(record, "event", ""): record for record in caplog.records}


async def test_a_blocked_loop_is_noticed_and_its_culprit_named(
    registry: Registry,
    worker: Worker,
    ada: UserQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @registry.processor("blocker", payload=Nothing)
    async def blocker(job: Job[Nothing], ctx: JobContext) -> None:
        give_up = time.monotonic() + 60
        while "loop.blocked" not in events_of(caplog) and time.monotonic() < give_up:
            time.sleep(0.05)  # noqa: ASYNC251 - the very mistake

    @registry.processor("innocent", payload=Nothing)
    async def innocent(job: Job[Nothing], ctx: JobContext) -> None:
        await asyncio.sleep(0.1)

    await worker.register()
    await ada.enqueue_many(ACME, [NewJob(job_type="innocent"), NewJob(job_type="blocker")])

    summary = await worker.tick(budget_seconds=120)

    assert summary.completed == 2
    told: list[Any] = [
        each for each in caplog.records if getattr(each, "event", "") == "loop.blocked"
    ]
    # a machine that stands still for a moment blocks it as well
    blocked = next(each for each in told if each.job_type == "blocker")
    assert any("blocker" in line for line in blocked.at)


async def test_a_result_that_comes_after_its_timeout_is_refused(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A blocked loop cannot stop it in time; on Lambda no one else could."""

    @registry.processor("blocker", payload=Nothing, timeout=1)
    async def blocker(job: Job[Nothing], ctx: JobContext) -> dict[str, bool]:
        time.sleep(1.7)  # noqa: ASYNC251 - the very mistake
        return {"late": True}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "blocker")).job.id

    summary = await worker.tick(budget_seconds=60)

    job = await ada.get_job(job_id)
    assert (summary.completed, summary.retried, job.status, job.result) == (0, 1, "pending", None)
    assert re.fullmatch(
        r"the attempt ran past 1 s: it blocked its worker for [1-9]\d* s "
        r"at tests/integration/worker/test_misbehaviour\.py:\d+",
        job.error_message or "",
    ), job.error_message


async def test_leases_are_renewed_while_the_loop_is_blocked(
    project: Project,
    registry: Registry,
    worker: Worker,
    ada: UserQueue,
) -> None:
    """Else one blocking processor would make every job of the worker run twice."""

    @registry.processor("blocker", payload=Nothing, lease=8)
    async def blocker(job: Job[Nothing], ctx: JobContext) -> None:
        blocked.set()
        time.sleep(14)  # noqa: ASYNC251 - the very mistake

    await worker.register()
    job_id = (await ada.enqueue(ACME, "blocker")).job.id
    reclaimed: list[int] = []
    blocked = threading.Event()

    def tick_elsewhere() -> None:
        async def ticks() -> None:
            other = Worker(
                project.settings, registry=registry, options=TickOptions(linger_seconds=0)
            )
            for _ in range(24):
                reclaimed.append((await other.tick(budget_seconds=60)).reclaimed)
                await asyncio.sleep(0.5)
            await other.aclose()

        if blocked.wait(60):
            asyncio.run(ticks())

    elsewhere = threading.Thread(target=tick_elsewhere)
    elsewhere.start()
    options = TickOptions(linger_seconds=0, renew_outside_seconds=0.5)
    summary = await worker.tick(budget_seconds=120, options=options)
    await asyncio.to_thread(elsewhere.join)

    assert (sum(reclaimed), summary.completed) == (0, 1)
    assert project.row(job_id)["attempts"] == 1


async def test_tasks_left_behind_end_with_their_attempt(
    registry: Registry,
    worker: Worker,
    ada: UserQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a processor starts may not go on under nobody's lease."""
    forgotten: list[asyncio.Task[None]] = []

    @registry.processor("litter", payload=Nothing)
    async def litter(job: Job[Nothing], ctx: JobContext) -> None:
        async def for_ever() -> None:
            await asyncio.sleep(3600)

        forgotten.append(asyncio.create_task(for_ever(), name="forgotten"))

    await worker.register()
    await ada.enqueue(ACME, "litter")

    summary = await worker.tick(budget_seconds=120)

    assert summary.completed == 1
    assert forgotten[0].cancelled()
    left: Any = events_of(caplog)["attempt.tasks_left"]
    assert (left.job_type, left.tasks) == ("litter", ["forgotten"])


async def test_exiting_in_a_task_ends_only_its_own_attempt(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Asyncio would let SystemExit stop the loop, and every other job with it."""

    @registry.processor("quitter", payload=Nothing)
    async def quitter(job: Job[Nothing], ctx: JobContext) -> None:
        async def leave() -> None:
            raise SystemExit(1)

        await asyncio.create_task(leave())

    @registry.processor("innocent", payload=Nothing)
    async def innocent(job: Job[Nothing], ctx: JobContext) -> None:
        await asyncio.sleep(0.2)

    await worker.register()
    batch = await ada.enqueue_many(ACME, [NewJob(job_type="innocent"), NewJob(job_type="quitter")])

    summary = await worker.tick(budget_seconds=120)

    assert (summary.completed, summary.retried) == (1, 1)
    quitter_job = await ada.get_job(batch.jobs[1].job.id)
    assert quitter_job.error_data["type"].endswith("ProcessorExit")


async def test_a_plain_function_runs_in_a_thread_with_the_same_context(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    loop_thread = threading.get_ident()

    @registry.processor("plain", payload=Number)
    def plain(job: Job[Number], ctx: JobContext) -> dict[str, Any]:
        async def add() -> int:
            return job.payload.number + 1

        ctx.progress(50)
        ctx.log("info", "from a thread")
        total = ctx.wait(ctx.step("add", add))
        return {"total": total, "elsewhere": threading.get_ident() != loop_thread}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "plain", {"number": 1})).job.id

    await worker.tick(budget_seconds=120)

    job = await ada.get_job(job_id)
    assert job.result == {"total": 2, "elsewhere": True}
    assert [line.message for line in (await ada.logs(job_id)).logs] == ["from a thread"]


async def test_a_plain_function_may_wait_durably_too(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    @registry.processor("plain", payload=Nothing)
    def plain(job: Job[Nothing], ctx: JobContext) -> dict[str, Any]:
        return {"answer": ctx.wait(ctx.ask("Well?"))}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "plain")).job.id
    await worker.tick(budget_seconds=120)
    await ada.answer(job_id, 3)
    await worker.tick(budget_seconds=120)

    assert (await ada.get_job(job_id)).result == {"answer": 3}


async def test_a_plain_function_is_stopped_at_its_next_instruction(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Python cannot kill a thread, but it can raise inside it."""
    stopped = threading.Event()

    @registry.processor("spin", payload=Nothing, timeout=1)
    def spin(job: Job[Nothing], ctx: JobContext) -> None:
        try:
            while True:
                time.sleep(0.01)
        finally:
            stopped.set()

    await worker.register()
    job_id = (await ada.enqueue(ACME, "spin")).job.id

    summary = await worker.tick(
        budget_seconds=120, options=TickOptions(linger_seconds=0, grace_seconds=60)
    )

    assert stopped.is_set()
    assert summary.retried == 1
    assert (await ada.get_job(job_id)).error_data["type"] == "AttemptTimeout"


async def test_a_plain_function_blocked_in_a_wait_is_stopped_too(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """It sits in C code, but what it waits for is ours."""
    stopped = threading.Event()

    @registry.processor("blocked", payload=Nothing, timeout=1)
    def blocked(job: Job[Nothing], ctx: JobContext) -> None:
        async def for_ever() -> None:
            await asyncio.sleep(3600)

        try:
            ctx.wait(ctx.step("never", for_ever))
        finally:
            stopped.set()

    await worker.register()
    job_id = (await ada.enqueue(ACME, "blocked")).job.id

    await worker.tick(budget_seconds=120, options=TickOptions(linger_seconds=0, grace_seconds=60))

    assert stopped.is_set()
    assert (await ada.get_job(job_id)).error_data["type"] == "AttemptTimeout"


async def test_a_thread_that_cannot_be_stopped_does_not_keep_the_tick(
    registry: Registry,
    worker: Worker,
    ada: UserQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It goes on alone, without a lease, and the log says so."""
    release = threading.Event()

    @registry.processor("deaf", payload=Nothing, timeout=1)
    def deaf(job: Job[Nothing], ctx: JobContext) -> None:
        release.wait(20)  # one long call into C

    await worker.register()
    await ada.enqueue(ACME, "deaf")

    summary = await worker.tick(budget_seconds=120)
    release.set()

    assert summary.retried == 1
    given_up: Any = events_of(caplog)["attempt.abandoned"]
    assert (given_up.job_type, given_up.stop_reason) == ("deaf", "timeout")


async def test_a_flood_of_log_lines_is_bounded(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    @registry.processor("chatter", payload=Nothing)
    async def chatter(job: Job[Nothing], ctx: JobContext) -> None:
        for number in range(10_000):
            ctx.log("debug", f"line {number}")

    await worker.register()
    job_id = (await ada.enqueue(ACME, "chatter")).job.id

    summary = await worker.tick(budget_seconds=120)

    assert summary.completed == 1
    [count] = project.rows("select count(*) as n from public.job_logs where job_id = %s", job_id)
    assert 1 <= count["n"] <= 2_001
    [last] = project.rows(
        "select message from public.job_logs where job_id = %s order by id desc limit 1", job_id
    )
    assert "dropped" in last["message"]


async def test_a_key_concurrency_of_one_holds(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """The database refuses what would overlap, whatever slots are free."""
    running: dict[str, int] = {}
    most = 0

    @registry.processor("serial", payload=Nothing, key_concurrency=1)
    async def serial(job: Job[Nothing], ctx: JobContext) -> None:
        nonlocal most
        running["now"] = running.get("now", 0) + 1
        most = max(most, running["now"])
        await asyncio.sleep(0.02)
        running["now"] -= 1

    await worker.register()
    same = EnqueueOptions(concurrency_key="one")
    await ada.enqueue_many(ACME, [NewJob(job_type="serial", options=same)] * 4)

    summary = await worker.tick(budget_seconds=120)

    assert (summary.completed, most) == (4, 1)


async def test_memory_that_grows_is_blamed_on_who_runs(
    registry: Registry,
    worker: Worker,
    ada: UserQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next thing Lambda does is to kill the environment, without saying whose fault it was."""

    @registry.processor("hoarder", payload=Nothing)
    async def hoarder(job: Job[Nothing], ctx: JobContext) -> int:
        hoard = bytearray(160 * 1024 * 1024)
        hoard[::4096] = b"x" * len(hoard[::4096])
        async with asyncio.timeout(60):
            while "memory.grew" not in events_of(caplog):  # noqa: ASYNC110 - a thread looks
                await asyncio.sleep(0.05)
        return len(hoard)

    await worker.register()
    await ada.enqueue(ACME, "hoarder")

    await worker.tick(budget_seconds=120)

    grew: Any = events_of(caplog)["memory.grew"]
    assert grew.grown_mb >= 100
    assert [entry["job_type"] for entry in grew.jobs] == ["hoarder"]


async def test_a_lease_lost_while_an_attempt_is_being_stopped_is_not_settled(
    project: Project,
    registry: Registry,
    ada: UserQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever stopped it first: what happens to the job is another worker's to say."""
    heard_lost = asyncio.Event()
    worker = Worker(
        project.settings,
        registry=registry,
        options=TickOptions(concurrency=1, linger_seconds=0, grace_seconds=60),
    )

    @registry.processor("stubborn", payload=Nothing, timeout=0.3, max_attempts=1)
    async def stubborn(job: Job[Nothing], ctx: JobContext) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            # in one transaction: a renewal in between would rescue it
            project.run_sql("""
                update queue.leases set expires_at = now() - interval '1 second';
                select public.run_maintenance();
            """)
            while not heard_lost.is_set():
                await ctx.progress(1, "cleaning up")
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.05)
                if "attempt.lost" in events_of(caplog):
                    heard_lost.set()
            raise

    await worker.register()
    job_id = (await ada.enqueue(ACME, "stubborn")).job.id

    await worker.tick(budget_seconds=120)
    await worker.aclose()

    assert heard_lost.is_set()
    assert "attempt.settled" not in events_of(caplog)
    assert project.row(job_id)["status"] == "failed"


async def test_a_worker_that_stood_still_tries_to_renew_before_it_gives_up(
    project: Project,
    registry: Registry,
    worker: Worker,
    clock: LeapingClock,
    ada: UserQueue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a SIGSTOP, or a laptop's sleep, no one may have taken the job yet."""

    @registry.processor("sleeper", payload=Nothing, lease=30)
    async def sleeper(job: Job[Nothing], ctx: JobContext) -> str:
        clock.ahead = 40
        for percentage in range(3):
            await ctx.progress(percentage, "awake again")
        return "done"

    await worker.register()
    job_id = (await ada.enqueue(ACME, "sleeper")).job.id

    summary = await worker.tick(budget_seconds=3600)

    assert (summary.completed, summary.lost) == (1, 0)
    assert "attempt.lost" not in events_of(caplog)
    assert project.row(job_id)["status"] == "completed"


async def test_a_stopping_worker_does_not_wait_for_a_database_that_is_unavailable(
    project: Project, gateway: Gateway, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """The host kills it soon anyway; its jobs run again when their leases expire."""
    started = asyncio.Event()

    @registry.processor("work", payload=Nothing)
    async def work(job: Job[Nothing], ctx: JobContext) -> None:
        started.set()
        await asyncio.sleep(3600)

    await worker.register()
    await ada.enqueue(ACME, "work")
    loop = asyncio.create_task(worker.run_forever(asyncio.Event()))
    await asyncio.wait_for(started.wait(), 60)

    gateway.stop()
    worker.stop()

    await asyncio.wait_for(loop, 120)  # without an end it would try for ever
