"""A job's graph of stages that depend on each other, when one stage fails."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from minutehand.worker import AttemptEnded, Job, JobContext, Snooze, Stage, StagesFailed
from minutehand.worker.testing import ProcessorTest


async def test_an_error_beside_a_wait_is_no_wait() -> None:
    async def processor(job: Job[Any], ctx: JobContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.ask("q", "?"))
            raise ValueError("no")

    assert (await ProcessorTest(processor, {}).run()).outcome == "retry"


async def test_a_failed_stage_stops_only_what_needs_it_and_runs_again_alone() -> None:
    """If a stage fails, only stages that depend on it do not run.

    The next attempt repeats no finished stage.
    """
    ran: Counter[str] = Counter()
    faults: dict[str, Exception] = {"left": ConnectionError("no answer")}

    async def graph(job: Job[Any], ctx: JobContext) -> Any:
        def stage(name: str, *after: str) -> Stage:
            async def run(given: Mapping[str, Any]) -> str:
                await asyncio.sleep(0.01 if name == "right" else 0)
                ran[name] += 1
                if name in faults:
                    raise faults.pop(name)
                return name

            return Stage(name=name, run=run, after=after, tries=1)

        names = ("top",), ("left", "top"), ("right", "top"), ("bottom", "left", "right")
        return await ctx.graph([stage(*each) for each in (*names, ("side", "right"))])

    test: ProcessorTest[Any] = ProcessorTest(graph, {})
    run = await test.run()
    assert isinstance(run.raised, StagesFailed)
    assert run.outcome == "retry"
    assert ran == dict.fromkeys(("top", "left", "right", "side"), 1)
    assert (await test.run()).result["bottom"] == "bottom"
    assert ran == {**dict.fromkeys(("top", "right", "side", "bottom"), 1), "left": 2}

    faults["left"], ran["right"] = AttemptEnded(Snooze(after=1)), 0  # type: ignore[assignment]
    ended = await ProcessorTest(graph, {}).run()
    assert (ended.outcome, ran["right"]) == ("snoozed", 1)
