"""The processor `plan`. One job runs the stages of a plan, in parallel as the graph permits.

Each stage is a step of the job. When a stage ends, its result is stored for the report, so that a
crash, a retry or the failure of another stage does not lose the result.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from minutehand.ai import TextSink, ask_for
from minutehand.config import Settings
from minutehand.queue import ProcessorError, reading
from minutehand.worker import Fail, Job, JobContext, Registry, Stage as Step, StagesFailed
from minutehand_apps.plans import prompts
from minutehand_apps.plans.graph import Stage, select_stages
from minutehand_apps.plans.models import Loaded, PlanPayload
from minutehand_apps.plans.sample import SAMPLES
from minutehand_apps.plans.services import Plans
from minutehand_apps.plans.shapes import Chapter


class Processor:
    """The processor of plans, and its dependencies."""

    def __init__(self, app: Plans) -> None:
        self._app = app

    async def run(self, job: Job[PlanPayload], ctx: JobContext) -> dict[str, Any] | Fail:
        """Run all stages that have no result. A retry of the job runs failed stages again."""
        plan: Loaded = await self._app.worker.call_held(
            "plan_load", job.id, job.fence, parse=reading(Loaded)
        )
        if plan.prompt is None or plan.speed_vs_detail is None:
            return Fail("The plan was deleted")
        stages = select_stages(plan.speed_vs_detail)
        run = _Run(self._app, job, ctx, plan.prompt, len(stages), plan.done)
        steps = [
            Step(name=stage.name, run=partial(run.stage, stage), after=stage.needs)
            for stage in stages
        ]
        try:
            await ctx.graph(steps)
        except StagesFailed as error:
            raise _chapters_error(error, stages) from error
        return {"stages": [stage.name for stage in stages]}


def _chapters_error(error: StagesFailed, stages: Sequence[Stage]) -> ProcessorError:
    """Return an error with the titles of the failed chapters, and the first chapter's reason."""
    titles = [stage.title for stage in stages if stage.name in error.failed]
    first = next(iter(error.failed.values()))
    reason = first if isinstance(first, ProcessorError) else "the server failed. Try again."
    return ProcessorError(
        f"{', '.join(titles)}: {reason}",
        retryable=error.retryable,
        retry_after=error.retry_after,
        data=error.data,
    )


class _Run:
    """One attempt of the job for one plan."""

    def __init__(
        self,
        app: Plans,
        job: Job[PlanPayload],
        ctx: JobContext,
        prompt: str,
        stages: int,
        done: dict[str, dict[str, Any]],
    ) -> None:
        self._app = app
        self._job = job
        self._ctx = ctx
        self._prompt = prompt
        self._stages = stages
        self._done = done
        #: Error that shows that the model is unavailable, so that the attempt makes no further
        #: calls.
        self._down: ProcessorError | None = None

    async def stage(self, stage: Stage, results: Mapping[str, Any]) -> dict[str, Any]:
        """Run a stage and store its result.

        If an earlier job has run the stage, return the stored result.
        """
        if stage.name in self._done:
            return self._done[stage.name]
        self._show(stage)
        self._report("stage_started", stage, "info", f"{stage.title}: started")
        call_held = self._app.worker.call_held
        keep = partial(call_held, "plan_keep", self._job.id, self._job.fence, name=stage.name)
        try:
            if stage.shape.streamed_field is None:
                chapter = await self._make(stage, results, None)
            else:
                async with self._ctx.stream(stage.name) as words:
                    chapter = await self._make(stage, results, words)
        except ProcessorError as error:
            self._report("stage_failed", stage, "error", f"{stage.title}: {error}")
            await keep(reason=str(error))
            raise
        result = chapter.model_dump(mode="json")
        model = self._app.model
        await keep(result=result, model=None if model.offline else model.name)
        self._done[stage.name] = result
        self._report("stage_completed", stage, "info", f"{stage.title}: done")
        self._show(stage)
        return result

    def _show(self, stage: Stage) -> None:
        self._ctx.progress(100 * len(self._done) / self._stages, stage.name, stage.title)

    async def _make(
        self, stage: Stage, results: Mapping[str, Any], words: TextSink | None
    ) -> Chapter:
        model, field = self._app.model, stage.shape.streamed_field
        if model.offline:
            sample = SAMPLES[stage.name]
            if words is None or field is None:
                await asyncio.sleep(self._app.pace_seconds)
            else:
                await self._recite(words, sample[field])
            return stage.shape.model_validate(sample)
        if self._down is not None:
            raise self._down
        prompt = prompts.write_prompt(stage, self._prompt, results)
        try:
            return await ask_for(
                self._job,
                self._ctx,
                model,
                prompt,
                stage.shape,
                check=lambda found: found.check(results),
                into=words,
                field=field,
            )
        except ProcessorError as error:
            if error.data and error.data.get("hope") != "differently":
                self._down = error
            raise

    async def _recite(self, words: TextSink, sample: str | list[str]) -> None:
        """Write a sample into a stream word by word, as a model would."""
        text = sample if isinstance(sample, str) else "\n".join(sample)
        pieces = re.findall(r"\s*\S+", text)
        for piece in pieces:
            words.write(piece)
            await asyncio.sleep(self._app.pace_seconds / len(pieces))

    def _report(self, event: str, stage: Stage, level: str, message: str) -> None:
        # write a log line, because each log line is an event of the job, and so of the plan's
        # stream
        self._ctx.log(level, message, event=event, stage=stage.name, title=stage.title)


def register(registry: Registry, settings: Settings, *, app: Plans | None = None) -> Plans:
    """Add the processor to the registry.

    Return the app's dependencies, which the caller closes at exit.
    """
    app = app or Plans(settings)
    registry.processor(
        "plan", payload=PlanPayload, workspace_concurrency=25, timeout=780, internal=True
    )(Processor(app).run)
    return app
