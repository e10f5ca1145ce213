"""Running the graph: each stage as soon as its inputs are there, with its own tries and timeout.

Which stages there are is planning.graph's; what each finds, planning.making's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, Final

from minutehand.queue.errors import ProcessorError
from minutehand.tasks import end_tasks
from minutehand.worker import graph as worker
from minutehand.worker.context import JobContext, Suspended, TurnEnded
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Retry
from minutehand_apps.plans.models import StoredPlan, StoredStage
from minutehand_apps.plans.planning import graph
from minutehand_apps.plans.planning.asking import SKIP, first_questions
from minutehand_apps.plans.planning.chapters import Chapter, Inputs
from minutehand_apps.plans.planning.computing import data_of
from minutehand_apps.plans.planning.graph import Stage
from minutehand_apps.plans.planning.making import MAKERS
from minutehand_apps.plans.recorder import Recorder
from minutehand_apps.plans.report import compose, described, files_of, report_files
from minutehand_apps.plans.services import Plans

#: A stage that asks a model is not begun with less time than this before the tick ends.
SECONDS_TO_SPARE: Final = 20.0
#: A model that asks to be left alone for longer gives the job back until then.
LONGEST_PAUSE: Final = timedelta(seconds=15)


class StageFailed(ProcessorError):
    """A try of a stage failed."""

    def __init__(self, code: str, reason: str, *, retryable: bool = True) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason, retryable=retryable)


class Pipeline:
    """The stages of one leased job."""

    def __init__(self, app: Plans, job: Job[Any], ctx: JobContext, plan: StoredPlan) -> None:
        self._app = app
        self._job = job
        self._ctx = ctx
        self.plan = plan
        self.stages = graph.stages_of(self.plan.speed_vs_detail)
        self.results: dict[str, dict[str, Any]] = {
            stage.name: stage.result for stage in plan.stages if stage.result is not None
        }
        self.models = {stage.name: stage.model for stage in plan.stages}
        self.failed: dict[str, StageFailed] = {}
        self._tries: Counter[str] = Counter()
        self._started: dict[str, datetime] = {}
        self._recorder = Recorder(app.store, job.id, job.fence)

    async def run(self) -> str:
        """Run every stage that is not finished, and end the plan; answers how it ended.

        Raises:
            TurnEnded: The job is to continue later.
            PlanGone: The plan was deleted or cancelled meanwhile.
            LeaseLost: Another attempt has taken over.
        """
        sending = asyncio.create_task(self._recorder.run())
        running = asyncio.create_task(self._run_all())
        try:
            await asyncio.wait({sending, running}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()  # a plan that is gone ends its stages at once
            return await running
        finally:
            await end_tasks([sending, running])

    async def _run_all(self) -> str:
        await self._ask_first()
        await self._run_stages()
        return await self._end()

    async def _ask_first(self) -> None:
        """Put the first questions of `asking`; any may be skipped.

        Answers are the job's, which remembers them: they go into the prompt of every attempt.
        """
        if not self.plan.ask_seconds or "understand" in self.results:
            return
        prompt = " ".join(self.plan.prompt.split())
        asked = first_questions(prompt, self._today)
        for number, question in enumerate(asked, 1):
            try:
                answer = await self._ctx.ask(
                    f"{question.text} “{SKIP}” leaves it open.",
                    timeout=self.plan.ask_seconds,
                    default=SKIP,
                    name=f"first_{number}",
                )
            except Suspended:
                self._recorder.append(
                    "plan_question", question=question.text, number=number, total=len(asked)
                )
                await self._recorder.flush()
                raise
            prompt = question.answered(prompt, str(answer))
        self.plan = self.plan.model_copy(update={"prompt": prompt})

    @property
    def _today(self) -> date:
        return self.plan.based_on.astimezone(UTC).date()

    async def _run_stages(self) -> None:
        stages = [
            worker.Stage(
                name=stage.name,
                run=partial(self._run_stage, stage),
                after=stage.needs,
                tries=stage.tries,
                needs_seconds=SECONDS_TO_SPARE if self._asks(stage) else 0,
            )
            for stage in self.stages
        ]
        try:
            await self._ctx.graph(stages)
        except worker.StagesFailed as error:
            if len(self.failed) < len(error.failed):
                raise  # not all are failures of the plan

    def _asks(self, stage: Stage) -> bool:
        return stage.narrated and self._app.model is not None

    @property
    def _percentage(self) -> float:
        return round(100 * len(self.results) / len(self.stages), 2)

    async def _run_stage(self, stage: Stage, _: Mapping[str, Any]) -> dict[str, str]:
        """A try of a stage; remembered by the job and by the plan: neither runs it twice."""
        done = {"stage": stage.name, "status": "completed"}
        if stage.name in self.results:
            return done  # its worker died before it could say so
        self._tries[stage.name] += 1
        number = self._tries[stage.name]
        started = self._started.setdefault(stage.name, self._app.clock.now())
        self._begin(stage, number)
        try:
            chapter, model = await self._make(stage), None
        except StageFailed as error:
            if error.retryable and number < stage.tries:
                self._warn(stage, f"{stage.title}: try {number} failed: {error.reason}")
            else:
                await self._store_failure(stage, error, started)
            raise
        if self._asks(stage) and chapter.narrative:
            chapter, model = await self._narrated(stage, chapter)
        await self._store(stage, chapter, model, started)
        return done

    def _begin(self, stage: Stage, number: int) -> None:
        position = [each.name for each in self.stages].index(stage.name) + 1
        self._recorder.put(stage=stage.name)
        self._put(stage, "running", self._app.clock.now(), attempts=1)
        if number == 1:
            place = {"position": position, "total": len(self.stages)}
            self._tell("stage_started", stage, **place, percentage=self._percentage)
        else:
            self._recorder.append(
                "stage_progress", stage=stage.name, message=f"Try {number}", attempt=number
            )
        self._ctx.progress(self._percentage, stage.name, stage.title)

    def _tell(self, event: str, stage: Stage, **data: Any) -> None:
        self._recorder.append(event, stage=stage.name, title=stage.title, **data)

    def _put(self, stage: Stage, status: str, started: datetime, **more: Any) -> None:
        self._recorder.put_stage(
            name=stage.name, position=graph.position_of(stage.name), status=status,
            started_at=started.isoformat(), **more,
        )  # fmt: skip

    async def _make(self, stage: Stage) -> Chapter:
        if stage.name == "report":
            chapters = [each.stage for each in compose(self._ended).chapters]
            return Chapter({"chapters": chapters}, [])
        inputs = Inputs(
            self.plan.prompt,
            self.plan.speed_vs_detail,
            self._today,
            {name: self.results[name] for name in stage.needs},
        )
        limit = stage.timeout.total_seconds()
        try:
            async with asyncio.timeout(limit):
                # in a thread: a large plan must not keep the worker from renewing its leases
                return await asyncio.to_thread(MAKERS[stage.name], inputs)
        except TimeoutError as error:
            raise StageFailed("timeout", f"It took longer than {limit:g} seconds.") from error
        except (ValueError, KeyError, ArithmeticError) as fault:
            # the same inputs give the same fault: another try would not help
            reason = f"It cannot be computed: {fault}"
            raise StageFailed("not_computable", reason, retryable=False) from fault

    async def _narrated(self, stage: Stage, chapter: Chapter) -> tuple[Chapter, str | None]:
        """The chapter with its narrative written by the model; by the template when that fails."""
        from minutehand.ai.errors import LanguageModelError

        for number in range(1, stage.tries + 1):
            try:
                async with asyncio.timeout(stage.timeout.total_seconds()):
                    return await self._ask_model(stage, chapter)
            except TimeoutError:
                reason, is_final = "the model took too long", False
            except LanguageModelError as error:
                later = error.retry_after is not None and error.retry_after > LONGEST_PAUSE
                if later and not self._job.is_last_attempt:
                    raise TurnEnded(Retry(str(error), after=error.retry_after)) from error
                reason, is_final = str(error), error.code in _FINAL
            self._warn(stage, f"{stage.title}: try {number} of its text failed: {reason}")
            if is_final:
                break
            if number < stage.tries:
                await asyncio.sleep(worker.STEP_BACKOFF.delay(number))
        # nothing depends on the words: what was computed stands
        return chapter.by_template(), None

    async def _ask_model(self, stage: Stage, chapter: Chapter) -> tuple[Chapter, str]:
        from minutehand_apps.plans.narrating import narrate

        assert self._app.model is not None
        return await narrate(
            self._ctx, self._app.model, self.plan.prompt, stage, chapter, self._show(stage)
        )

    def _warn(self, stage: Stage, message: str) -> None:
        self._recorder.append("log", level="warning", stage=stage.name, message=message)

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

    @property
    def _ended(self) -> StoredPlan:
        """The plan as it will be read when its report is stored."""
        rows = [
            StoredStage(name=name, status="completed", result=result, model=self.models.get(name))
            for name, result in self.results.items()
        ]
        return self.plan.model_copy(update={"stages": rows, "status": "completed"})

    async def _store(
        self, stage: Stage, chapter: Chapter, model: str | None, started: datetime
    ) -> None:
        """The stage's result, what its files are and its events, in one transaction."""
        result = data_of(chapter)
        contents = files_of(stage.name, result)
        if stage.name == "report":
            contents = report_files(self._ended)
            del contents["report.json"]  # made for those who ask for it
        files = [described(name, content) for name, content in contents.items()]
        recorder = self._recorder
        for line in chapter.logs:
            recorder.append("log", level="info", stage=stage.name, message=line)
        for file in files:
            url = f"/api/plans/{self.plan.id}/files/{file['name']}"
            recorder.append("artifact_ready", **file, stage=stage.name, url=url)
        fields = {"result": result, "files": files, "model": model, "code": None, "reason": None}
        self._put(stage, "completed", started, **fields)
        share = round(100 * (len(self.results) + 1) / len(self.stages), 2)
        recorder.put(percentage=share)
        seconds = round((self._app.clock.now() - started).total_seconds(), 3)
        done = {"percentage": share, "seconds": seconds, "artifacts": sorted(contents)}
        self._tell("stage_completed", stage, **done)
        # what needs it may begin: events are stored in the order of their appends
        self.results[stage.name] = result
        self.models[stage.name] = model
        await recorder.flush()

    async def _store_failure(self, stage: Stage, error: StageFailed, started: datetime) -> None:
        self.failed[stage.name] = error
        why = {"code": error.code, "reason": error.reason}
        self._put(stage, "failed", started, **why)
        self._tell("stage_failed", stage, **why)
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
            told = {"code": error.code, "stage": name, "reason": reason}
            end = {"status": "failed", "error": told, "data": {"missing": missing}}
            self._recorder.put(end=end)
            outcome = "failed"
        await self._recorder.flush()
        return outcome


#: Failures of a model that another try cannot correct.
_FINAL: Final = frozenset({"not_authorised", "out_of_credit", "input_refused"})
