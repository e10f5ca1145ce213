"""The training processors: the stages in their order, each a job with attempts of its own.

A finished stage is stored and never done again, whichever attempt, job or run asks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from minutehand.apps.training.errors import StageError, of_model, of_settings
from minutehand.apps.training.models import (
    ChunkPayload,
    CleanPayload,
    Loaded,
    Stage,
    StageName,
    TrainingPayload,
)
from minutehand.apps.training.services import Training
from minutehand.config import ConfigurationError, Settings
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import ChildResult, JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Retry, Snooze
from minutehand.worker.registry import Registry

if TYPE_CHECKING:
    from minutehand.apps.training.stages import Work

Outcome = dict[str, Any] | Fail | Retry | Snooze
#: Which job does which stages, the percentage before it, and what the page is told.
STAGES: Final[tuple[tuple[str, tuple[StageName, ...], int, str], ...]] = (
    ("training_prepare", ("verify", "audio"), 2, "The video is checked and its sound taken out"),
    ("training_chunk", ("transcribe",), 20, "The words are written down"),
    ("training_procedure", ("procedure",), 70, "The procedure is written"),
    ("training_publish", ("publish",), 85, "The video is published"),
)
#: A stage is not begun with less than this before the tick ends.
SECONDS_TO_SPARE: Final = 10.0


class Processors:
    """The app's processors over one process's collaborators."""

    def __init__(self, app: Training) -> None:
        self._app = app

    async def training(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Have each stage done by its jobs, and end with what they came to."""
        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.training is None:
            return Fail(f"Training not found: {job.payload.training_id}")
        for job_type, names, percentage, sentence in STAGES:
            if all(loaded.result(name) is not None for name in names):
                continue
            ctx.progress(percentage, names[0], sentence)
            ended = await self._have_done(job, ctx, loaded, job_type)
            loaded = await self._app.store.load(job.id, job.fence)
            if loaded.training is None:
                return Fail(f"Training not found: {job.payload.training_id}")
            if job_type == "training_chunk":
                loaded = await self._note_transcript(job, loaded, ended)
            missing = next((name for name in names if loaded.result(name) is None), None)
            if missing is not None:
                return await self._give_up(job, ctx, loaded, missing, ended)
        await self._app.store.finish(job.id, job.fence, job.payload.training_id, "completed")
        ctx.log("info", "The training is ready")
        ctx.progress(100, "finished", "The training is ready")
        return {"training_id": str(job.payload.training_id), "outcome": "completed"}

    async def prepare(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Check the video, take its sound out and cut it into stretches."""
        # here and not at the top: only who works on a training loads its tools
        from minutehand.apps.training.stages import Source, take_sound, verify

        loaded = await self._app.store.load(job.id, job.fence)
        with Source(self._app, loaded, ctx) as source:
            checked = await self._do(job, ctx, loaded, "verify", lambda work: verify(work, source))
            if not isinstance(checked, dict) or "failed" in checked:
                return checked
            loaded = await self._app.store.load(job.id, job.fence)
            return await self._do(job, ctx, loaded, "audio", lambda work: take_sound(work, source))

    async def chunk(self, job: Job[ChunkPayload], ctx: JobContext) -> Outcome:
        """Write down what is said in one stretch."""
        from minutehand.apps.training.stages import Work, hear

        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.training is None:
            return Fail(f"Training not found: {job.payload.training_id}")
        if job.payload.number in loaded.heard:
            return {"number": job.payload.number}
        try:
            words = await _typed(hear(Work(self._app, job, ctx, loaded), job.payload))
        except StageError as error:
            if error.later and not job.is_last_attempt:
                return _again(ctx, error)
            ctx.log("error", error.reason, code=error.code)
            # told to the training, which is the one to be taken up again: no dead letter each
            return {"number": job.payload.number, "failed": error.code, "reason": error.reason}
        return {"number": job.payload.number, "words": words}

    async def procedure(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Write the procedure."""
        from minutehand.apps.training.stages import write_procedure

        loaded = await self._app.store.load(job.id, job.fence)
        return await self._do(job, ctx, loaded, "procedure", write_procedure)

    async def publish(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Bring the video to the video host, where there is one."""
        from minutehand.apps.training.stages import publish

        loaded = await self._app.store.load(job.id, job.fence)
        return await self._do(job, ctx, loaded, "publish", publish)

    async def clean(self, job: Job[CleanPayload], ctx: JobContext) -> Outcome:
        """Remove what lies outside the database."""
        from minutehand.apps.training.stages import clean

        try:
            removed = await _typed(clean(self._app, job))
        except StageError as error:
            if error.later:
                return _again(ctx, error)
            return Fail(error.reason, data={"code": error.code})
        return {"removed": removed}

    async def _have_done(
        self, job: Job[TrainingPayload], ctx: JobContext, loaded: Loaded, job_type: str
    ) -> list[dict[str, Any]]:
        """Run a stage's jobs and wait for them; what they answered, or how they ended."""
        assert loaded.training is not None
        # a later run has jobs of its own, also when it is the same job that was revived
        name = f"{job_type}@{loaded.training.run}"
        payload = {"training_id": str(job.payload.training_id)}
        items: list[dict[str, Any]] = [dict(payload)]
        if job_type == "training_chunk":
            chunks = (loaded.result("audio") or {}).get("chunks", [])

            async def unheard() -> list[int]:
                return [n for n in range(1, len(chunks) + 1) if n not in loaded.heard]

            # remembered, since the children of later attempts hang on it
            numbers = await ctx.step(f"to hear@{loaded.training.run}", unheard)
            items = [
                {**payload, "number": n, "start": chunks[n - 1][0], "end": chunks[n - 1][1]}
                for n in numbers
            ]
        if not items:
            return []
        ids = await ctx.spawn([_child(job_type, item) for item in items], name=name)
        ended = await ctx.gather(ids, on_failed="return", name=f"{name}:ended")
        return [_answer(child) for child in ended]

    async def _note_transcript(
        self, job: Job[TrainingPayload], loaded: Loaded, ended: list[dict[str, Any]]
    ) -> Loaded:
        """Store how the transcription as a whole ended."""
        chunks = await self._app.store.load_chunks(job.id, job.fence)
        wanted = len((loaded.result("audio") or {}).get("chunks", []))
        words = sum(len(s.text.split()) for chunk in chunks for s in chunk.segments)
        if len(chunks) < wanted:
            first = next((answer for answer in ended if "failed" in answer), {})
            stage = Stage(
                name="transcribe",
                status="failed",
                code=first.get("failed", "chunks_missing"),
                reason=f"{wanted - len(chunks)} of {wanted} stretches could not be transcribed: "
                f"{first.get('reason') or 'no reason was given'}"[:2000],
            )
        elif words == 0:
            stage = Stage(
                name="transcribe",
                status="failed",
                code="no_speech",
                reason="The video has sound, but no words were recognised in it",
            )
        else:
            result = {
                "chunks": wanted,
                "words": words,
                "engine": chunks[0].engine,
                "offline": any(chunk.offline for chunk in chunks),
            }
            stage = Stage(name="transcribe", status="completed", result=result)
        await self._app.store.store_stage(job.id, job.fence, stage)
        return await self._app.store.load(job.id, job.fence)

    async def _give_up(
        self,
        job: Job[TrainingPayload],
        ctx: JobContext,
        loaded: Loaded,
        name: StageName,
        ended: list[dict[str, Any]],
    ) -> Fail:
        stage = loaded.failure(name)
        first = next((answer for answer in ended if "failed" in answer), {})
        code = (stage.code if stage else None) or first.get("failed") or "unknown"
        reason = (stage.reason if stage else None) or first.get("reason") or "It did not end well"
        await self._app.store.finish(
            job.id, job.fence, job.payload.training_id, "failed", code=code, reason=reason
        )
        ctx.log("error", reason, stage=name, code=code)
        return Fail(reason, data={"stage": name, "code": code})

    async def _do(
        self,
        job: Job[TrainingPayload],
        ctx: JobContext,
        loaded: Loaded,
        name: StageName,
        run: Callable[[Work], Awaitable[dict[str, Any]]],
    ) -> Outcome:
        """Do a stage and store what it came to."""
        from minutehand.apps.training.stages import Pause, Work

        if loaded.training is None:
            return Fail(f"Training not found: {job.payload.training_id}")
        if loaded.result(name) is not None:
            return {"stage": name}
        if ctx.remaining < SECONDS_TO_SPARE:
            return Snooze(after=1)  # cutting it off in the middle would do it twice
        started = self._app.clock.monotonic()
        ctx.log("info", f"{name.capitalize()} begins", stage=name)
        try:
            result = await _typed(run(Work(self._app, job, ctx, loaded)))
            stage = Stage(name=name, status="completed", result=result)
        except Pause as pause:
            return Snooze(after=pause.seconds)
        except StageError as error:
            if error.later and not job.is_last_attempt:
                return _again(ctx, error)
            ctx.log("error", error.reason, stage=name, code=error.code)
            stage = Stage(name=name, status="failed", code=error.code, reason=error.reason[:2000])
        seconds = round(self._app.clock.monotonic() - started, 3)
        stage = await self._app.store.store_stage(
            job.id, job.fence, stage.model_copy(update={"seconds": seconds})
        )
        if stage.status == "failed":
            return {"stage": name, "failed": stage.code, "reason": stage.reason}
        ctx.progress(100, name)
        return {"stage": name}


async def _typed(work: Awaitable[Any]) -> Any:
    """What foreign parts raise, as a stage's error."""
    from minutehand.ai.errors import LanguageModelError

    try:
        return await work
    except LanguageModelError as error:
        raise of_model(error) from error
    except ConfigurationError as error:
        raise of_settings(error) from error


def _again(ctx: JobContext, error: StageError) -> Retry:
    ctx.log("warning", error.reason, code=error.code)
    return Retry(error.reason, after=error.retry_after, data={"code": error.code})


def _child(job_type: str, payload: dict[str, Any]) -> Any:
    from minutehand.queue.models import NewJob

    return NewJob(job_type=job_type, payload=payload)


def _answer(child: ChildResult) -> dict[str, Any]:
    if child.completed and isinstance(child.result, dict):
        return child.result
    return {"failed": child.status, "reason": child.error_message or f"Its job is {child.status}"}


def register(registry: Registry, settings: Settings, *, app: Training | None = None) -> Training:
    """Add the app's processors to `registry`; returns what they hold, to be closed at the end."""
    app = app or Training(settings)
    processors = Processors(app)
    backoff = Backoff(first=5, cap=300)
    long = timedelta(minutes=14)  # a Lambda ends after fifteen
    registry.processor("training", payload=TrainingPayload, backoff=backoff, internal=True)(
        processors.training
    )
    registry.processor(
        "training_prepare",
        payload=TrainingPayload,
        # each holds a whole video on the disk
        workspace_concurrency=2,
        timeout=long,
        backoff=backoff,
        internal=True,
    )(processors.prepare)
    registry.processor(
        "training_chunk",
        payload=ChunkPayload,
        workspace_concurrency=10,
        backoff=backoff,
        internal=True,
    )(processors.chunk)
    registry.processor(
        "training_procedure", payload=TrainingPayload, backoff=backoff, internal=True
    )(processors.procedure)
    registry.processor(
        "training_publish",
        payload=TrainingPayload,
        workspace_concurrency=2,
        timeout=long,
        backoff=backoff,
        internal=True,
    )(processors.publish)
    registry.processor(
        "training_clean", payload=CleanPayload, max_attempts=20, backoff=backoff, internal=True
    )(processors.clean)
    return app
