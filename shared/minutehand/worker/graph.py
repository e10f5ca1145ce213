"""A graph of stages: which of them may begin, and what a failure means for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from minutehand.queue.errors import LeaseLost, ProcessorError
from minutehand.worker.outcomes import Seconds, retry_after_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of `ctx.graph`: a step that begins as soon as those it comes after are done.

    Attributes:
        name: Unique in the graph, and a step's name.
        run: Gets the results of `after` by name; what it returns must survive JSON.
        after: Names of the stages whose results it needs.
        tries: As of `ctx.step`, like `timeout`.
    """

    name: str
    run: Callable[[Mapping[str, Any]], Awaitable[Any]]
    after: Sequence[str] = ()
    tries: int = 1
    timeout: Seconds | None = None


class StagesFailed(ProcessorError):
    """Stages of a `graph` failed; those that did not need them are done and stored.

    Attributes:
        failed: The error of each stage that failed, by name, in the order in which they did.
        missing: Stages that could not begin, since they come after a failed one.
        results: What the other stages returned.
    """

    def __init__(
        self, failed: Mapping[str, Exception], missing: Sequence[str], results: Mapping[str, Any]
    ) -> None:
        self.failed, self.missing, self.results = failed, missing, results
        name, first = next(iter(failed.items()))
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        super().__init__(
            f"stage {name}{more} failed: {first}",
            # worth another attempt as long as one of them is
            retryable=any(getattr(error, "retryable", True) for error in failed.values()),
            retry_after=retry_after_of(first),
            data={"failed": list(failed), "missing": list(missing)},
        )


async def run_graph(
    stages: Sequence[Stage], run: Callable[[Stage, Mapping[str, Any]], Coroutine[Any, Any, Any]]
) -> dict[str, Any]:
    """Run `stages` side by side, each with the results of those before it; results by name.

    Raises:
        StagesFailed: Stages failed; raised when all that do not need them have ended.
        LeaseLost: Raised at once; a wait or the end of the turn when those under way have ended.
    """
    _check(stages)
    over = {stage.name: asyncio.Event() for stage in stages}
    results: dict[str, Any] = {}
    failed: dict[str, Exception] = {}
    ended: list[BaseException] = []

    async def begin(stage: Stage) -> None:
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
                group.create_task(begin(stage))
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
            raise ValueError(f"stage {stage.name!r} comes after unknown {sorted(unknown)}")
    # a CycleError names the cycle
    TopologicalSorter({stage.name: stage.after for stage in stages}).prepare()
