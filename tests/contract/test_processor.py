"""Calls that a job's processor makes on its context `ctx`: progress, steps, retries and waits."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest
from pydantic import BaseModel

from minutehand.queue.errors import ProcessorError
from minutehand.worker import EnqueueOptions, Job, JobContext, NewJob
from minutehand.worker.testing import ProcessorTest, Run


class Payload(BaseModel):
    """A payload without content."""


class Found(BaseModel):
    """A part of a result."""

    at: Any


Use = Callable[[JobContext], Awaitable[Any]]


def of(use: Use, **options: Any) -> ProcessorTest[Payload]:
    """Return a test of a job whose processor calls this function with its context."""

    async def processor(job: Job[Payload], ctx: JobContext) -> Any:
        return await use(ctx)

    return ProcessorTest(processor, Payload(), **options)


async def run(use: Use) -> Run:
    """Run a job's first attempt with this function as the processor."""
    return await of(use).run()


@pytest.mark.parametrize(
    "use",
    [
        lambda ctx: ctx.log("loud", "?"),
        lambda ctx: ctx.progress(float("nan")),
        lambda ctx: ctx.tag("x" * 101),
        lambda ctx: ctx.tag("\x1b[2J"),
        lambda ctx: ctx.tag("del\x7f"),
        lambda ctx: ctx.tag("\x9b2J"),
        lambda ctx: ctx.sleep(datetime(2026, 1, 1)),  # noqa: DTZ001 - the mistake
        lambda ctx: ctx.step("", answer),
        lambda ctx: ctx.step("s" * 201, answer),
        lambda ctx: ctx.step("none", answer, tries=0),
        lambda ctx: ctx.gather([NewJob(job_type="page")]),  # a job in place of an id
    ],
)
async def test_a_mistake_is_an_error(use: Use) -> None:
    """A processor that passes an invalid argument to a method of `ctx` fails.

    The error is a ValueError or a TypeError.
    """
    assert (await run(use)).error.type in {"ValueError", "TypeError"}  # type: ignore[union-attr]


LONG = "x" * 300_000


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        (lambda ctx: asyncio.sleep(0, LONG), "store the result and return a reference"),
        (lambda ctx: asyncio.sleep(0, LONG * 4), "store it elsewhere and keep a reference"),
        (lambda ctx: asyncio.sleep(0, {"all": [1, LONG * 4]}), "keep a reference (at ['all'][1])"),
        (lambda ctx: asyncio.sleep(0, [Found(at={"x": object()})]), "(at [0]['at']['x'])"),
        (lambda ctx: asyncio.sleep(0, {"all": [float("nan")]}), "(at ['all'][0])"),
        (
            lambda ctx: ctx.spawn([NewJob(job_type="child", payload={"text": LONG})]),
            "payload exceeds 262144 bytes (payload_max_bytes); store the data and pass a reference"
            " (payload_too_large)",
        ),
    ],
)
async def test_what_cannot_be_stored_fails_for_good(use: Use, problem: str) -> None:
    """A job whose result or payload is too large or not JSON fails without a retry.

    The error's message says what to do instead, and the path to the part that was rejected.
    """
    response = await run(use)

    assert response.outcome == "failed"
    assert problem in response.error.message  # type: ignore[union-attr]


async def test_the_path_is_searched_in_the_first_thousand_parts_only() -> None:
    """A result with very many parts is rejected without a path, which would take long to find."""
    response = await run(lambda ctx: asyncio.sleep(0, [*range(1000), object()]))

    assert str(response.error.message).endswith("<class 'object'>")  # type: ignore[union-attr]


async def answer() -> str:
    """Return the result of a step, for tests in which the result does not matter."""
    return "answer"


async def test_a_step_gives_json_the_first_time_too() -> None:
    """A step returns its result after a conversion to JSON, so every attempt gets equal values.

    A second step of one name is stored under the name and a number.
    """

    async def pair() -> tuple[int, set[int]]:
        return 1, {2}

    async def use(ctx: JobContext) -> Any:
        return [await ctx.step("pair", pair), await ctx.step("pair", answer)]

    test = of(use)

    assert (await test.run()).result == [[1, [2]], "answer"]
    assert (await test.run()).result == [[1, [2]], "answer"]
    assert test.steps == {"pair": [1, [2]], "pair#2": "answer"}


async def test_a_step_is_tried_again_and_its_last_error_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failing step is tried again after a backoff, or after the `retry_after` of its error.

    An error with `retryable=False` ends the step immediately.
    """
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("minutehand.worker.context.asyncio.sleep", pause)
    errors: list[Exception] = []

    async def fail() -> None:
        raise errors.pop(0)

    async def use(ctx: JobContext) -> None:
        await ctx.step("fail", fail, tries=3)

    errors[:] = [ConnectionError("1"), ProcessorError("2", retry_after=5), ConnectionError("3")]
    response = await run(use)
    assert response.error is not None
    assert (response.outcome, response.error.message, pauses) == ("retry", "3", [0.5, 5])
    assert [line.metadata for line in response.logs] == [{"reason": "1"}, {"reason": "2"}]

    errors[:] = [ProcessorError("final", retryable=False)]
    assert (await run(use)).outcome == "failed"

    # A pause of more than 15 seconds, or than the time left, is left to the job's next attempt.
    for pause_seconds, remaining in ((16, 300), (5, 4)):
        errors[:] = [ProcessorError("busy", retry_after=pause_seconds)]
        response = await of(use, remaining=remaining).run()
        assert (response.outcome, response.retry_after_seconds) == ("retry", pause_seconds)


async def test_a_try_of_a_step_has_its_time() -> None:
    """A step that exceeds its timeout fails with StepTimeout.

    A TimeoutError that the step's own code raises keeps its message.
    """

    async def own() -> None:
        raise TimeoutError("own")

    slow = await run(lambda ctx: ctx.step("slow", lambda: asyncio.sleep(60), timeout=0.01))
    response = await run(lambda ctx: ctx.step("own", own, timeout=60))

    assert slow.error.type.endswith("StepTimeout")  # type: ignore[union-attr]
    assert response.error.message == "own"  # type: ignore[union-attr]


async def test_waits_end_the_run_and_continue_in_order() -> None:
    """A sleep, a question or a wait for an event ends the processor's run.

    `except Exception` in the processor does not catch the end of the run.
    """

    async def use(ctx: JobContext) -> Any:
        try:
            await ctx.sleep(60)
        except Exception:
            return "swallowed"
        size = await ctx.ask("Size?", ["S", "L"], timeout=60, default="M")
        paid = await ctx.wait_for_event("paid", timeout=60, default={"amount": 0})
        return [size, paid["amount"], await ctx.ask("Colour?")]

    test = of(use)
    assert (await test.run()).wait["kind"] == "sleep"
    test.wake()
    response = await test.run()
    assert response.wait["options"] == ["S", "L"]
    assert response.wait["default"] == {"answer": "M"}
    test.time_out()
    assert (await test.run()).wait["event"] == "paid"
    test.event({"amount": 3})
    await test.run()
    test.answer("red")

    assert (await test.run()).result == ["M", 3, "red"]


async def test_children_are_spawned_once_and_their_results_come_in_order() -> None:
    """A processor spawns child jobs in groups of at most 500.

    The argument `on_failed` decides whether a failed child is skipped, returned, or fails the
    parent job.
    """

    async def use(ctx: JobContext) -> Any:
        made = await ctx.spawn([NewJob(job_type="page", payload={})] * 700, name="pages")
        parts = await ctx.map([1, 2], "part", options=EnqueueOptions(), on_failed="skip")
        [page] = await ctx.gather(made[:1], on_failed="return")
        return [parts, page.status, await ctx.map([1], "last")]

    test = of(use)
    assert (await test.run()).outcome == "waiting"
    assert {name: len(each) for name, each in test.children.items()} == {
        "pages": 500,
        "pages@500": 200,
        "map:part:spawn": 2,
    }
    test.children_end([ValueError("no"), "two"])
    await test.run()
    test.children_end([ValueError("no")])
    await test.run()
    test.children_end([ValueError("no")])
    response = await test.run()

    assert response.error is not None
    failed = {"wait": "map:last:ended", "failed": [test._ids["map:last:spawn"][0]]}
    assert (response.outcome, response.error.data) == ("failed", failed)


async def test_a_stream_keeps_its_words_and_says_which_attempt_speaks() -> None:
    """Each attempt opens an output stream empty.

    Characters that Postgres cannot store are replaced, and values that JSON cannot represent are
    rejected.
    """

    async def use(ctx: JobContext) -> Any:
        async with ctx.stream("reply") as words:
            words.write("Gr\x00ße ")
            words.write("")
            words.write("🌍")
            with pytest.raises(TypeError):
                words.write({"not": "text"})
        with pytest.raises(ValueError, match="closed"):
            words.write("late")
        async with ctx.stream("facts") as facts:
            facts.write({"n": (1, 2)})
            with pytest.raises(ValueError, match="is nan"):
                facts.write(float("nan"))
        return words.text, facts.items, (words.attempt, facts.attempt)

    test = of(use)
    for attempt in (1, 2):
        run = await test.run()
        response = ["Gr\ufffdße 🌍", [{"n": [1, 2]}]]
        assert run.result == [*response, [attempt, attempt]]
        assert [run.output["reply"], run.output["facts"]] == response


async def test_what_a_finished_step_said_is_kept_and_what_a_failed_one_said_goes() -> None:
    """A job's output keeps what completed steps wrote and drops what a failed try of a step wrote.

    A later attempt writes the output in the same order. The attempt does not open a stream that a
    completed step opened.
    """
    calls: list[str] = []

    async def use(ctx: JobContext) -> Any:
        async with ctx.stream("reply") as words:

            async def say(name: str) -> None:
                calls.append(name)
                words.write(f"<{name}>")
                if calls.count(name) == 1:
                    words.write("half a")
                    raise RuntimeError(name)

            async def say_once() -> None:
                async with ctx.stream("other") as other:
                    other.write("said once")

            words.write("one ")
            await ctx.step("once", say_once)
            await ctx.step("a", lambda: say("a"), tries=2)
            words.write(" two ")
            await ctx.step("b", lambda: say("b"))
        return words.text

    test = of(use)
    first = await test.run()
    said = {"other": "said once", "reply": "one <a> two <b>"}
    assert first.outcome == "retry"
    assert first.output == {**said, "reply": "one <a> two <b>half a"}
    second = await test.run()
    assert second.output == said
    assert (second.result, calls) == ("one <a> two <b>", ["a", "a", "b", "b"])
