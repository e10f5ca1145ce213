"""The plans processors: a plan's stages in their order, and the phases beside each other.

Whatever fails, the plan ends with what there is: completed, or partial with the reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minutehand.apps.plans.models import Loaded, Missing, PhasePayload, PlanPayload, Stage
from minutehand.apps.plans.services import Plans
from minutehand.config import Settings
from minutehand.queue.models import NewJob
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import ChildResult, JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Retry, Snooze
from minutehand.worker.registry import Registry

if TYPE_CHECKING:
    from minutehand.apps.plans.pipeline import GivenUp, Pipeline
    from minutehand.apps.plans.stages import Kind

PHASE_ATTEMPTS = 3


class Processors:
    """The app's processors over one process's collaborators."""

    def __init__(self, app: Plans) -> None:
        self._app = app

    async def plan(
        self, job: Job[PlanPayload], ctx: JobContext
    ) -> dict[str, Any] | Fail | Retry | Snooze:
        """Write the stages, ask the person, have the phases written, and end in any case."""
        # here and not at the top: only who plans loads a language model
        from minutehand.apps.plans.pipeline import GivenUp, Pause

        pipeline = await self._open(job, ctx)
        if pipeline is None:
            return Fail(f"Plan not found: {job.payload.plan_id}")
        given_up: GivenUp | None = None
        children: dict[int, ChildResult] = {}
        try:
            children = await self._stages(pipeline, ctx)
        except Pause as pause:
            return pause.outcome
        except GivenUp as error:
            given_up = error
            ctx.log("error", f"The rest is left out: {error.reason}", code=error.code)
        missing = _missing(pipeline, children, given_up)
        finished = await self._app.store.finish(job.id, job.fence, missing)
        sentence = (
            "The report is ready"
            if finished.outcome == "completed"
            else f"The report is ready; {len(finished.missing)} parts are missing"
        )
        ctx.log("info", sentence)
        ctx.progress(100, "finished", sentence)
        return {
            "plan_id": str(pipeline.plan.id),
            "outcome": finished.outcome,
            "missing": [each.stage for each in finished.missing],
        }

    async def phase(
        self, job: Job[PhasePayload], ctx: JobContext
    ) -> dict[str, Any] | Fail | Retry | Snooze:
        """Write one phase; one that cannot be written is told to the plan, not a dead letter."""
        from minutehand.apps.plans.pipeline import GivenUp, Pause
        from minutehand.apps.plans.stages import phase_kind

        pipeline = await self._open(job, ctx)
        outline = pipeline.result("outline") if pipeline is not None else None
        number = job.payload.number
        if pipeline is None or outline is None or number > len(outline["phases"]):
            return Fail(f"Phase not found: {job.payload.plan_id}, {number}")
        kind = phase_kind(number, outline["phases"][number - 1]["title"])
        try:
            stage = await pipeline.write(kind, begin=0, end=95)
        except Pause as pause:
            return pause.outcome
        except GivenUp as error:
            stage = await self._given_up(pipeline, kind, error)
        ctx.progress(100, kind.name, "written" if stage.completed else stage.reason)
        return {"number": number, "status": stage.status, "code": stage.code}

    async def _given_up(self, pipeline: Pipeline, kind: Kind, error: GivenUp) -> Stage:
        """The phase as failed, for its own reason or for this one; what was written stays."""
        found = pipeline.done.get(kind.name)
        if found is not None and found.status != "interrupted":
            return found
        return await pipeline.keep(
            Stage(
                name=kind.name,
                position=kind.position,
                status="failed",
                code=error.code,
                reason=error.reason,
                draft=found.draft if found is not None else None,
                model=found.model if found is not None else None,
                offline=found.offline if found is not None else False,
            )
        )

    async def _open(self, job: Job[Any], ctx: JobContext) -> Pipeline | None:
        from minutehand.apps.plans.pipeline import Pipeline

        loaded: Loaded = await self._app.store.load(job.id, job.fence)
        return None if loaded.plan is None else Pipeline(self._app, job, ctx, loaded)

    async def _stages(self, pipeline: Pipeline, ctx: JobContext) -> dict[int, ChildResult]:
        from minutehand.apps.plans.stages import OUTLINE, REVIEW, RISKS, UNDERSTAND

        children: dict[int, ChildResult] = {}
        if pipeline.plan.outcome is not None:
            return children  # it had ended, and the worker died before it could say so
        await pipeline.write(UNDERSTAND, begin=2, end=10)
        await self._ask(pipeline, ctx)
        await pipeline.write(OUTLINE, begin=15, end=25)
        if pipeline.result("outline") is not None:
            children = await self._phases(pipeline, ctx)
        await pipeline.write(RISKS, begin=80, end=88)
        await pipeline.write(REVIEW, begin=90, end=98)
        return children

    async def _ask(self, pipeline: Pipeline, ctx: JobContext) -> None:
        """Ask what the model would know; the answers, or the assumptions, go into the plan."""
        from minutehand.apps.plans.stages import ANSWERS_POSITION, GO_ON, MOST_QUESTIONS

        found = pipeline.result("understand")
        if not pipeline.request.ask or found is None or pipeline.result("answers") is not None:
            return
        answers = []
        for number, asked in enumerate(found["questions"][:MOST_QUESTIONS], 1):
            options = list(dict.fromkeys([*asked["options"], GO_ON])) if asked["options"] else None
            ctx.progress(12, "asking", asked["question"])
            answer = await ctx.ask(
                asked["question"],
                options,
                timeout=pipeline.request.ask_seconds,
                default=GO_ON,
                name=f"question {number}",
            )
            answers.append({"question": asked["question"], "answer": str(answer)[:2000]})
        if answers:
            await pipeline.keep(
                Stage(
                    name="answers",
                    position=ANSWERS_POSITION,
                    status="completed",
                    result={"answers": answers},
                )
            )

    async def _phases(self, pipeline: Pipeline, ctx: JobContext) -> dict[int, ChildResult]:
        """Have every phase written that is not; each in a job of its own, by any worker."""
        outline = pipeline.result("outline")
        assert outline is not None

        async def unwritten() -> list[int]:
            numbers = range(1, len(outline["phases"]) + 1)
            return [n for n in numbers if pipeline.result(f"phase:{n}") is None]

        # remembered, since the children's names in later attempts hang on it
        numbers = await ctx.step("phases to write", unwritten)
        ctx.progress(30, "phases", f"{len(numbers)} phases are being written")
        jobs = [
            NewJob(
                job_type="plan_phase",
                payload={"plan_id": str(pipeline.plan.id), "number": number},
            )
            for number in numbers
        ]
        ids = await ctx.spawn(jobs, name="phases")
        ended = await ctx.gather(ids, on_failed="return", name="phases ended")
        await pipeline.reload()
        return dict(zip(numbers, ended, strict=True))


def _missing(
    pipeline: Pipeline, children: dict[int, ChildResult], given_up: GivenUp | None
) -> list[Missing]:
    """What is not there, each with the nearest reason."""
    outline = pipeline.result("outline")
    phases = [f"phase:{n}" for n in range(1, len(outline["phases"]) + 1)] if outline else ["phases"]
    missing = []
    for name in ("understand", "outline", *phases, "risks", "review"):
        stage = pipeline.done.get(name)
        if stage is not None and stage.completed:
            continue
        if stage is not None and stage.status == "failed":
            code, reason = stage.code, stage.reason
        elif (child := _child(name, children)) is not None:
            code, reason = child.status, child.error_message or f"Its job is {child.status}"
        elif given_up is not None:
            code, reason = given_up.code, given_up.reason
        else:
            code, reason = "not_reached", "What it builds on is missing"
        missing.append(Missing(stage=name, code=code or "unknown", reason=reason or "unknown"))
    return missing


def _child(name: str, children: dict[int, ChildResult]) -> ChildResult | None:
    number = name.removeprefix("phase:")
    return children.get(int(number)) if number.isdigit() else None


def register(registry: Registry, settings: Settings, *, app: Plans | None = None) -> Plans:
    """Add the app's processors to `registry`; returns what they hold, to be closed at the end."""
    app = app or Plans(settings)
    processors = Processors(app)
    backoff = Backoff(first=5, cap=120)
    registry.processor("plan", payload=PlanPayload, backoff=backoff, internal=True)(processors.plan)
    registry.processor(
        "plan_phase",
        payload=PhasePayload,
        workspace_concurrency=20,
        max_attempts=PHASE_ATTEMPTS,
        backoff=backoff,
        internal=True,
    )(processors.phase)
    return app
