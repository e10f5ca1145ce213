"""Graphs of stages, with the order of the stages' starts and the effects of a failed stage."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from minutehand.queue.errors import LeaseLost, ProcessorError
from minutehand.worker.outcomes import Seconds, retry_after_of


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of `ctx.graph`. A stage is a step that starts when the stages in `after` have ended.

    Attributes:
        name: Name of the step, unique in the graph.
        run: Function of the stage. The function gets the results of the stages in `after` by name,
            and must return JSON.
        after: Names of the stages whose results this stage needs.
        tries: See `ctx.step`.
        timeout: See `ctx.step`.
    """

    name: str
    run: Callable[[Mapping[str, Any]], Awaitable[Any]]
    after: Sequence[str] = ()
    tries: int = 1
    timeout: Seconds | None = None


class StagesFailed(ProcessorError):
    """Raised by `graph` when stages failed.

    All stages that do not need a failed stage have ended, and their results are stored.

    Attributes:
        failed: The error of each failed stage by name, in the order of the failures.
        missing: Stages that could not start because they need a failed stage.
        results: Results of the stages that succeeded.
    """

    def __init__(
        self, failed: Mapping[str, Exception], missing: Sequence[str], results: Mapping[str, Any]
    ) -> None:
        self.failed, self.missing, self.results = failed, missing, results
        name, first = next(iter(failed.items()))
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        super().__init__(
            f"stage {name}{more} failed: {first}",
            # the graph's error is retryable if any stage's error is
            retryable=any(getattr(error, "retryable", True) for error in failed.values()),
            retry_after=retry_after_of(first),
            data={"failed": list(failed), "missing": list(missing)},
        )


async def run_graph(
    stages: Sequence[Stage], run: Callable[[Stage, Mapping[str, Any]], Coroutine[Any, Any, Any]]
) -> dict[str, Any]:
    """Run `stages` concurrently, each with the results of the stages that it needs.

    Return the results by stage name. If a stage suspends the job or ends the attempt, the exception
    of the stage is raised when the running stages have ended.

    Raises:
        StagesFailed: Some stages failed. All stages that do not need a failed stage have ended.
        LeaseLost: The worker lost the job's lease. Raised immediately.
    """
    _check(stages)
    over = {stage.name: asyncio.Event() for stage in stages}
    results: dict[str, Any] = {}
    failed: dict[str, Exception] = {}
    ended: list[BaseException] = []

    async def start(stage: Stage) -> None:
        for name in stage.after:
            await over[name].wait()
        try:
            if not ended and results.keys() >= set(stage.after):
                given = {name: results[name] for name in stage.after}
                results[stage.name] = await run(stage, given)
        except LeaseLost:
            raise
        except Exception as error:
            failed[stage.name] = error
        except BaseException as error:
            ended.append(error)
        finally:
            over[stage.name].set()

    try:
        async with asyncio.TaskGroup() as group:
            for stage in stages:
                group.create_task(start(stage))
    except ExceptionGroup as lost:
        raise lost.exceptions[0] from None
    if ended:
        raise ended[0]
    if failed:
        missing = [name for name in over if name not in failed and name not in results]
        raise StagesFailed(failed, missing, results) from next(iter(failed.values()))
    return results


def _check(stages: Sequence[Stage]) -> None:
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ValueError(f"stages must have different names: {names}")
    for stage in stages:
        if unknown := set(stage.after) - set(names):
            raise ValueError(f"stage {stage.name!r} comes after unknown stages {sorted(unknown)}")
    # `prepare` raises a CycleError that names the stages of a cycle
    TopologicalSorter({stage.name: stage.after for stage in stages}).prepare()
