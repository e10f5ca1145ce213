"""Steps, waits and children: what a processor may leave behind and find again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from minutehand.clock import ShiftedClock, SystemClock
from minutehand.queue import EnqueueOptions, NewJob, UserQueue
from minutehand.worker import (
    ChildrenFailed,
    Fail,
    Job,
    JobContext,
    Registry,
    Retry,
    TickOptions,
    Worker,
)
from tests.support.payloads import Nothing, Number, nothing
from tests.support.project import ACME, Project
from tests.support.virtual_time import LeapingClock


async def test_a_finished_step_is_not_run_again(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A retry resumes after the last finished step: no card is charged twice."""
    ran: list[str] = []

    async def charge() -> dict[str, int]:
        ran.append("charge")
        return {"receipt": 7}

    async def mail() -> str:
        ran.append("mail")
        if len(ran) < 3:
            raise ConnectionError("mail server is unavailable")
        return "sent"

    @registry.processor("order", payload=Nothing)
    async def order(job: Job[Nothing], ctx: JobContext) -> Any:
        receipt = await ctx.step("charge", charge)
        try:
            sent = await ctx.step("mail", mail)
        except ConnectionError as error:
            return Retry(str(error), after=0)
        return {"receipt": receipt["receipt"], "sent": sent}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "order")).job.id

    await worker.tick(budget_seconds=120)
    await worker.tick(budget_seconds=120)

    job = await ada.get_job(job_id)
    assert (job.status, job.result) == ("completed", {"receipt": 7, "sent": "sent"})
    assert ran == ["charge", "mail", "mail"]
    assert [step.name for step in (await ada.steps(job_id)).steps] == ["charge", "mail"]


async def test_a_step_is_stored_before_the_next_one_begins(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A crash right after a step must not repeat it."""
    stored: list[int] = []

    async def first() -> int:
        return 1

    @registry.processor("steps", payload=Nothing)
    async def steps(job: Job[Nothing], ctx: JobContext) -> None:
        await ctx.step("first", first)
        stored.append(len(project.rows("select * from queue.steps where job_id = %s", job.id)))

    await worker.register()
    await ada.enqueue(ACME, "steps")

    await worker.tick(budget_seconds=120)

    assert stored == [1]


async def test_equal_step_names_are_distinguished_by_their_order(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A loop may use one name for all its rounds."""
    rounds: list[int] = []

    @registry.processor("loop", payload=Nothing)
    async def loop(job: Job[Nothing], ctx: JobContext) -> Any:
        results = []
        for number in range(3):

            async def once(number: int = number) -> int:
                rounds.append(number)
                return number * 10

            results.append(await ctx.step("round", once))
        if job.attempt == 1:
            return Retry(after=0)
        return {"results": results}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "loop")).job.id
    await worker.tick(budget_seconds=120)
    await worker.tick(budget_seconds=120)

    assert (await ada.get_job(job_id)).result == {"results": [0, 10, 20]}
    assert rounds == [0, 1, 2]


async def test_a_question_holds_no_worker_and_its_answer_comes_back(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A person may take days; the attempt is not spent meanwhile."""

    @registry.processor("order", payload=Nothing)
    async def order(job: Job[Nothing], ctx: JobContext) -> Any:
        size = await ctx.ask("Which size?", ["S", "L"])
        return {"size": size, "attempt": job.attempt}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "order")).job.id

    first = await worker.tick(budget_seconds=120)
    assert (first.waiting, (await ada.get_job(job_id)).status) == (1, "waiting")
    await ada.answer(job_id, "L")
    await worker.tick(budget_seconds=120)

    job = await ada.get_job(job_id)
    assert (job.status, job.result) == ("completed", {"size": "L", "attempt": 1})
    events = project.event_types(job_id)
    assert events == ["created", "leased", "waiting", "resumed", "leased", "completed"]


async def test_an_unanswered_question_ends_with_its_default(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    @registry.processor("order", payload=Nothing)
    async def order(job: Job[Nothing], ctx: JobContext) -> Any:
        return {"size": await ctx.ask("Which size?", timeout=0.3, default="M")}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "order")).job.id

    summary = await worker.tick(budget_seconds=120, options=TickOptions(linger_seconds=5))

    assert (summary.waiting, summary.completed) == (1, 1)
    assert (await ada.get_job(job_id)).result == {"size": "M"}


async def test_sleep_gives_the_worker_back(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    @registry.processor("nap", payload=Nothing)
    async def nap(job: Job[Nothing], ctx: JobContext) -> str:
        await ctx.sleep(0.3)
        await ctx.sleep(0.3)
        return "rested"

    await worker.register()
    job_id = (await ada.enqueue(ACME, "nap")).job.id

    summary = await worker.tick(budget_seconds=120, options=TickOptions(linger_seconds=5))

    assert (summary.leased, summary.waiting, summary.completed) == (3, 2, 1)
    assert (await ada.get_job(job_id)).attempts == 1


async def test_an_event_ends_the_wait_for_it(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    @registry.processor("ship", payload=Nothing)
    async def ship(job: Job[Nothing], ctx: JobContext) -> Any:
        paid = await ctx.wait_for_event("paid:42")
        late = await ctx.wait_for_event("never", timeout=0.2, default="gave up")
        return {"paid": paid, "late": late}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "ship")).job.id
    await worker.tick(budget_seconds=120)
    assert (await ada.get_job(job_id)).status == "waiting"

    await ada.emit_event(ACME, "paid:42", {"amount": 12})
    await worker.tick(budget_seconds=120, options=TickOptions(linger_seconds=5))

    assert (await ada.get_job(job_id)).result == {"paid": {"amount": 12}, "late": "gave up"}


async def test_map_runs_one_child_per_item_and_keeps_their_order(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Each item retries by itself; the parent holds no slot meanwhile."""

    @registry.processor("square", payload=Number)
    async def square(job: Job[Number], ctx: JobContext) -> Any:
        if job.attempt == 1 and job.payload.number == 2:
            return Retry("once more", after=0)
        await asyncio.sleep(0.01 * (5 - job.payload.number))
        return job.payload.number**2

    @registry.processor("sum", payload=Nothing)
    async def total(job: Job[Nothing], ctx: JobContext) -> Any:
        squares = await ctx.map([{"number": n} for n in range(5)], "square")
        return {"squares": squares}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "sum")).job.id

    summary = await worker.tick(budget_seconds=120)

    assert (await ada.get_job(job_id)).result == {"squares": [0, 1, 4, 9, 16]}
    assert (summary.completed, summary.waiting, summary.retried) == (6, 1, 1)
    assert len(project.rows("select * from public.jobs where parent_id = %s", job_id)) == 5


@pytest.mark.parametrize(
    ("policy", "expected"), [("return", [0, None, 2]), ("skip", [0, 2]), ("raise", None)]
)
async def test_children_that_become_dead_letters_follow_the_policy(
    registry: Registry, worker: Worker, ada: UserQueue, policy: Any, expected: Any
) -> None:
    @registry.processor("child", payload=Number)
    async def child(job: Job[Number], ctx: JobContext) -> Any:
        return Fail("odd one") if job.payload.number == 1 else job.payload.number

    @registry.processor("parent", payload=Nothing)
    async def parent(job: Job[Nothing], ctx: JobContext) -> Any:
        results = await ctx.map([{"number": n} for n in range(3)], "child", on_failed=policy)
        return {"results": results}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "parent")).job.id

    await worker.tick(budget_seconds=120)

    job = await ada.get_job(job_id)
    if expected is None:
        assert job.status == "failed"
        assert job.error_data["type"].endswith(ChildrenFailed.__name__)
    else:
        assert job.result == {"results": expected}


async def test_a_wait_inside_a_task_group_still_suspends(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Asyncio wraps what a group's task raises; the wait must be found in there."""

    @registry.processor("grouped", payload=Nothing)
    async def grouped(job: Job[Nothing], ctx: JobContext) -> Any:
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(ctx.ask("Well?"))
        return {"answer": answer.result()}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "grouped")).job.id
    await worker.tick(budget_seconds=120)
    await ada.answer(job_id, "yes")
    await worker.tick(budget_seconds=120)

    assert (await ada.get_job(job_id)).result == {"answer": "yes"}


async def test_spawning_twice_makes_the_same_children(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A parent that is retried must not double its family."""
    registry.processor("child", payload=Nothing)(nothing)

    @registry.processor("parent", payload=Nothing)
    async def parent(job: Job[Nothing], ctx: JobContext) -> Any:
        ids = await ctx.spawn([NewJob(job_type="child")] * 3)
        return Retry(after=0) if job.attempt == 1 else {"ids": ids}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "parent")).job.id
    await worker.tick(budget_seconds=120)
    await worker.tick(budget_seconds=120)

    children = project.rows("select id from public.jobs where parent_id = %s", job_id)
    assert {str(row["id"]) for row in children} == set((await ada.get_job(job_id)).result["ids"])


async def test_a_job_cut_by_the_deadline_continues_where_its_steps_ended(
    registry: Registry, worker: Worker, ada: UserQueue, clock: LeapingClock
) -> None:
    """Progress made in steps spends no attempt, however often the tick ends first."""
    begun: list[int] = []
    done: list[int] = []

    @registry.processor("long", payload=Nothing, lease=600)
    async def long(job: Job[Nothing], ctx: JobContext) -> Any:
        for number in range(3):

            async def work(number: int = number) -> int:
                begun.append(number)
                if number > 0 and begun.count(number) == 1:
                    clock.ahead += ctx.remaining
                    await asyncio.sleep(600)  # each tick finishes one step and is cut in the next
                done.append(number)
                return number

            await ctx.step(f"part {number}", work)
        return {"attempt": job.attempt}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "long")).job.id
    while (await ada.get_job(job_id)).status != "completed":
        await worker.tick(budget_seconds=120)

    assert (await ada.get_job(job_id)).result == {"attempt": 1}
    assert (begun, done) == ([0, 1, 1, 2, 2], [0, 1, 2])


@pytest.mark.parametrize("hours", [-3, 3])
async def test_a_worker_whose_clock_is_wrong_does_no_harm(
    project: Project, registry: Registry, ada: UserQueue, hours: int
) -> None:
    """Leases and waits follow the database's clock; the worker's may say what it likes."""

    @registry.processor("nap", payload=Nothing)
    async def nap(job: Job[Nothing], ctx: JobContext) -> str:
        await ctx.sleep(0.4)
        return str(await ctx.ask("Well?", timeout=0.4, default="nobody"))

    wrong = ShiftedClock(SystemClock(), timedelta(hours=hours))
    worker = Worker(
        project.settings,
        registry=registry,
        clock=wrong,
        options=TickOptions(linger_seconds=10),
    )
    await worker.register()
    later = datetime.now(UTC) + timedelta(minutes=5)
    job_id = (await ada.enqueue(ACME, "nap", options=EnqueueOptions(deadline_at=later))).job.id

    await worker.tick(budget_seconds=120)
    await worker.aclose()

    job = await ada.get_job(job_id)
    assert (job.status, job.result, job.attempts) == ("completed", "nobody", 1)
