"""What a processor can do, tested without a queue."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import pytest
from pydantic import BaseModel

from minutehand.clock import FrozenClock
from minutehand.queue import EnqueueOptions, NewJob
from minutehand.queue.errors import ProcessorError
from minutehand.queue.models import Artefact, JobId, LogLine, Progress, RunningStep, StepResult
from minutehand.worker import (
    Backoff,
    ChildrenFailed,
    Fail,
    Job,
    JobContext,
    Retry,
    Snooze,
    Suspended,
    TurnEnded,
    Worker,
)
from minutehand.worker.context import MAX_MESSAGE, AroundStep, StepCall, Taken, Updates
from minutehand.worker.graph import Stage
from minutehand.worker.remote import RemoteFailed, RemoteTask
from minutehand.worker.summary import TickSummary
from minutehand.worker.testing import ProcessorTest, _Stage, drain, set_database_clock
from minutehand.worker.threads import ThreadStopped
from tests.support.virtual_time import leaping


class Order(BaseModel):
    """A payload."""

    item: str = "x"


NOW = datetime(2026, 1, 1, tzinfo=UTC)


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
        ctx.log("info", "x" * MAX_MESSAGE)

    run = await checked(order).run()

    assert run.outcome == "completed"
    first, second, third = run.logs
    assert (first.level, second.level) == ("warning", "error")
    assert (len(first.message), second.message) == (MAX_MESSAGE, "a\ufffdb")
    assert first.metadata["nul"] == "a\ufffdb"
    assert "object" in first.metadata["odd"]
    assert (second.metadata, second.at) == (None, NOW)
    assert third.message == "x" * MAX_MESSAGE


async def test_an_unknown_level_is_a_mistake_worth_hearing_about() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> None:
        ctx.log("loud", "hey")

    run = await checked(order).run()

    assert isinstance(run.raised, ValueError)


async def test_a_step_gives_the_same_value_the_first_and_the_second_time() -> None:
    """Code that works on the first run must not break on the resumed one."""
    seen: list[Any] = []
    stored: list[Any] = []

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        async def measure() -> Any:
            return {"at": datetime(2026, 1, 1, tzinfo=UTC), "pair": (1, 2)}

        seen.append(await ctx.step("measure", measure))
        stored.append(test.steps["measure"])
        return Retry()

    test = checked(order)
    await test.run()
    await test.run()

    assert stored == seen, "before the processor goes on"
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


@pytest.mark.parametrize(
    ("name", "steps"),
    [("", []), ("x" * 201, []), ("x" * 200, ["x" * 200]), ("pay", ["pay", "pay#2", "pay#3"])],
)
async def test_a_step_name_is_bounded_and_counted(name: str, steps: list[str]) -> None:
    async def order(job: Job[Order], ctx: JobContext) -> bool:
        for _ in range(3):
            await ctx.step(name, nothing)
        return ctx.has_step("pay#3") and not ctx.has_step("pay#4")

    async def nothing() -> None:
        return None

    test = checked(order)
    run = await test.run()

    assert list(test.steps) == steps
    assert (run.result is True) == (name == "pay") != isinstance(run.raised, ValueError)


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
    assert (await test.run()).wait == {
        "kind": "ask",
        "name": "ask",
        "question": "Size?",
        "options": ["S", "L"],
        "timeout_at": "2026-01-01T00:01:00+00:00",
        "default": {"answer": "S"},
    }
    test.time_out()
    assert (await test.run()).wait == {"kind": "event", "name": "event:paid", "event": "paid"}
    test.event({"amount": 3})
    assert (await test.run()).wait == {
        "kind": "event",
        "name": "event:shipped",
        "event": "shipped",
        "timeout_at": "2026-01-01T00:01:00+00:00",
    }
    test.time_out()

    assert (await test.run()).result == ["S", {"amount": 3}, "unknown"]
    assert test.attempt == 1
    assert test.steps["ask"] == {"answer": "S"}, "as the queue stores it"


async def test_a_wait_has_a_name_of_its_own_and_ends_with_what_came() -> None:
    """A question without options or time is open until someone answers."""

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        await ctx.sleep(datetime(2026, 1, 1, 9, tzinfo=timezone(timedelta(hours=2))), name="rest")
        return await ctx.ask("Sure?", default="no", name="sure")

    test = checked(order)

    assert (await test.run()).wait == {
        "kind": "sleep",
        "name": "rest",
        "until": "2026-01-01T07:00:00+00:00",
    }
    test.wake()
    assert (await test.run()).wait == {"kind": "ask", "name": "sure", "question": "Sure?"}
    test.answer("yes")
    assert (await test.run()).result == "yes"


async def test_a_processors_test_refuses_what_no_queue_would_bring_about() -> None:
    """A wait ends once, as its kind does, with as much as was waited for, and while it lasts."""

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        ids = await ctx.spawn([NewJob(job_type="child")] * 2)
        ctx.log("info", "waiting")
        return [child.id in ids for child in await ctx.gather(ids)]

    test = checked(order)
    first, second = await test.run(), await test.run()
    assert first.wait == second.wait, "its children are those of the run before"
    assert second.messages == ["waiting"]
    with pytest.raises(AssertionError, match="2 children, 1 results"):
        test.children_end([1])
    for wrong in (test.wake, test.event):
        with pytest.raises(AssertionError, match="does not wait for this"):
            wrong()
    test.children_end([1, 2])
    with pytest.raises(AssertionError):
        test.children_end([1, 2])
    assert (await test.run()).result == [True, True]
    with pytest.raises(AssertionError, match="without a timeout"):
        test.time_out()


async def test_a_processors_test_has_the_job_that_was_asked_for() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> Any:
        return [job.session_id, job.fence, job.is_last_attempt]

    run = await checked(order, session_id="s", attempt=2, max_attempts=2).run()

    assert run.result == ["s", 2, True]


def test_a_database_s_clock_is_stopped_at_an_instant() -> None:
    """One without a time zone would be read in the machine's."""
    said: list[str] = []

    class Connection:
        def execute(self, query: Any, params: Any = None, /) -> None:
            said.append(query)

    with pytest.raises(ValueError, match="no time zone"):
        set_database_clock(Connection(), datetime(2026, 1, 1))  # noqa: DTZ001 - the very mistake
    for at in (NOW.astimezone(timezone(timedelta(hours=2))), None):
        set_database_clock(Connection(), at, engine_schema="engine")

    stopped, running = said
    assert "engine.clock()" in stopped
    assert "timestamptz '2026-01-01T00:00:00+00:00'" in stopped
    assert "clock_timestamp()" in running


async def test_a_processors_test_that_was_done_waits_for_nothing() -> None:
    waits = [True, False]

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        return await ctx.ask("Well?") if waits.pop(0) else "done"

    test = checked(order)
    await test.run()
    assert (await test.run()).result == "done"
    with pytest.raises(AssertionError, match="does not wait for this"):
        test.answer("yes")


async def test_an_instant_to_sleep_until_needs_a_time_zone() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> None:
        await ctx.sleep(datetime(2026, 1, 1))  # noqa: DTZ001 - the very mistake

    assert isinstance((await checked(order).run()).raised, ValueError)


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

    assert run.wait is not None
    assert run.wait["name"] == "map:child:ended"
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
    assert run.raised.data == {"failed": [run.raised.failed[0].id]}


@pytest.mark.parametrize(
    ("on_failed", "result"), [("raise", None), ("return", [1, None]), ("skip", [1])]
)
async def test_what_a_failed_child_leaves_in_a_map(on_failed: Any, result: Any) -> None:
    async def order(job: Job[Order], ctx: JobContext) -> Any:
        return await ctx.map(
            [1, 2], "child", options=EnqueueOptions(priority=7), on_failed=on_failed
        )

    test = checked(order)
    await test.run()
    [spawned] = test.children.values()
    test.children_end([1, ValueError("odd")])
    test.children.clear()
    test._ids.clear()
    run = await test.run()

    assert {(child.job_type, child.options.priority) for child in spawned} == {("child", 7)}
    assert (run.result, isinstance(run.raised, ChildrenFailed)) == (result, result is None)
    assert test.children == {}, "the children are done: no call asks for them again"


async def test_no_children_need_no_waiting_and_too_many_are_refused() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> Any:
        many = 10_001
        with pytest.raises(ValueError, match="10001"):
            await ctx.map([1] * many, "child")
        with pytest.raises(ValueError, match="10001"):
            await ctx.gather([JobId("x")] * many)
        return [await ctx.map([], "child"), await ctx.gather([])]

    assert (await checked(order).run()).result == [[], []]
    most = checked(lambda job, ctx: ctx.wait(ctx.gather([JobId("x")] * 10_000)))
    assert (await most.run()).wait == {
        "kind": "children",
        "name": "gather",
        "job_ids": ["x"] * 10_000,
    }


@pytest.mark.parametrize(
    "wait",
    [
        lambda ctx: ctx.sleep(60, name="n"),
        lambda ctx: ctx.ask("Which?", name="n"),
        lambda ctx: ctx.wait_for_event("paid", name="n"),
        lambda ctx: ctx.gather([JobId("x")], name="n"),
    ],
)
async def test_a_wait_has_the_name_that_it_is_given(wait: Callable[[JobContext], Any]) -> None:
    """A later release may word its question otherwise, and still find the answer."""

    async def order(job: Job[Order], ctx: JobContext) -> None:
        await wait(ctx)

    waiting = (await checked(order).run()).wait
    assert waiting is not None
    assert waiting["name"] == "n"


async def test_a_thousand_children_are_spawned_in_bounded_calls() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> Any:
        return len(await ctx.spawn([NewJob(job_type="child")] * 1200))

    test = checked(order)

    assert (await test.run()).result == 1200
    batches = {name: len(batch) for name, batch in test.children.items()}
    assert batches == {"spawn": 500, "spawn@500": 500, "spawn@1000": 200}


async def test_a_plain_processor_runs_in_a_thread() -> None:
    def order(job: Job[Order], ctx: JobContext) -> Any:
        async def add() -> int:
            await asyncio.sleep(0)
            return 2

        return Fail("no") if ctx.cancelled else {"sum": ctx.wait(ctx.step("add", add))}

    assert (await checked(order).run()).result == {"sum": 2}
    assert (await checked(order, cancelled=True).run()).outcome == "failed"


async def test_a_plain_processor_that_is_stopped_while_it_waits_gets_no_result() -> None:
    """It would continue with None for what it waited for."""

    def order(job: Job[Order], ctx: JobContext) -> str:
        async def stopped() -> None:
            raise asyncio.CancelledError

        with pytest.raises(ThreadStopped):
            ctx.wait(stopped())
        return "stopped"

    assert (await checked(order).run()).result == "stopped"


async def test_an_async_processor_awaits() -> None:
    """`ctx.wait` would hold the loop that has to do what it waits for."""

    async def order(job: Job[Order], ctx: JobContext) -> None:
        ctx.wait(ctx.sleep(1))

    run = await checked(order).run()

    assert isinstance(run.raised, RuntimeError)


async def test_a_file_is_kept_for_a_month_unless_it_says_otherwise() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> Any:
        usual = await ctx.artefact("a.txt", b"a", "text/plain")
        short = await ctx.artefact("b.txt", b"bb", "text/html", keep=timedelta(minutes=1))
        return [usual, short]

    test = checked(order)
    run = await test.run()
    kept = [Artefact.model_validate(each) for each in run.result]

    assert [each.expires_at - NOW for each in kept] == [timedelta(days=30), timedelta(minutes=1)]
    assert [each.media_type for each in kept] == ["text/plain", "text/html"]
    assert test.artefacts == {"a.txt": b"a", "b.txt": b"bb"}


def test_a_tag_is_a_word_that_no_terminal_obeys() -> None:
    updates = Updates()
    ctx = JobContext(_Stage(checked(None)), updates, steps={}, clock=FrozenClock())

    ctx.tag("customer:42", "x" * 100)
    for wrong in ("", "x" * 101, "a\x1b[2J", "a\x00"):
        with pytest.raises(ValueError, match="printable"):
            ctx.tag("fine", wrong)
    ctx.tag("\ud800")

    assert updates.take().tags == ("customer:42", "x" * 100, "?")


def test_a_step_that_runs_long_is_reported_once() -> None:
    """Without other news; and again, if that report is lost."""
    clock = FrozenClock()
    updates = Updates(clock)
    updates.begin_step("a")
    clock.advance(seconds=0.4)
    assert not updates
    clock.advance(seconds=0.1)
    assert updates

    taken = updates.take()
    assert taken.step == RunningStep(name="a", for_ms=500)
    assert not updates
    updates.restore(taken)
    assert updates
    updates.begin_step("b")
    clock.advance(seconds=1)

    assert updates.take().step == RunningStep(name="b", for_ms=1000)
    assert (updates.leave_step("b"), updates.leave_step("a")) == (1000, 1500)
    assert updates.take() == Taken(None, (), (), None)


def test_lines_that_come_too_fast_are_dropped_and_counted_behind_the_rest() -> None:
    """The last of them say so, once."""
    updates = Updates()
    for number in range(Updates.MAX_LOGS + 2):
        updates.add_log(LogLine(level="info", message=str(number)))

    first, second, third = updates.take(), updates.take(most_logs=1800), updates.take()

    assert [line.message for line in first.logs] == [str(number) for number in range(200)]
    assert second.logs[-1].message == "1999"
    assert [line.message for line in third.logs] == ["2 log lines came too fast and were dropped"]
    assert (first.logs_from, second.logs_from, third.logs_from) == (0, 200, 2000)
    assert not updates


def test_news_that_did_not_arrive_comes_before_what_came_since() -> None:
    """A lost report must neither lose a line nor turn the order around."""
    updates = Updates()
    updates.add_step(StepResult(name="1"))
    updates.add_tags(["1"])
    updates.add_log(LogLine(level="info", message="1"))
    updates.set_progress(Progress(percentage=1))
    taken = updates.take()
    updates.add_log(LogLine(level="info", message="2"))
    updates.set_progress(Progress(percentage=2))
    updates.add_step(StepResult(name="2"))
    updates.add_tags(["2"])

    updates.restore(taken)

    again = updates.take()
    assert again.progress == Progress(percentage=2)
    assert [line.message for line in again.logs] == ["1", "2"]
    assert ([step.name for step in again.steps], again.tags) == (["1", "2"], ("1", "2"))
    assert (taken.logs_from, again.logs_from, updates.take().logs_from) == (0, 0, None)
    assert not updates
    updates.restore(again)
    assert updates.take() == again


async def test_a_step_is_tried_again_and_its_last_error_is_raised() -> None:
    """As often as it says in one attempt; what will not help is not repeated."""
    calls: list[str] = []

    async def flaky() -> int:
        calls.append("flaky")
        if len(calls) < 3:
            raise OSError("busy, said Bearer sb_secret_abcdefghijklmnopqrstuvwxyz")
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
    assert [line.metadata["reason"][:10] for line in run.logs] == ["busy, said"] * 2
    assert "sb_secret_" not in str(run.logs)
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

    async def impatient() -> None:
        raise TimeoutError("the vendor's")

    async def other(job: Job[Order], ctx: JobContext) -> None:
        await ctx.step("ask", impatient, timeout=60)

    assert str((await checked(other).run()).raised) == "the vendor's"


async def test_what_runs_around_steps_comes_in_its_order_and_not_around_what_is_known() -> None:
    said: list[str] = []

    def around(who: str) -> AroundStep:
        async def run(name: str, call: StepCall) -> Any:
            said.append(f"{who} {name}")
            return await call() + 1

        return run

    async def one() -> int:
        return 1

    async def order(job: Job[Order], ctx: JobContext) -> int:
        ctx.around_steps(around("outer"))
        ctx.around_steps(around("inner"))
        return await ctx.step("known", one) + await ctx.step("new", one)

    run = await checked(order, steps={"known": 0}).run()

    assert (run.result, said) == (3, ["outer new", "inner new"])


async def test_a_test_counts_the_attempts_of_its_job() -> None:
    """And its last one is the last, as in the database."""
    attempts: list[tuple[int, bool]] = []

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        attempts.append((job.attempt, job.is_last_attempt))
        return Snooze(after=1) if len(attempts) == 1 else Retry()

    test = checked(order, max_attempts=2)
    for _ in range(3):
        await test.run()

    assert attempts == [(1, False), (1, False), (2, True)]


async def test_a_queue_that_is_never_empty_is_not_drained() -> None:
    class Endless:
        left = 3

        async def tick(self, *, budget_seconds: float) -> TickSummary:
            self.left -= 1
            return TickSummary(worker_id="w", tick_id="t", leased=max(0, self.left))

    ticks = await drain(cast("Worker", Endless()), most_ticks=3)
    assert [tick.leased for tick in ticks] == [2, 1, 0]
    with pytest.raises(AssertionError, match="after 2 ticks"):
        await drain(cast("Worker", Endless()), most_ticks=2)


@pytest.mark.parametrize(
    ("asks", "remaining", "tries"),
    [(0.0, 300.0, 2), (15.0, 300.0, 2), (15.1, 300.0, 1), (10.0, 10.0, 2), (10.0, 9.9, 1)],
)
def test_a_long_wait_between_tries_gives_the_worker_back(
    asks: float, remaining: float, tries: int
) -> None:
    """A service that asks for a minute, or for more than is left, is asked by the next attempt."""

    class Busy(Exception):
        retry_after = asks

    asked: list[float] = []

    async def busy() -> None:
        asked.append(asyncio.get_running_loop().time())
        raise Busy("come back later")

    async def order(job: Job[Order], ctx: JobContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step("ask", busy, tries=2))

    run = leaping(checked(order, remaining=remaining).run())

    assert (run.outcome, run.retry_after_seconds) == ("retry", asks)
    assert asked == [0.0, asks][:tries]


def test_tries_are_as_far_apart_as_the_backoff_says() -> None:
    asked: list[float] = []

    async def busy() -> None:
        asked.append(asyncio.get_running_loop().time())
        raise OSError("busy")

    async def order(job: Job[Order], ctx: JobContext) -> None:
        await ctx.step("ask", busy, tries=3, backoff=Backoff(first=1, factor=3))

    leaping(checked(order).run())

    assert asked == [0, 1, 4]


async def test_a_wait_inside_a_step_is_no_failed_try() -> None:
    """The job leaves its worker at once, as where it is stopped."""
    begun: list[str] = []

    async def order(job: Job[Order], ctx: JobContext) -> None:
        async def rest() -> None:
            begun.append("rest")
            await ctx.sleep(60)

        await ctx.step("rest", rest, tries=3, backoff=Backoff(first=0, cap=0))

    run = await checked(order).run()

    assert (run.outcome, begun, run.messages) == ("waiting", ["rest"], [])


async def test_a_step_is_tried_at_least_once() -> None:
    async def order(job: Job[Order], ctx: JobContext) -> None:
        await ctx.step("ask", lambda: asyncio.sleep(0), tries=0)

    assert isinstance((await checked(order).run()).raised, ValueError)


@pytest.mark.parametrize(("needs", "steps"), [(300, 2), (301, 1)])
async def test_a_step_that_needs_more_time_than_is_left_is_not_begun(
    needs: float, steps: int
) -> None:
    """After another one of this attempt, so that a job always gets on."""
    begun: list[str] = []

    async def done() -> str:
        begun.append("done")
        return "x"

    async def order(job: Job[Order], ctx: JobContext) -> None:
        await ctx.step("first", done, needs_seconds=needs)
        await ctx.step("second", done, needs_seconds=needs)

    run = await checked(order).run()

    assert (len(begun), run.delay_seconds) == (steps, 1 if steps == 1 else None)


async def test_a_stage_is_a_step_with_all_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the graph's shape is stored once, before any of them."""
    asked: dict[str, dict[str, Any]] = {}
    shapes: list[Any] = []

    async def step(_: JobContext, name: str, run: StepCall, **options: Any) -> Any:
        asked[name] = options
        shapes.append(test.steps["both"])
        return await run()

    async def count(given: Mapping[str, Any]) -> int:
        return len(given)

    said: dict[str, Any] = {
        "returns": int,
        "tries": 2,
        "timeout": 3,
        "backoff": Backoff(),
        "needs_seconds": 4,
    }

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        stages = [Stage(name="a", run=count), Stage(name="b", run=count, after=["a"], **said)]
        return await ctx.graph(stages, name="both")

    monkeypatch.setattr(JobContext, "step", step)
    test = checked(order)

    assert (await test.run()).result == {"a": 0, "b": 1}
    assert test.steps == {"both": {"a": [], "b": ["a"]}}
    assert asked["b"] == said
    assert shapes == [{"a": [], "b": ["a"]}] * 2
    test.steps["both"] = "as it was"
    await test.run()
    assert test.steps == {"both": "as it was"}


class Slow:
    """A service that refuses, or is at work for so many looks, and fails or gives its name."""

    def __init__(self, name: str, looks: float = 0, *, refuses: bool = False) -> None:
        self.name, self.looks, self.refuses = name, looks, refuses
        self.left: list[float] = []

    async def submit(self, *, left: float) -> str:
        """Accept the work."""
        self.left.append(left)
        if self.refuses:
            raise RemoteFailed(f"{self.name} is full")
        return "task"

    async def poll(self, task_id: str) -> RemoteTask:
        """Count a look."""
        self.looks -= 1
        return RemoteTask("running" if self.looks >= 0 else "completed")

    async def result(self, task_id: str) -> str:
        """Give its name."""
        return f"{task_id} of {self.name}"

    async def cancel(self, task_id: str) -> None:
        """Stop."""
        self.looks = 0


def test_work_elsewhere_is_looked_at_again_until_its_one_deadline() -> None:
    """By later attempts, which submit it no more; who failed is in the job's log, and why."""
    slow, full = Slow("slow", 1000), Slow("full", refuses=True)

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        return await ctx.remote("made", [full, slow], within=60, look_again=4)

    async def story() -> None:
        clock = FrozenClock()
        test = checked(order, clock=clock)
        first = await test.run()
        assert (first.outcome, first.delay_seconds) == ("snoozed", 4)
        assert [(each.level, each.message, each.metadata) for each in first.logs] == [
            ("warning", "made: full failed", {"reason": "full is full"})
        ]
        assert (full.left, slow.left) == ([60], [60])
        clock.advance(seconds=20)
        assert (await test.run()).delay_seconds == 4
        slow.looks = 0
        assert (await test.run()).result == "task of slow"
        assert (await test.run()).result == "task of slow"
        assert slow.left == [60]

    leaping(story())


def test_work_elsewhere_is_not_waited_for_past_its_deadline() -> None:
    """Which began with the first attempt, however many have looked at it since."""

    async def order(job: Job[Order], ctx: JobContext) -> Any:
        return await ctx.remote("made", [Slow("slow", math.inf)], within=60)

    async def story() -> None:
        clock = FrozenClock()
        test = checked(order, clock=clock)
        assert (await test.run()).outcome == "snoozed"
        clock.advance(seconds=61)
        late = await test.run()
        assert (late.outcome, late.error and late.error.message) == (
            "failed", "made: no answer within 60 s"
        )  # fmt: skip

    leaping(story())


@pytest.mark.parametrize(
    ("service", "within", "outcome", "said"),
    [
        (Slow("full", refuses=True), 60, "retry", "made: full is full"),
        (Slow("slow", math.inf), 1.5, "failed", "made: no answer within 1.5 s"),
    ],
)
def test_work_that_no_service_does_is_tried_again_in_its_time(
    service: Slow, within: float, outcome: str, said: str
) -> None:
    async def order(job: Job[Order], ctx: JobContext) -> Any:
        return await ctx.remote("made", [service], within=within)

    run = leaping(checked(order).run())

    assert (run.outcome, run.error and run.error.message) == (outcome, said)
    assert run.messages == ["made: full failed"] * service.refuses


def test_what_is_thrown_to_wait_says_for_what() -> None:
    wait = Suspended({"kind": "ask", "name": "size?"})
    turn = TurnEnded(Snooze(after=1))

    assert (str(wait), wait.wait) == ("waiting: ask 'size?'", {"kind": "ask", "name": "size?"})
    assert "Snooze" in str(turn)
