"""What a processor can do, tested without a queue."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from minutehand.queue import NewJob
from minutehand.queue.errors import ProcessorError
from minutehand.worker import Backoff, ChildrenFailed, Fail, Job, JobContext, Retry
from minutehand.worker.context import MAX_MESSAGE, Updates
from minutehand.worker.testing import ProcessorTest


class Order(BaseModel):
    """A payload."""

    item: str = "x"


def checked(processor: Any, **fields: Any) -> ProcessorTest[Order]:
    return ProcessorTest(processor, Order(), **fields)


async def test_progress_is_clamped_and_may_be_awaited() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> None:
        ctx.progress(-5, "start")
        await ctx.progress(33.333333)
        ctx.progress(250, message="m")
        ctx.progress(stage="end")

    run = await checked(order).run()

    assert [(p.percentage, p.stage, p.message) for p in run.progress] == [
        (0.0, "start", None),
        (33.33, None, None),
        (100.0, None, "m"),
        (None, "end", None),
    ]


async def test_a_percentage_that_is_no_number_is_refused() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> None:
        ctx.progress(float("nan"))

    run = await checked(order).run()

    assert run.error is not None
    assert run.error.type == "ValueError"


async def test_a_log_line_never_fails_its_job() -> None:
    """Whatever decorates it is bent until JSON can hold it."""

    async def order(job: Job[Order], ctx: JobContext) -> None:
        ctx.log("WARN", "x" * 10_000, odd=object(), nul="a\x00b", half="\ud800", many={1, 2})
        ctx.log("critical", "a\x00b")

    run = await checked(order).run()

    assert run.outcome == "completed"
    first, second = run.logs
    assert (first.level, second.level) == ("warning", "error")
    assert (len(first.message), second.message) == (MAX_MESSAGE, "a\ufffdb")
    assert first.metadata["nul"] == "a\ufffdb"
    assert "object" in first.metadata["odd"]


async def test_an_unknown_level_is_a_mistake_worth_hearing_about() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> None:
        ctx.log("loud", "hey")

    run = await checked(order).run()

    assert isinstance(run.raised, ValueError)


async def test_a_step_gives_the_same_value_the_first_and_the_second_time() -> None:
    """Code that works on the first run must not break on the resumed one."""
    seen: list[Any] = []

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        async def measure() -> Any:
            return {"at": datetime(2026, 1, 1, tzinfo=UTC), "pair": (1, 2)}

        seen.append(await ctx.step("measure", measure))
        return Retry()

    test = checked(order)
    await test.run()
    await test.run()

    assert seen[0] == seen[1] == {"at": "2026-01-01T00:00:00Z", "pair": [1, 2]}


async def test_a_step_can_be_read_back_as_a_model() -> None:
    class Receipt(BaseModel):
        total: int

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        async def pay() -> Receipt:
            return Receipt(total=3)

        receipt = await ctx.step("pay", pay, returns=Receipt)
        return {"total": receipt.total, "kind": type(receipt).__name__}

    test = checked(order)
    first, second = await test.run(), await test.run()

    assert first.result == second.result == {"total": 3, "kind": "Receipt"}


@pytest.mark.parametrize("name", ["", "x" * 201])
async def test_a_step_name_is_bounded(name: str) -> None:
    async def order(job: Job[Order], ctx: JobContext) -> None:
        await ctx.step(name, nothing)

    async def nothing() -> None:
        return None

    run = await checked(order).run()

    assert isinstance(run.raised, ValueError)


async def test_waits_resume_in_order_whatever_they_are() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> Any:
        await ctx.sleep(3600)
        size = await ctx.ask("Size?", ["S", "L"], timeout=60, default="S")
        paid = await ctx.wait_for_event("paid")
        late = await ctx.wait_for_event("shipped", timeout=60, default="unknown")
        return [size, paid, late]

    test = checked(order)

    assert (await test.run()).wait == {
        "kind": "sleep",
        "name": "sleep",
        "until": "2026-01-01T01:00:00+00:00",
    }
    test.wake()
    asked = await test.run()
    assert asked.wait is not None
    assert (asked.wait["question"], asked.wait["options"]) == ("Size?", ["S", "L"])
    test.time_out()
    await test.run()
    test.event({"amount": 3})
    await test.run()
    test.time_out()

    assert (await test.run()).result == ["S", {"amount": 3}, "unknown"]
    assert test.attempt == 1


async def test_except_exception_does_not_swallow_a_wait() -> None:
    """It is a BaseException for exactly this."""

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        try:
            return await ctx.ask("Well?")
        except Exception:
            return "swallowed"

    assert (await checked(order).run()).outcome == "waiting"


async def test_map_spawns_once_and_returns_in_order() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> Any:
        return await ctx.map([{"n": 1}, {"n": 2}], "child")

    test = checked(order)
    run = await test.run()
    [spawned] = test.children.values()
    test.children_end([10, 20])

    assert run.outcome == "waiting"
    assert [child.payload for child in spawned] == [{"n": 1}, {"n": 2}]
    assert (await test.run()).result == [10, 20]
    assert len(test.children) == 1


async def test_a_failed_child_fails_its_parent_for_good() -> None:
    """The children had their own retries; repeating the parent would find them as failed."""

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        ids = await ctx.spawn([NewJob(job_type="child")] * 2)
        return [child.result for child in await ctx.gather(ids)]

    test = checked(order)
    await test.run()
    test.children_end([1, ValueError("odd")])
    run = await test.run()

    assert run.outcome == "failed"
    assert isinstance(run.raised, ChildrenFailed)
    assert "odd" in str(run.raised)


async def test_no_children_need_no_waiting() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> Any:
        return [await ctx.map([], "child"), await ctx.gather([])]

    assert (await checked(order).run()).result == [[], []]


async def test_a_thousand_children_are_spawned_in_bounded_calls() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> Any:
        return len(await ctx.spawn([NewJob(job_type="child")] * 1200))

    test = checked(order)

    assert (await test.run()).result == 1200
    assert [len(batch) for batch in test.children.values()] == [500, 500, 200]


async def test_a_plain_processor_runs_in_a_thread() -> None:
    def order(job: Job[Order], ctx: JobContext) -> Any:
        async def add() -> int:
            await asyncio.sleep(0)
            return 2

        return Fail("no") if ctx.cancelled else {"sum": ctx.wait(ctx.step("add", add))}

    assert (await checked(order).run()).result == {"sum": 2}
    assert (await checked(order, cancelled=True).run()).outcome == "failed"


def test_news_that_did_not_arrive_comes_before_what_came_since() -> None:
    """A lost report must neither lose a line nor turn the order around."""
    from minutehand.queue.models import LogLine, Progress

    updates = Updates()
    updates.add_log(LogLine(level="info", message="1"))
    updates.set_progress(Progress(percentage=1))
    taken = updates.take()
    updates.add_log(LogLine(level="info", message="2"))
    updates.set_progress(Progress(percentage=2))

    updates.restore(taken)

    again = updates.take()
    assert again.progress == Progress(percentage=2)
    assert [line.message for line in again.logs] == ["1", "2"]
    assert (taken.logs_from, again.logs_from, updates.take().logs_from) == (0, 0, None)
    assert not updates


async def test_a_step_is_tried_again_and_its_last_error_is_raised() -> None:
    """As often as it says in one attempt; what will not help is not repeated."""
    calls: list[str] = []

    async def flaky() -> int:
        calls.append("flaky")
        if len(calls) < 3:
            raise OSError("busy")
        return 7

    async def hopeless() -> int:
        calls.append("hopeless")
        raise ProcessorError("no such account", retryable=False)

    async def order(job: Job[Order], ctx: JobContext) -> int:
        quick = Backoff(first=0, cap=0)
        found = await ctx.step("fetch", flaky, tries=3, backoff=quick)
        await ctx.step("charge", hopeless, tries=3, backoff=quick)
        return found

    test = checked(order)
    run = await test.run()

    assert calls == ["flaky"] * 3 + ["hopeless"]
    assert test.steps == {"fetch": 7}
    assert run.messages == ["Step fetch: try 1 failed", "Step fetch: try 2 failed"]
    assert (run.outcome, run.error and run.error.message) == ("failed", "no such account")


async def test_a_try_of_a_step_has_a_timeout() -> None:
    """It is cancelled then; a timeout of its own is its own error."""
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    async def order(job: Job[Order], ctx: JobContext) -> None:
        await ctx.step("ask", slow, tries=2, timeout=0.01, backoff=Backoff(first=0, cap=0))

    run = await checked(order).run()

    assert ended == ["cancelled"] * 2
    assert run.error is not None
    assert run.error.message == "step ask took longer than 0.01 s"


@pytest.mark.parametrize(("asks", "remaining"), [(60.0, 300.0), (10.0, 5.0)])
async def test_a_long_wait_between_tries_gives_the_worker_back(
    asks: float, remaining: float
) -> None:
    """A service that asks for a minute, or for more than is left, is asked by the next attempt."""

    class Busy(Exception):
        retry_after = asks

    asked: list[str] = []

    async def busy() -> None:
        asked.append("once")
        raise Busy("come back later")

    async def order(job: Job[Order], ctx: JobContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step("ask", busy, tries=5))

    run = await checked(order, remaining=remaining).run()

    assert (run.outcome, run.retry_after_seconds, asked) == ("retry", asks, ["once"])


async def test_a_step_that_needs_more_time_than_is_left_is_not_begun() -> None:
    """After another one of this attempt, so that a job always gets on."""
    begun: list[str] = []

    async def done() -> str:
        begun.append("done")
        return "x"

    async def order(job: Job[Order], ctx: JobContext) -> None:
        await ctx.step("first", done, needs_seconds=10_000)
        await ctx.step("second", done, needs_seconds=10_000)

    run = await checked(order).run()

    assert (begun, run.outcome) == (["done"], "snoozed")
