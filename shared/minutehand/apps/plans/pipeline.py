"""Running the graph: each stage as soon as its inputs are there, with its own tries and timeout.

Which stages there are is planning.graph's; what each finds, planning.making's.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from minutehand.apps.plans.models import Loaded, StoredPlan, StoredStage
from minutehand.apps.plans.planning import blocks as b
from minutehand.apps.plans.planning import graph
from minutehand.apps.plans.planning.chapters import Chapter, Inputs
from minutehand.apps.plans.planning.computing import data_of
from minutehand.apps.plans.planning.graph import Stage
from minutehand.apps.plans.planning.making import MAKERS
from minutehand.apps.plans.recorder import Recorder
from minutehand.apps.plans.report import compose, html, markdown
from minutehand.apps.plans.services import Plans
from minutehand.tasks import end_tasks
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Retry, Snooze

#: A stage that asks a model is not begun with less time than this before the tick ends.
SECONDS_TO_SPARE: Final = 20.0
#: A model that asks to be left alone for longer gives the job back until then.
LONGEST_PAUSE: Final = timedelta(seconds=15)
MEDIA: Final = {
    "json": "application/json",
    "md": "text/markdown",
    "svg": "image/svg+xml",
    "html": "text/html",
}


class Pause(Exception):
    """The job ends its turn here and continues later."""

    def __init__(self, outcome: Retry | Snooze) -> None:
        self.outcome = outcome
        super().__init__(str(outcome))


class StageFailed(Exception):
    """A stage is abandoned."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


class Pipeline:
    """The stages of one leased job."""

    def __init__(self, app: Plans, job: Job[Any], ctx: JobContext, loaded: Loaded) -> None:
        assert loaded.plan is not None
        self._app = app
        self._job = job
        self._ctx = ctx
        self.plan: StoredPlan = loaded.plan
        self.stages = graph.stages_of(self.plan.speed_vs_detail)
        self.results: dict[str, dict[str, Any]] = {
            stage.name: stage.result for stage in loaded.stages if stage.result is not None
        }
        self.models = {stage.name: stage.model for stage in loaded.stages}
        self.failed: dict[str, StageFailed] = {}
        self._recorder = Recorder(app.store, job.id, job.fence)

    async def run(self) -> str:
        """Run every stage that is not finished, and end the plan; answers how it ended.

        Raises:
            Pause: The job is to continue later.
            PlanGone: The plan was deleted or cancelled meanwhile.
            LeaseLost: Another attempt has taken over.
        """
        sending = asyncio.create_task(self._recorder.run())
        try:
            await self._run_stages(sending)
            return await self._end()
        finally:
            await end_tasks([sending])  # its error has reached the callers of flush

    async def _run_stages(self, sending: asyncio.Task[None]) -> None:
        begun = set(self.results)
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                for stage in graph.ready(self.stages, set(self.results), begun):
                    begun.add(stage.name)
                    running.add(asyncio.create_task(self._run_stage(stage)))
                if not running:
                    return
                done, _ = await asyncio.wait(
                    {*running, sending}, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    running.discard(task)
                    task.result()
        finally:
            await end_tasks(running)

    @property
    def _percentage(self) -> float:
        return round(100 * len(self.results) / len(self.stages), 2)

    async def _run_stage(self, stage: Stage) -> None:
        """One stage, remembered by the job and by the plan: neither runs it twice."""
        started = self._app.clock.now()

        async def run() -> dict[str, str]:
            chapter, model = await self._tried(stage)
            await self._store(stage, chapter, model, started)
            return {"stage": stage.name, "status": "completed"}

        try:
            await self._ctx.step(stage.name, run)
        except StageFailed as error:
            await self._store_failure(stage, error, started)

    async def _tried(self, stage: Stage) -> tuple[Chapter, str | None]:
        """The chapter, by as many tries as the stage has."""
        for number in range(1, stage.tries + 1):
            self._begin(stage, number)
            try:
                async with asyncio.timeout(stage.timeout.total_seconds()):
                    return await self._make(stage)
            except TimeoutError:
                error = StageFailed(
                    "timeout", f"It took longer than {stage.timeout.total_seconds():g} seconds."
                )
            except StageFailed as given_up:
                error = given_up
                if given_up.code in _FINAL:
                    raise
            except (ValueError, KeyError, ArithmeticError) as fault:
                # the same inputs give the same fault: another try would not help
                raise StageFailed("not_computable", f"It cannot be computed: {fault}") from fault
            if number == stage.tries:
                raise error
            self._recorder.append(
                "log",
                level="warning",
                stage=stage.name,
                message=f"{stage.title}: try {number} failed: {error.reason}",
            )
            await asyncio.sleep(min(8.0, 0.5 * 4 ** (number - 1)))
        raise AssertionError("unreachable: the last try returns or raises")

    def _begin(self, stage: Stage, number: int) -> None:
        position = [each.name for each in self.stages].index(stage.name) + 1
        self._recorder.put(stage=stage.name)
        self._recorder.put_stage(
            name=stage.name,
            position=graph.position_of(stage.name),
            status="running",
            attempts=1,
            started_at=self._app.clock.now().isoformat(),
        )
        if number == 1:
            self._recorder.append(
                "stage_started",
                stage=stage.name,
                title=stage.title,
                position=position,
                total=len(self.stages),
                percentage=self._percentage,
            )
        else:
            self._recorder.append(
                "stage_progress", stage=stage.name, message=f"Try {number}", attempt=number
            )
        self._ctx.progress(self._percentage, stage.name, stage.title)

    async def _make(self, stage: Stage) -> tuple[Chapter, str | None]:
        if stage.name == "report":
            return self._report(), None
        inputs = Inputs(
            self.plan.prompt,
            self.plan.speed_vs_detail,
            self.plan.based_on.astimezone(UTC).date(),
            {name: self.results[name] for name in stage.needs},
        )
        # in a thread: a large plan must not keep the worker from renewing its leases
        chapter = await asyncio.to_thread(MAKERS[stage.name], inputs)
        if stage.narrated and chapter.narrative and self._app.model is not None:
            return await self._narrated(stage, chapter)
        return chapter, None

    async def _narrated(self, stage: Stage, chapter: Chapter) -> tuple[Chapter, str | None]:
        """The chapter with its narrative written by the model."""
        from minutehand.ai.errors import LanguageModelError
        from minutehand.apps.plans.narrating import narrate

        if self._ctx.new_steps and self._ctx.remaining < SECONDS_TO_SPARE:
            raise Pause(Snooze(after=1))  # cutting it off in the middle would pay for it twice
        try:
            assert self._app.model is not None
            told = await narrate(
                self._app.model, self.plan.prompt, stage, chapter, self._show(stage), self._pay
            )
        except LanguageModelError as error:
            later = error.retry_after is not None and error.retry_after > LONGEST_PAUSE
            if later and not self._job.is_last_attempt:
                raise Pause(Retry(str(error), after=error.retry_after)) from error
            raise StageFailed(error.code, str(error)) from error
        return told.chapter, told.model

    def _pay(self, cost_usd: float) -> None:
        self._ctx.cost_usd += cost_usd

    def _show(self, stage: Stage) -> Any:
        """Tell the end of the text while it is written, twice a second at most."""
        pieces: list[str] = []
        shown_at = float("-inf")

        def on_text(piece: str) -> None:
            nonlocal shown_at
            pieces.append(piece)
            now = self._app.clock.monotonic()
            if now - shown_at >= 0.5:
                shown_at = now
                tail = "".join(pieces)[-400:]
                self._recorder.append("stage_progress", stage=stage.name, message=tail)

        return on_text

    def _report(self) -> Chapter:
        """The report's two files, of all other stages."""
        rows = [
            StoredStage(name=name, status="completed", result=result, model=self.models.get(name))
            for name, result in self.results.items()
        ]
        ended = self.plan.model_copy(update={"stages": rows, "status": "completed"})
        composed = compose(ended)
        files = {"report.html": html(composed), "report.md": markdown(composed)}
        return Chapter({"chapters": [each.stage for each in composed.chapters]}, [], files=files)

    async def _store(
        self, stage: Stage, chapter: Chapter, model: str | None, started: datetime
    ) -> None:
        """The stage's result, its files and its events, in one transaction."""
        result = data_of(chapter)
        files = dict(chapter.files)
        if stage.name != "report":
            place = f"{graph.position_of(stage.name):02}-{stage.name.replace('_', '-')}"
            files[f"{place}.json"] = json.dumps(result, ensure_ascii=False, indent=2) + "\n"
            text = b.to_markdown(result["blocks"])
            files[f"{place}.md"] = f"# {stage.title}\n\n{text}".rstrip() + "\n"
        recorder = self._recorder
        for line in chapter.logs:
            recorder.append("log", level="info", stage=stage.name, message=line)
        for name, content in files.items():
            media = MEDIA[name.rpartition(".")[2]]
            recorder.put_artifact(name=name, stage=stage.name, media_type=media, content=content)
            recorder.append(
                "artifact_ready",
                name=name,
                stage=stage.name,
                media_type=media,
                bytes=len(content.encode()),
                url=f"/api/plans/{self.plan.id}/files/{name}",
            )
        recorder.put_stage(
            name=stage.name,
            position=graph.position_of(stage.name),
            status="completed",
            result=result,
            model=model,
            code=None,
            reason=None,
            started_at=started.isoformat(),
        )
        share = round(100 * (len(self.results) + 1) / len(self.stages), 2)
        recorder.put(percentage=share)
        recorder.append(
            "stage_completed",
            stage=stage.name,
            title=stage.title,
            percentage=share,
            seconds=round((self._app.clock.now() - started).total_seconds(), 3),
            artifacts=sorted(files),
        )
        # what needs it may begin: events are stored in the order of their appends
        self.results[stage.name] = result
        self.models[stage.name] = model
        await recorder.flush()

    async def _store_failure(self, stage: Stage, error: StageFailed, started: datetime) -> None:
        self.failed[stage.name] = error
        self._recorder.put_stage(
            name=stage.name,
            position=graph.position_of(stage.name),
            status="failed",
            code=error.code,
            reason=error.reason,
            started_at=started.isoformat(),
        )
        self._recorder.append(
            "stage_failed",
            stage=stage.name,
            title=stage.title,
            code=error.code,
            reason=error.reason,
        )
        await self._recorder.flush()

    async def _end(self) -> str:
        """End the plan: completed when every stage is, else failed, with its first reason."""
        if all(stage.name in self.results for stage in self.stages):
            self._recorder.put(end={"status": "completed", "data": {"percentage": 100}})
            outcome = "completed"
        else:
            name, error = next(iter(self.failed.items()))
            missing = [stage.name for stage in self.stages if stage.name not in self.results]
            reason = f"{graph.title_of(name)}: {error.reason}"
            self._recorder.put(
                end={
                    "status": "failed",
                    "error": {"code": error.code, "stage": name, "reason": reason},
                    "data": {"missing": missing},
                }
            )
            outcome = "failed"
        await self._recorder.flush()
        return outcome


#: Failures of a model that another try cannot correct.
_FINAL: Final = frozenset({"not_authorised", "out_of_credit", "input_refused", "not_computable"})
