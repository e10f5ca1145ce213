"""A graph of stages: side by side, remembered, and what failures and waits do to the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from minutehand.queue.errors import LeaseLost
from minutehand.worker import JobContext, ProcessorError, Retry, Stage, StagesFailed, TurnEnded
from minutehand.worker.job import Job
from minutehand.worker.testing import ProcessorTest


class Diamond:
    """Left and right after top, bottom after both, beside after right.

    `faults` are raised once each, by stage.
    """

    def __init__(self, **faults: BaseException) -> None:
        self.ran: Counter[str] = Counter()
        self.faults = faults
        # one alone would wait for ever
        self.both = asyncio.Barrier(1 if faults else 2)
        self.tries = 1

    async def __call__(self, job: Job[Any], ctx: JobContext) -> Any:
        """Run the graph; its results."""

        def stage(name: str, *after: str) -> Stage:
            async def run(given: Mapping[str, Any]) -> str:
                self.ran[name] += 1
                if name in ("left", "right"):
                    await self.both.wait()
                if name == "right":
                    await asyncio.sleep(0.01)  # left has ended by then
                if name in self.faults:
                    raise self.faults.pop(name)
                return f"{name}({','.join(given.values())})"

            return Stage(name=name, run=run, after=after, tries=self.tries)

        return await ctx.graph(
            [
                stage("bottom", "left", "right"),
                stage("left", "top"),
                stage("right", "top"),
                stage("beside", "right"),
                stage("top"),
            ]
        )


async def test_stages_run_side_by_side_with_the_results_of_those_before_them() -> None:
    """Left and right each wait until the other has begun, too."""
    diamond = Diamond()

    async with asyncio.timeout(20):
        run = await ProcessorTest(diamond, None).run()

    assert run.result["bottom"] == "bottom(left(top()),right(top()))"
    assert diamond.ran == dict.fromkeys(("top", "left", "right", "beside", "bottom"), 1)


async def test_a_failed_stage_stops_only_what_needs_it_and_runs_again_alone() -> None:
    """The next attempt repeats nothing that is done."""
    diamond = Diamond(left=ConnectionError("no answer"))
    test = ProcessorTest(diamond, None)

    run = await test.run()

    assert isinstance(run.raised, StagesFailed)
    assert (list(run.raised.failed), run.raised.missing) == (["left"], ["bottom"])
    assert set(run.raised.results) == {"top", "right", "beside"}
    assert run.outcome == "retry"
    assert run.error is not None
    assert (run.error.message, run.error.data) == (
        "stage left failed: no answer",
        {"failed": ["left"], "missing": ["bottom"]},
    )
    assert (await test.run()).result["bottom"] == "bottom(left(top()),right(top()))"
    assert diamond.ran == {"top": 1, "left": 2, "right": 1, "beside": 1, "bottom": 1}


async def test_what_no_try_would_mend_ends_the_job_when_it_is_all_that_failed() -> None:
    """As in a step; but another stage that is worth another attempt gets it."""
    final = ProcessorError("no such account", retryable=False)

    alone = await ProcessorTest(Diamond(left=final), None).run()
    both = await ProcessorTest(Diamond(left=final, right=OSError("busy")), None).run()

    assert (alone.outcome, both.outcome) == ("failed", "retry")
    assert both.error is not None
    assert both.error.message == "stage left, and 1 more failed: no such account"


async def test_a_lost_lease_ends_the_stages_beside_it_at_once() -> None:
    """Nothing that they give would be stored."""
    diamond = Diamond(left=LeaseLost("lost", status=409, code="PT409", hint="lease_lost"))

    run = await ProcessorTest(diamond, None).run()

    assert isinstance(run.raised, LeaseLost)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert diamond.ran == {"top": 1, "left": 1, "right": 1}


async def test_a_graph_is_tried_again_when_the_first_that_failed_says_so() -> None:
    busy = ProcessorError("too many requests", retry_after=90)

    run = await ProcessorTest(Diamond(left=busy, right=OSError("busy")), None).run()

    assert (run.outcome, run.retry_after_seconds) == ("retry", 90)


async def test_a_stage_is_tried_again_as_a_step_is() -> None:
    """Within the attempt, without those beside it."""
    diamond = Diamond(right=OSError("busy"))
    diamond.tries = 2

    run = await ProcessorTest(diamond, None).run()

    assert run.outcome == "completed"
    assert diamond.ran == {"top": 1, "left": 1, "right": 2, "beside": 1, "bottom": 1}


async def test_the_end_of_the_turn_lets_the_stages_under_way_end() -> None:
    """What is paid for is stored before the job goes back."""
    diamond = Diamond(left=TurnEnded(Retry("too many requests", after=60)))
    test = ProcessorTest(diamond, None)

    run = await test.run()

    assert (run.outcome, run.retry_after_seconds) == ("retry", 60)
    assert set(test.steps) == {"graph", "top", "right"}


async def test_of_several_ends_the_first_counts() -> None:
    """What comes later was on its way already, and comes again with the next attempt."""
    diamond = Diamond(
        left=TurnEnded(Retry("first", after=60)), right=TurnEnded(Retry("second", after=90))
    )

    assert (await ProcessorTest(diamond, None).run()).retry_after_seconds == 60


async def test_a_stage_that_is_cancelled_ends_its_graph() -> None:
    """What it would have given is missing: the graph is not done without it."""

    async def order(job: Job[Any], ctx: JobContext) -> Any:
        async def stop(_: Mapping[str, Any]) -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await ctx.graph([Stage(name="stop", run=stop)])
        return "cancelled"

    assert (await ProcessorTest(order, None).run()).result == "cancelled"


async def test_a_stage_may_wait_for_a_person() -> None:
    """The job is suspended, and the stage continues with the answer."""

    async def ask(job: Job[Any], ctx: JobContext) -> Any:
        async def size(_: Mapping[str, Any]) -> Any:
            return await ctx.ask("Which size?", name="size?")

        return await ctx.graph([Stage(name="size", run=size)])

    test = ProcessorTest(ask, None)
    assert (await test.run()).outcome == "waiting"
    test.answer("S")

    assert (await test.run()).result == {"size": "S"}


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ({"a": ["b"], "b": ["a"]}, "cycle"),
        ({"a": ["nothing"]}, "unknown"),
    ],
)
async def test_a_graph_that_cannot_run_is_refused(edges: dict[str, list[str]], said: str) -> None:
    """Before any stage has."""

    async def run(job: Job[Any], ctx: JobContext) -> Any:
        async def stage(_: Mapping[str, Any]) -> None:
            raise AssertionError("it began")

        return await ctx.graph([Stage(name=n, run=stage, after=a) for n, a in edges.items()])

    ended = await ProcessorTest(run, None).run()

    assert isinstance(ended.raised, ValueError)
    assert said in str(ended.raised)


async def test_a_graph_whose_stages_share_a_name_is_refused() -> None:
    """Its results are by name."""

    async def run(job: Job[Any], ctx: JobContext) -> Any:
        async def stage(_: Mapping[str, Any]) -> None:
            raise AssertionError("it began")

        return await ctx.graph([Stage(name="a", run=stage)] * 2)

    ended = await ProcessorTest(run, None).run()

    assert "must have different names: ['a', 'a']" in str(ended.raised)
