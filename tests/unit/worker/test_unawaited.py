"""A job fails if its processor calls a method of `ctx` and never awaits it."""

import asyncio
import inspect
from contextlib import suppress
from typing import Any
from unittest.mock import AsyncMock

import pytest

from minutehand.worker import Call, Job, JobContext, NewJob, Registry, Stage, TickOptions
from minutehand.worker.testing import ProcessorTest
from minutehand.worker.unawaited import PRUNE_AFTER
from tests.support.queue_model import ModelQueue, Row


async def nothing(*given: Any) -> None:
    """Do nothing, as a step's function."""


#: Each coroutine method of `ctx`, with valid arguments.
CALLS: dict[str, tuple[Any, ...]] = {
    "step": ("s", nothing),
    "graph": ([Stage(name="s", run=nothing)],),
    "remote": ("weather", []),
    "sleep": (30,),
    "ask": ("Which?",),
    "wait_for_event": ("paid",),
    "spawn": ([NewJob(job_type="child", payload={})],),
    "gather": ([],),
    "map": ([], "child"),
}


def made(ctx: JobContext, name: str) -> Any:
    """Call a method of `ctx`, and return the coroutine without awaiting it."""
    return getattr(ctx, name)(*CALLS[name], **({"within": 60} if name == "remote" else {}))


def test_each_method_that_is_awaited_is_among_these() -> None:
    methods = {name: inspect.unwrap(each) for name, each in vars(JobContext).items()}
    named = {name for name, each in methods.items() if inspect.iscoroutinefunction(each)}
    assert {name for name in named if name[0] != "_"} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("ends", ["plainly", "async", "in a task", "by a wait"])
async def test_a_call_that_is_never_awaited_fails_the_attempt(name: str, ends: str) -> None:
    """A method of `ctx` that is never awaited fails the job. The error shows the correct code."""

    def plainly(job: Job[Any], ctx: JobContext) -> str:
        made(ctx, name)
        return "done"

    async def run(job: Job[Any], ctx: JobContext) -> str:
        call = made(ctx, name)
        if ends == "in a task":
            asyncio.create_task(call).cancel()
        if ends == "by a wait":
            await ctx.sleep(3600, name="long")
        return "done"

    response = await ProcessorTest(plainly if ends == "plainly" else run, {}).run()

    assert response.outcome == "failed"
    assert f"ctx.{name}(…) was never awaited" in str(response.error)
    assert f"write `await ctx.{name}(…)`, in an `async def`" in str(response.error)


async def test_a_wait_that_the_processor_catches_fails_the_attempt() -> None:
    """The job would otherwise complete without its wait."""

    async def run(job: Job[Any], ctx: JobContext) -> str:
        with suppress(BaseException):
            await ctx.sleep(3600)
        return "done"

    response = await ProcessorTest(run, {}).run()

    assert (response.outcome, "caught" in str(response.error)) == ("failed", True)


async def test_a_middleware_that_does_not_await_the_call_fails_the_attempt() -> None:
    """Middleware that does not await its call fails the job, because the job would not have run."""

    async def forgets(job: Job[Any], ctx: JobContext, call: Call) -> None:
        call()

    async def forgets_steps(name: str, call: Any) -> None:
        call()

    async def steps(job: Job[Any], ctx: JobContext) -> None:
        ctx.around_steps.append(forgets_steps)
        await ctx.step("pay", nothing)

    for run, around in ((nothing, [forgets]), (steps, [])):
        response = await ProcessorTest(run, {}, around=around).run()
        assert response.outcome == "failed"
        assert "await call(…)" in str(response.error)


async def test_what_is_awaited_in_any_way_is_no_fault() -> None:
    async def run(job: Job[Any], ctx: JobContext) -> list[Any]:
        """Make more calls at once than `ctx` stores before it removes ended calls."""
        for number in range(PRUNE_AFTER):
            await ctx.step(f"one {number}", nothing)
        calls = [ctx.step(f"side {number}", nothing) for number in range(3 * PRUNE_AFTER)]
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(ctx.step("in a task", nothing))
            await asyncio.gather(*calls)
        return await ctx.spawn([])

    def disguised(job: Job[Any], ctx: JobContext) -> Any:
        return ctx.step("a plain one may return it", nothing)

    assert (await ProcessorTest(run, {}).run()).outcome == "completed"
    assert (await ProcessorTest(disguised, {}).run()).outcome == "completed"


async def test_a_call_under_way_at_the_end_is_said_in_the_jobs_log() -> None:
    """A call of `ctx` that is still running when the processor returns is logged."""
    kept: list[asyncio.Task[Any]] = []

    async def run(job: Job[Any], ctx: JobContext) -> str:
        kept.append(asyncio.create_task(ctx.step("slow", lambda: asyncio.sleep(3600))))
        await asyncio.sleep(0)
        return "done"

    response = await ProcessorTest(run, {}).run()
    kept[0].cancel()

    assert (response.outcome, response.result) == ("completed", "done")
    assert response.messages == [
        "The processor ended before ctx.step(…) had ended; await each call"
    ]


async def test_a_mock_of_the_context_has_methods_to_await() -> None:
    """A mock of `ctx` has methods that can be awaited. People test processors with it."""
    ctx = AsyncMock(spec=JobContext)
    ctx.step.return_value = "r-1"

    assert await ctx.step("charge", nothing) == "r-1"


def plainly(job: Job[Any], ctx: JobContext) -> None:
    """Do not await a call of `ctx` in the second job."""
    if job.id == "two":
        ctx.spawn([])  # type: ignore[unused-coroutine]


async def in_batches(jobs: list[Any]) -> list[None]:
    for job in jobs:
        plainly(job, job.ctx)
    return [None] * len(jobs)


@pytest.mark.parametrize(("run", "options"), [(plainly, {}), (in_batches, {"batch": 2})])
async def test_a_worker_settles_it_as_a_failure(run: Any, options: dict[str, Any]) -> None:
    """A job in a thread or a batch fails if it does not await its own call.

    Other jobs do not fail.
    """
    registry = Registry()
    registry.processor("work", payload=dict, **options)(run)
    queue = ModelQueue([Row("one", {}), Row("two", {})])

    # Simulated time would not wait for the thread.
    worker = queue.worker(registry, options=TickOptions(linger_seconds=0))
    await worker.tick(budget_seconds=60)

    assert [row.status for row in queue.rows.values()] == ["completed", "failed"]


@pytest.mark.parametrize(
    ("run", "fix"),
    [(lambda: 5, "`lambda: asyncio.to_thread(pay, order)`"), (None, "`lambda: pay(order)`")],
    ids=["a plain function", "the call itself"],
)
async def test_a_step_of_what_cannot_be_awaited_says_what_to_write(run: Any, fix: str) -> None:
    """A step whose function is no coroutine function fails the job without a retry.

    The error shows what to write.
    """

    async def steps(job: Job[Any], ctx: JobContext) -> None:
        call: Any = nothing()
        try:
            await ctx.step("pay", run or call, tries=3)
        finally:
            call.close()

    response = await ProcessorTest(steps, {}).run()

    assert fix in str(response.error)
