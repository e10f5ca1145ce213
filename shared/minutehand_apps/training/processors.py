"""The training processors: transcription, sop_generation and mux_upload, and the pieces of them.

A finished stage is stored and never repeated by another attempt or run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from minutehand.config import ConfigurationError, Settings
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import ChildResult, JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Retry, Snooze
from minutehand.worker.registry import Registry
from minutehand_apps.training.errors import StageError
from minutehand_apps.training.models import (
    ChunkPayload,
    CleanPayload,
    Loaded,
    Stage,
    StageName,
    StillsPayload,
    TrainingPayload,
)
from minutehand_apps.training.services import Training

if TYPE_CHECKING:
    from minutehand_apps.training.stages import Work

Outcome = dict[str, Any] | Fail | Retry | Snooze
#: A stage is not begun with less than this before the worker run ends.
SECONDS_TO_SPARE: Final = 10.0
#: A transcription reports its progress at most this often while others recognise its chunks.
PROGRESS_REPORTS: Final = 20
#: Seconds until an upload first checks whether its video was verified; later less often.
CHECK_SECONDS: Final = 2.0
#: Recordings of a workspace that are checked beside those being transcribed.
CHECKED_AT_ONCE: Final = 2
#: Seconds until a transcription first checks for its turn; later less often.
TURN_SECONDS: Final = 3.0
MOST_PATIENCE_SECONDS: Final = 30.0
_LIVE: Final = frozenset({"pending", "processing", "waiting"})


class Processors:
    """The app's processors over one process's dependencies."""

    def __init__(self, app: Training) -> None:
        self._app = app

    async def transcription(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Check the recording, take its sound out, and write down what is said."""
        # here and not at the top: only processing a training needs its tools
        from minutehand_apps.training.stages import Source, take_sound, verify

        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.training is None:
            return _gone(job.payload)
        if loaded.result("audio") is None:
            with Source(self._app, loaded, ctx) as source:
                # at once, whatever is ahead: a wrong file is refused in seconds
                ended = await self._do(job, ctx, loaded, "verify", verify, source)
                if ended is not None:
                    return ended
                loaded = await self._app.store.load(job.id, job.fence)
                if loaded.ahead >= self._app.videos.max_running:
                    # those that wait for their chunks hold no lease, and count as well
                    ctx.progress(6, "queued", "Other recordings come first")
                    return Snooze(after=self._pause(job, TURN_SECONDS))
                ended = await self._do(job, ctx, loaded, "audio", take_sound, source)
                if ended is not None:
                    return ended
                loaded = await self._app.store.load(job.id, job.fence)
        if loaded.result("transcribe") is None:
            answers = await self._have_heard(job, ctx, loaded)
            stage = await self._note_transcript(job, loaded, answers)
            if stage.status == "failed":
                ctx.log("error", stage.reason or "", stage="transcribe", code=stage.code)
                return _failed(stage)
            loaded = await self._app.store.load(job.id, job.fence)
        ctx.log("info", "The transcript is ready")
        ctx.progress(100, "finished", "The transcript is ready")
        return {"training_id": str(job.payload.training_id), **(loaded.result("transcribe") or {})}

    async def sop_generation(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Write the procedure."""
        from minutehand_apps.training.stages import write_procedure

        return await self._do_alone(job, ctx, "procedure", write_procedure, "The procedure")

    async def mux_upload(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Bring the video to the video host, where there is one, once it is known to be one."""
        from minutehand_apps.training.stages import publish

        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.training is not None and loaded.result("verify") is None:
            if loaded.transcription in _LIVE:
                ctx.progress(0, "waiting", "The video is being checked")
                return Snooze(after=self._pause(job, CHECK_SECONDS))
            refused = loaded.failure("verify")
            if refused is not None:
                # not stored as a failure of its own: a retry of both continues with the check
                ctx.log("error", "The video was refused", code=refused.code)
                return _failed(refused)
        return await self._do_alone(job, ctx, "publish", publish, "The video")

    async def chunk(self, job: Job[ChunkPayload], ctx: JobContext) -> Outcome:
        """Write down what is said in one chunk."""
        from minutehand_apps.training.stages import Work, hear

        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.training is None:
            return _gone(job.payload)
        if job.payload.number in loaded.heard:
            return {"number": job.payload.number}
        try:
            words = await _typed(hear(Work(self._app, job, ctx, loaded), job.payload))
        except StageError as error:
            if error.later and not job.is_last_attempt:
                return _again(ctx, error)
            ctx.log("error", error.reason, code=error.code)
            # the transcription is the one that is retried: no dead letter for each chunk
            return {"number": job.payload.number, "failed": error.code, "reason": error.reason}
        return {"number": job.payload.number, "words": words}

    async def clean(self, job: Job[CleanPayload], ctx: JobContext) -> Outcome:
        """Remove what lies outside the database."""
        from minutehand_apps.training.stages import clean

        return await _count(ctx, "removed", clean(self._app, job))

    async def stills(self, job: Job[StillsPayload], ctx: JobContext) -> Outcome:
        """Take the pictures of a procedure's steps."""
        from minutehand_apps.training.stages import Source, Work, take_stills

        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.training is None:
            return _gone(job.payload)
        with Source(self._app, loaded, ctx) as source:
            return await _count(
                ctx, "stills", take_stills(Work(self._app, job, ctx, loaded), source)
            )

    def _pause(self, job: Job[TrainingPayload], least: float) -> float:
        """Seconds until a job checks again: a backlog of hours is not polled constantly."""
        age = (self._app.clock.now() - job.created_at).total_seconds()
        return min(MOST_PATIENCE_SECONDS, max(least, age / 8))

    async def _have_heard(
        self, job: Job[TrainingPayload], ctx: JobContext, loaded: Loaded
    ) -> list[dict[str, Any]]:
        """Have each chunk transcribed by its own job; return their results."""
        chunks: list[tuple[float, float]] = (loaded.result("audio") or {}).get("chunks", [])
        # a later run has children of its own, though it is the same job
        name = f"training_chunk@{loaded.generation}"

        async def unheard() -> list[int]:
            return [n for n in range(1, len(chunks) + 1) if n not in loaded.heard]

        # remembered, since the children of later attempts hang on it
        numbers = await ctx.step(f"to hear@{loaded.generation}", unheard)
        if not numbers:
            return []
        payload = {"training_id": str(job.payload.training_id)}
        ids = await ctx.spawn(
            [
                _child({**payload, "number": n, "start": chunks[n - 1][0], "end": chunks[n - 1][1]})
                for n in numbers
            ],
            name=name,
        )
        answers: list[dict[str, Any]] = []
        size = -(-len(ids) // PROGRESS_REPORTS)
        # a few at a time, so that this job reports the progress of its chunks
        for start in range(0, len(ids), size):
            done = len(chunks) - len(ids) + start
            ctx.progress(
                20 + 79 * done / len(chunks),
                "transcribe",
                f"The words are written down: {done} of {len(chunks)} chunks",
            )
            ended = await ctx.gather(
                ids[start : start + size], on_failed="return", name=f"{name}:{start}"
            )
            answers += [_answer(child) for child in ended]
        return answers

    async def _note_transcript(
        self, job: Job[TrainingPayload], loaded: Loaded, answers: Sequence[dict[str, Any]]
    ) -> Stage:
        """Store how the transcription as a whole ended; with the words, the procedure's job."""
        chunks = await self._app.store.load_chunks(job.id, job.fence)
        audio = loaded.result("audio") or {}
        wanted = len(audio.get("chunks", []))
        words = sum(len(s.text.split()) for chunk in chunks for s in chunk.segments)
        if len(chunks) < wanted:
            first = next((answer for answer in answers if "failed" in answer), {})
            stage = Stage(
                name="transcribe",
                status="failed",
                code=first.get("failed", "chunks_missing"),
                reason=f"{wanted - len(chunks)} of {wanted} chunks could not be transcribed: "
                f"{first.get('reason') or 'no reason was given'}"[:2000],
            )
        elif words == 0:
            stage = Stage(
                name="transcribe",
                status="failed",
                code="no_speech",
                reason="The recording has sound, but no words were recognised in it",
            )
        else:
            result = {
                "chunks": wanted,
                "words": words,
                "language": next((c.language for c in chunks if c.language), None),
                "duration_seconds": audio.get("seconds"),
                "engine": chunks[0].engine,
                "offline": any(chunk.offline for chunk in chunks),
            }
            stage = Stage(name="transcribe", status="completed", result=result)
        return await self._app.store.store_stage(job.id, job.fence, stage)

    async def _do_alone(
        self,
        job: Job[TrainingPayload],
        ctx: JobContext,
        name: StageName,
        run: Callable[[Work], Awaitable[dict[str, Any]]],
        what: str,
    ) -> Outcome:
        """Do the only stage of a job; its result is the job's."""
        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.training is None:
            return _gone(job.payload)
        ended = await self._do(job, ctx, loaded, name, run)
        if ended is not None:
            return ended
        loaded = await self._app.store.load(job.id, job.fence)
        ctx.progress(100, "finished", f"{what} is ready")
        return {"training_id": str(job.payload.training_id), **(loaded.result(name) or {})}

    async def _do(
        self,
        job: Job[TrainingPayload],
        ctx: JobContext,
        loaded: Loaded,
        name: StageName,
        run: Callable[..., Awaitable[dict[str, Any]]],
        *more: Any,
    ) -> Outcome | None:
        """Do a stage and store what it came to; None when it is done."""
        from minutehand_apps.training.stages import Pause, Work

        if loaded.training is None:
            return _gone(job.payload)
        if loaded.result(name) is not None:
            return None
        failed = loaded.failure(name)
        if failed is not None:  # stored, but the worker ended before it said so
            return _failed(failed)
        if ctx.remaining < SECONDS_TO_SPARE:
            return Snooze(after=1)  # cutting it off in the middle would do it twice
        started = self._app.clock.monotonic()
        ctx.log("info", f"{name.capitalize()} begins", stage=name)
        try:
            result = await _typed(run(Work(self._app, job, ctx, loaded), *more))
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
        return _failed(stage) if stage.status == "failed" else None


async def _count(ctx: JobContext, name: str, work: Awaitable[int]) -> Outcome:
    """Count what a job beside the stages did, try again, or fail."""
    try:
        return {name: await _typed(work)}
    except StageError as error:
        if error.later:
            return _again(ctx, error)
        return Fail(error.reason, data={"code": error.code})


async def _typed(work: Awaitable[Any]) -> Any:
    """What foreign parts raise, as a stage's error."""
    from minutehand.ai.errors import LanguageModelError

    try:
        return await work
    except LanguageModelError as error:
        later = error.hope == "later"
        raise StageError(
            error.code, str(error), later=later, retry_after=error.retry_after
        ) from error
    except ConfigurationError as error:
        # a deployment that lacks what a stage needs will not have it at the next attempt
        raise StageError("not_configured", str(error)) from error


def _again(ctx: JobContext, error: StageError) -> Retry:
    ctx.log("warning", error.reason, code=error.code)
    return Retry(error.reason, after=error.retry_after, data={"code": error.code})


def _failed(stage: Stage) -> Fail:
    reason = stage.reason or f"{stage.name} failed"
    return Fail(reason, data={"stage": stage.name, "code": stage.code})


def _gone(payload: TrainingPayload | ChunkPayload | StillsPayload) -> Fail:
    return Fail(f"Training not found: {payload.training_id}", data={"code": "training_not_found"})


def _child(payload: dict[str, Any]) -> Any:
    from minutehand.queue.models import NewJob

    return NewJob(job_type="training_chunk", payload=payload)


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
    for job_type, run, checked in (
        ("transcription", processors.transcription, CHECKED_AT_ONCE),
        ("sop_generation", processors.sop_generation, 0),
        ("mux_upload", processors.mux_upload, 0),
    ):
        registry.processor(
            job_type,
            payload=TrainingPayload,
            # a transcription and an offline upload hold a whole video on the disk; those that are
            # being checked come beside the ones at work
            workspace_concurrency=app.videos.max_running + checked,
            timeout=long,
            backoff=backoff,
            internal=True,
        )(run)
    registry.processor(
        "training_chunk",
        payload=ChunkPayload,
        workspace_concurrency=10,
        backoff=backoff,
        internal=True,
        part_of="transcription",
    )(processors.chunk)
    registry.processor(
        "training_clean", payload=CleanPayload, max_attempts=20, backoff=backoff, internal=True
    )(processors.clean)
    registry.processor(
        "training_stills",
        payload=StillsPayload,
        workspace_concurrency=app.videos.max_running,  # each holds a whole video on the disk
        timeout=long,
        backoff=backoff,
        internal=True,
    )(processors.stills)
    return app
