"""The processors `transcription`, `sop_generation`, `mux_upload` and `training_chunk`.

The result of a finished stage is stored with the training, so that no other attempt or run repeats
the stage.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from minutehand.ai import BYTES_PER_SECOND, ask_for
from minutehand.config import ConfigurationError, Settings
from minutehand.queue import NewJob, decode_object, reading
from minutehand.worker import (
    Backoff,
    Fail,
    Job,
    JobContext,
    Registry,
    Snooze,
    VendorCalls,
    clean_text,
)
from minutehand_apps.training import procedure as procedures
from minutehand_apps.training.bucket import SPARE_BYTES, NotStored, sound_key, sound_prefix
from minutehand_apps.training.errors import later, refused
from minutehand_apps.training.folder import job_folder
from minutehand_apps.training.media import MAX_SECONDS, cut
from minutehand_apps.training.models import (
    Chunk,
    ChunkPayload,
    Loaded,
    Procedure,
    SpokenSegment,
    StoredTraining,
    TrainingPayload,
)
from minutehand_apps.training.services import Training

Outcome = dict[str, Any] | Fail | Snooze
#: Minimum seconds that must remain of the worker run when a stage starts.
SECONDS_TO_SPARE = 10.0
#: Seconds between two checks by `mux_upload`, first for the end of the video's check by
#: `transcription`, and then for the video to be playable at the video host.
CHECK_SECONDS = 2.0
HOST_POLL_SECONDS = 10.0
#: Maximum time until the video host has made a video playable.
HOST_MAX_WAIT = timedelta(hours=6)
#: Seconds of CPU time for the extraction of the audio, in addition to the video's duration.
SOUND_SECONDS = 60.0
#: If at least this many seconds are missing at the end of a file, the job's log contains a warning.
MIN_MISSING_SECONDS = 2.0
#: Maximum number of progress reports while the chunks of the audio are transcribed.
MAX_PROGRESS_REPORTS = 20
MAX_CHUNK_BYTES = 100_000
NOT_CONFIGURED = "This deployment lacks a required setting. An operator must add it."


class Processors:
    """The processors of the app, and the dependencies that they share."""

    def __init__(self, app: Training) -> None:
        self._app = app

    async def transcription(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Check the recording, extract its audio, and transcribe the audio."""
        loaded, training = await self._load(job)
        if training.sound is None:
            if ctx.remaining < SECONDS_TO_SPARE:
                return Snooze(after=1)
            with _set_up(ctx):
                training = await self._prepare(job, ctx, training)
        if training.transcript is None:
            await self._transcribe_all(job, ctx, loaded, training.sound or {})
            transcript = await self._join(job, training)
        else:
            transcript = training.transcript
        await self._app.bucket.remove(sound_prefix(training.workspace_id, training.id))
        missing = (training.sound or {}).get("missing_seconds")
        ends = f", but the file lacks its last {missing:.0f} s" if missing else ""
        ctx.log("info", f"The transcript is ready{ends}")
        ctx.progress(100, "finished", f"The transcript is ready{ends}")
        return {"training_id": str(training.id), **transcript}

    async def sop_generation(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Write the procedure, if there is a language model."""
        _, training = await self._load(job)
        stored = training.procedure
        if stored is None:
            with _set_up(ctx):
                written = await self._write(job, ctx, training)
            stored = await self._store(job, "procedure", written)
        procedure = stored["procedure"]
        ending = "The procedure is ready" if procedure else "No procedure without a language model"
        ctx.progress(100, "finished", ending)
        steps = len(procedure["steps"]) if procedure else 0
        return {"training_id": str(training.id), "steps": steps, "author": stored["author"]}

    async def mux_upload(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Publish the checked video at the video host, if a host is configured."""
        loaded, training = await self._load(job)
        if training.media is None:
            checked = loaded.transcription
            if checked is None or checked.status in {"pending", "processing", "waiting"}:
                ctx.progress(0, "waiting", "The video is being checked")
                return Snooze(after=CHECK_SECONDS)
            data = (checked.data or {}).get("data")
            return Fail(checked.error or "The video was not checked", data=data)
        published = training.published
        if published is None:
            with _set_up(ctx):
                calls = VendorCalls(job, ctx, "video host")
                result = await calls.get(partial(self._publish, ctx, training, loaded.generation))
            if isinstance(result, Snooze):
                return result
            published = await self._store(job, "published", result)
        ctx.progress(100, "finished", "The video is ready")
        return {"training_id": str(training.id), **published}

    async def chunk(self, job: Job[ChunkPayload], ctx: JobContext) -> Outcome:
        """Transcribe one chunk of the audio."""
        (loaded, _), payload = await self._load(job), job.payload
        if payload.number not in loaded.transcribed:
            key = sound_key(job.workspace_id, payload.training_id, payload.number)
            with _set_up(ctx):
                try:
                    sound = await self._app.bucket.read(key)
                except NotStored as error:
                    text = "A part of the video's sound is no longer in the uploads bucket"
                    raise refused("audio_gone", text) from error
                calls = VendorCalls(job, ctx, "speech to text")
                transcribed = await calls.get(partial(self._transcribe, ctx, payload, sound))
                chunk = transcribed.model_dump(mode="json")
                await self._call("training_store_chunk", job, chunk=chunk)
        return {"number": payload.number}

    async def _call(self, function: str, job: Job[Any], **options: Any) -> Any:
        return await self._app.worker.call_held(function, job.id, job.fence, **options)

    async def _load(self, job: Job[Any]) -> tuple[Loaded, StoredTraining]:
        loaded: Loaded = await self._call("training_load", job, parse=reading(Loaded))
        if loaded.training is None:
            text = f"Training not found: {job.payload.training_id}"
            raise refused("training_not_found", text)
        return loaded, loaded.training

    async def _load_chunks(self, job: Job[Any]) -> list[Chunk]:
        answer = await self._call("training_load_chunks", job, parse=decode_object)
        return [Chunk.model_validate(each) for each in answer["chunks"]]

    async def _store(self, job: Job[Any], name: str, value: dict[str, Any]) -> dict[str, Any]:
        """Store the result of a stage only once. Return the stored result."""
        stored: dict[str, Any] = await self._call(
            "training_store", job, parse=decode_object, name=name, value=value
        )
        return stored

    async def _prepare(
        self, job: Job[Any], ctx: JobContext, training: StoredTraining
    ) -> StoredTraining:
        """Download the recording only once, check it, and extract its audio."""
        store = partial(self._store, job)
        with job_folder() as folder:
            file = folder / "video"
            size = await self._fetch(training, file, partial(_report, ctx, "fetch"))
            media = training.media or await store("media", await self._check(file, size))
            sound = await store("sound", await self._cut(training, media, folder, ctx))
        return training.model_copy(update={"media": media, "sound": sound})

    async def _fetch(
        self, training: StoredTraining, file: Path, report: Callable[[float], None]
    ) -> int:
        size = await self._app.bucket.find_size(training.object_key)
        if size is None:
            raise refused("video_missing", "The upload is not complete, or was deleted")
        if size == 0:
            raise refused("empty_file", "The file is empty")
        if size > self._app.upload_bytes:
            raise refused(
                "video_too_large",
                f"A video has at most {self._app.upload_bytes} bytes, but this one has {size}",
            )
        digest = await self._app.bucket.fetch(
            training.object_key, file, lambda done, of: report(done / of)
        )
        if training.checksum is not None and not digest.matches(training.checksum):
            raise refused(
                "checksum_mismatch",
                "The uploaded file differs from the file that was sent (checksum mismatch)",
            )
        return size

    async def _check(self, file: Path, size: int) -> dict[str, Any]:
        """Check the recording by its content, because the uploader's claims are not trusted."""
        media = await (await self._app.ffmpeg()).look(file)
        if media.seconds is not None and media.seconds > MAX_SECONDS:
            raise refused(
                "video_too_long",
                f"A video lasts at most {MAX_SECONDS / 3600:g} hours, but this one lasts"
                f" {media.seconds / 3600:.1f}",
            )
        return {"bytes": size, **asdict(media)}

    async def _cut(
        self, training: StoredTraining, media: dict[str, Any], folder: Path, ctx: JobContext
    ) -> dict[str, Any]:
        """Extract the audio, divide it at pauses, and store its chunks."""
        if media["audio"] is None:
            raise refused("no_audio", "The video has no sound, so there is nothing to transcribe")
        seconds = media["seconds"] or MAX_SECONDS
        file = folder / "sound"
        room = int((media["seconds"] or 0) * BYTES_PER_SECOND) + SPARE_BYTES
        if shutil.disk_usage(folder).free < room:
            raise later("no_room", "The worker's disk has no room for the video's sound")
        ffmpeg = await self._app.ffmpeg()
        sound = await ffmpeg.listen(
            folder / "video",
            file,
            seconds=SOUND_SECONDS + seconds,
            on_second=lambda at: _report(ctx, "audio", 0.6 * at / seconds),
        )
        if sound.silent:
            raise refused("silent", "The sound is silent, so there is nothing to transcribe")
        chunks = cut(sound.seconds, sound.pauses)
        with file.open("rb") as samples:
            for number, (start, end) in enumerate(chunks, 1):
                first, last = (round(at * BYTES_PER_SECOND / 2) * 2 for at in (start, end))
                samples.seek(first)
                piece = await asyncio.to_thread(samples.read, last - first)
                key = sound_key(training.workspace_id, training.id, number)
                await self._app.bucket.call("put_object", Key=key, Body=piece)
                _report(ctx, "audio", 0.6 + 0.4 * number / len(chunks))
        missing = round(seconds - sound.seconds, 1) if sound.broken_off else 0
        if missing > MIN_MISSING_SECONDS:
            ctx.log("warning", f"The file is truncated: its last {missing:.0f} s are missing")
        return {
            "seconds": sound.seconds,
            "chunks": chunks,
            "missing_seconds": missing if missing > MIN_MISSING_SECONDS else None,
        }

    async def _transcribe_all(
        self, job: Job[Any], ctx: JobContext, loaded: Loaded, sound: dict[str, Any]
    ) -> None:
        """Transcribe each chunk in a child job. Raises ProcessorError if a child job has failed."""
        chunks = sound.get("chunks", [])
        # use another name in each run, because a retry of the finished job needs new child jobs
        name = f"training_chunk@{loaded.generation}"
        ids = await ctx.spawn(
            [
                NewJob(
                    job_type="training_chunk",
                    payload={
                        "training_id": str(job.payload.training_id),
                        "number": number,
                        "start": start,
                        "end": end,
                    },
                )
                for number, (start, end) in enumerate(chunks, 1)
            ],
            name=name,
        )
        failed: list[str] = []
        size = -(-len(ids) // MAX_PROGRESS_REPORTS)
        # wait for a few child jobs at a time, so that this job can report progress in between
        for start in range(0, len(ids), size):
            ctx.progress(
                20 + 79 * start / len(ids),
                "transcribe",
                f"Transcribed {start} of {len(ids)} chunks",
            )
            ended = await ctx.gather(
                ids[start : start + size], on_failed="return", name=f"{name}:{start}"
            )
            failed += [
                child.error_message or child.status for child in ended if not child.completed
            ]
        if failed:
            raise refused(
                "chunks_missing",
                f"{len(failed)} of {len(chunks)} chunks could not be transcribed: {failed[0]}",
            )

    async def _transcribe(self, ctx: JobContext, payload: ChunkPayload, sound: bytes) -> Chunk:
        transcript = await self._app.speech.transcribe(
            sound, on_share=lambda share: _report(ctx, "transcribe", share)
        )

        def at(seconds: float) -> float:
            return round(min(payload.start + seconds, payload.end), 3)

        segments = [
            SpokenSegment(
                start=at(segment.start), end=at(segment.end), text=clean_text(segment.text)[:4000]
            )
            for segment in transcript.segments
            if clean_text(segment.text).strip()
        ]
        if sum(len(segment.text.encode()) + 50 for segment in segments) > MAX_CHUNK_BYTES:
            raise refused(
                "answer_unusable", f"{transcript.engine} recognised more words than are spoken"
            )
        return Chunk(
            number=payload.number,
            segments=segments,
            language=transcript.language,
            engine=transcript.engine[:200],
            offline=transcript.offline,
        )

    async def _join(self, job: Job[Any], training: StoredTraining) -> dict[str, Any]:
        """Store the summary of the transcript, which also enqueues the job for the procedure."""
        chunks = await self._load_chunks(job)
        words = sum(len(segment.text.split()) for chunk in chunks for segment in chunk.segments)
        if words == 0:
            raise refused(
                "no_speech", "The recording has sound, but no words were recognised in it"
            )
        summary = {
            "chunks": len(chunks),
            "words": words,
            "language": next((c.language for c in chunks if c.language), None),
            "duration_seconds": (training.sound or {}).get("seconds"),
            "engine": chunks[0].engine,
            "offline": any(chunk.offline for chunk in chunks),
        }
        return await self._store(job, "transcript", summary)

    async def _write(
        self, job: Job[Any], ctx: JobContext, training: StoredTraining
    ) -> dict[str, Any]:
        """Let a language model write the procedure from the transcript.

        Without a model, the stored result contains no procedure.
        """
        model = self._app.model
        if model.offline:
            return {"procedure": None, "author": procedures.OFFLINE, "offline": True}
        chunks = await self._load_chunks(job)
        segments = [segment for chunk in chunks for segment in chunk.segments]
        try:
            prompt = procedures.write_prompt(training.title, segments)
        except ValueError as error:
            raise refused("transcript_too_long", f"The model cannot take {error}") from error

        async def written() -> Procedure:
            procedure = await ask_for(
                job,
                ctx,
                model,
                prompt,
                Procedure,
                check=lambda found: procedures.check_times(found, segments),
            )
            return procedures.sort_steps(procedure)

        ctx.progress(10, "procedure", "A model writes the procedure")
        stored = await ctx.step("procedure", written)  # as a step, the model is paid once
        return {"procedure": stored, "author": model.name[:200], "offline": False}

    async def _publish(
        self, ctx: JobContext, training: StoredTraining, generation: int
    ) -> dict[str, Any] | Snooze:
        """Send the video to the video host, and wait until the host can play it."""
        host, media = self._app.host, training.media or {}
        if host is None:
            message = "No video host is configured, so the video stays in the uploads bucket"
            ctx.log("info", message)
            result = {"host": "s3", "playback_id": None, "note": message}
            return {**result, "duration_seconds": media.get("seconds")}

        async def create() -> dict[str, str]:
            created = await host.create_upload(str(training.id))
            return {"id": created.id, "at": ctx.clock.now().isoformat()}

        # use another name in each run, because a retry of the finished job sends the video again
        created = await ctx.step(f"host upload@{generation}", create)
        upload = await host.find_upload(created["id"])
        if upload.status == "waiting" and upload.url is not None:
            size, key = media["bytes"], training.object_key
            await host.send(  # the rest, if an earlier attempt has sent a part
                upload.url,
                size,
                lambda start, length: self._app.bucket.read(key, start=start, length=length),
                on_sent=lambda sent: _report(ctx, "publish", 0.9 * sent / size),
            )
            upload = await host.find_upload(created["id"])
        if upload.status not in {"waiting", "asset_created"}:
            raise refused("host_refused", "The video host cannot use the upload")
        if upload.asset_id is None:
            return _wait_for_host(ctx, created["at"], "The video host is importing the video")
        asset = await host.find_asset(upload.asset_id)
        if asset.status == "errored":
            messages = "; ".join(asset.errors.messages if asset.errors else ())[:500]
            raise refused("host_refused", f"The video host cannot use the video: {messages}")
        if asset.status != "ready":
            return _wait_for_host(ctx, created["at"], "The video host is preparing the video")
        return {
            "host": "mux",
            "asset_id": asset.id,
            "playback_id": next((playback.id for playback in asset.playback_ids), None),
            "duration_seconds": asset.duration,
        }


@contextmanager
def _set_up(ctx: JobContext) -> Iterator[None]:
    """Convert an error about a missing setting into a permanent error."""
    try:
        yield
    except ConfigurationError as error:
        ctx.log("error", str(error), code="not_configured")
        raise refused("not_configured", NOT_CONFIGURED) from error


def _wait_for_host(ctx: JobContext, created_at: str, sentence: str) -> Snooze:
    """Snooze until the next check, up to `HOST_MAX_WAIT` after the creation of the upload."""
    if ctx.clock.now() - datetime.fromisoformat(created_at) > HOST_MAX_WAIT:
        raise refused("host_too_slow", "The video host did not make the video playable in time")
    ctx.progress(95, "publish", sentence)
    return Snooze(after=HOST_POLL_SECONDS)


#: Text about each stage for people, and the first and last percentage of the job in the stage.
_STAGES: dict[str, tuple[str, float, float]] = {
    "fetch": ("Downloading the recording", 1, 6),
    "audio": ("Extracting the sound", 6, 20),
    "transcribe": ("Transcribing the sound", 0, 100),
    "publish": ("Sending the video to the video host", 0, 100),
}


def _report(ctx: JobContext, stage: str, share: float) -> None:
    """Report the progress of a stage. `share` is a number from 0 to 1."""
    sentence, first, last = _STAGES[stage]
    ctx.progress(first + (last - first) * min(1.0, share), stage, sentence)


def register(registry: Registry, settings: Settings, *, app: Training | None = None) -> Training:
    """Add the app's processors to the registry.

    Return the dependencies, which the caller closes.
    """
    app = app or Training(settings)
    processors = Processors(app)
    backoff = Backoff(first=5, cap=300)
    long = timedelta(minutes=14)  # Lambda stops a function after fifteen minutes
    for job_type, run in (
        ("transcription", processors.transcription),
        ("sop_generation", processors.sop_generation),
        ("mux_upload", processors.mux_upload),
    ):
        registry.processor(
            job_type,
            payload=TrainingPayload,
            # limit the running jobs, because each job may have a whole video on the disk
            workspace_concurrency=app.max_running,
            timeout=long,
            backoff=backoff,
            internal=True,
        )(run)
    registry.processor(
        "training_chunk",
        payload=ChunkPayload,
        workspace_concurrency=10,
        timeout=long,
        backoff=backoff,
        internal=True,
        part_of="transcription",
    )(processors.chunk)
    return app
