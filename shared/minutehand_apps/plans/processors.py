"""The plan processor: one job a plan, whose stages run side by side as far as the graph allows.

A stage is a remembered step of the job, kept for the report as soon as it ends: a crash, a retry
and a failure of others never lose it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from minutehand.ai import TextSink, ask_for
from minutehand.config import Settings
from minutehand.queue import ProcessorError
from minutehand.worker import Fail, Job, JobContext, Registry, StagesFailed
from minutehand.worker import Stage as Step
from minutehand_apps.plans import prompts
from minutehand_apps.plans.graph import Stage, stages_of
from minutehand_apps.plans.models import PlanPayload
from minutehand_apps.plans.sample import SAMPLES
from minutehand_apps.plans.services import Plans
from minutehand_apps.plans.shapes import Chapter


class Processor:
    """One process's dependencies, and what is done with a plan."""

    def __init__(self, app: Plans) -> None:
        self._app = app

    async def run(self, job: Job[PlanPayload], ctx: JobContext) -> dict[str, Any] | Fail:
        """Run every stage that is not done; a failed one is tried again by the job's retry."""
        plan = await self._app.store.load(job.id, job.fence)
        if plan.prompt is None or plan.speed_vs_detail is None:
            return Fail("The plan is gone")
        stages = stages_of(plan.speed_vs_detail)
        run = _Run(self._app, job, ctx, plan.prompt, len(stages), plan.done)
        steps = [
            Step(name=each.name, run=partial(run.stage, each), after=each.needs) for each in stages
        ]
        try:
            await ctx.graph(steps)
        except StagesFailed as error:
            raise _in_words(error, stages) from error
        return {"stages": [stage.name for stage in stages]}


def _in_words(error: StagesFailed, stages: Sequence[Stage]) -> ProcessorError:
    """Which chapters are missing and why, as people read it."""
    titles = [stage.title for stage in stages if stage.name in error.failed]
    first = next(iter(error.failed.values()))
    return ProcessorError(
        f"{', '.join(titles)}: {first}",
        retryable=error.retryable,
        retry_after=error.retry_after,
        data=error.data,
    )


class _Run:
    """One run of one plan's job."""

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
        #: Why the model gave no answer at all: then no other stage asks it in this attempt.
        self._down: ProcessorError | None = None

    async def stage(self, stage: Stage, given: Mapping[str, Any]) -> dict[str, Any]:
        """Make a stage, report it and keep it; one of an earlier job is there."""
        if stage.name in self._done:
            return self._done[stage.name]
        self._show(stage)
        self._report("stage_started", stage, "info", f"{stage.title}: started")
        keep = partial(self._app.store.keep, self._job.id, self._job.fence, stage.name)
        try:
            if stage.shape.said is None:
                chapter = await self._make(stage, given, None)
            else:
                async with self._ctx.stream(stage.name) as words:
                    chapter = await self._make(stage, given, words)
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
        self, stage: Stage, given: Mapping[str, Any], words: TextSink | None
    ) -> Chapter:
        model, said = self._app.model, stage.shape.said
        if model.offline:
            sample = SAMPLES[stage.name]
            if words is None or said is None:
                await asyncio.sleep(self._app.pace_seconds)
            else:
                await self._recite(words, sample[said])
            return stage.shape.model_validate(sample)
        if self._down is not None:
            raise self._down
        prompt = prompts.of_stage(stage, self._prompt, given)
        try:
            return await ask_for(
                self._job,
                self._ctx,
                model,
                prompt,
                stage.shape,
                check=lambda found: found.check(given),
                into=words,
                field=said,
            )
        except ProcessorError as error:
            if error.data and error.data.get("hope") != "differently":
                self._down = error
            raise

    async def _recite(self, words: TextSink, sample: str | list[str]) -> None:
        """Say a sample word by word, as a model would."""
        text = sample if isinstance(sample, str) else "\n".join(sample)
        pieces = re.findall(r"\s*\S+", text)
        for piece in pieces:
            words.write(piece)
            await asyncio.sleep(self._app.pace_seconds / len(pieces))

    def _report(self, event: str, stage: Stage, level: str, message: str) -> None:
        # each line of the log is an event of the job, and so of the plan's stream
        self._ctx.log(level, message, event=event, stage=stage.name, title=stage.title)


def register(registry: Registry, settings: Settings, *, app: Plans | None = None) -> Plans:
    """Add the processor to `registry`; returns what it holds, to be closed at the end."""
    app = app or Plans(settings)
    registry.processor(
        "plan", payload=PlanPayload, workspace_concurrency=25, timeout=780, internal=True
    )(Processor(app).run)
    return app
