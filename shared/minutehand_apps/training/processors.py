"""The training processors: transcription, sop_generation and mux_upload, and a chunk of the sound.

What is finished is stored with the training and never repeated by another attempt or run.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minutehand.config import ConfigurationError, Settings
from minutehand.worker import Backoff, Fail, Job, JobContext, Registry, Snooze, VendorCalls
from minutehand_apps.training.errors import later, refused
from minutehand_apps.training.files import SPARE_BYTES, sound_key, sound_prefix
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
from minutehand_apps.training.settings import MOST_SECONDS

if TYPE_CHECKING:
    from minutehand_apps.training.mux import HostUpload, Mux

Outcome = dict[str, Any] | Fail | Snooze
#: A stage is not begun with less than this before the worker run ends.
SECONDS_TO_SPARE: Final = 10.0
#: Pause until an upload looks again whether its video was checked, or the host has it ready.
CHECK_SECONDS: Final = 2.0
HOST_LOOKS_SECONDS: Final = 10.0
#: How long the video host may take to make a video playable.
HOST_PATIENCE: Final = timedelta(hours=6)
#: Least processor time for taking the sound out, beyond what its length asks for.
SOUND_SECONDS: Final = 60.0
#: A file whose end is missing says so from this many seconds on.
LEAST_MISSING: Final = 2.0
#: A transcription reports its progress at most this often while others recognise its chunks.
PROGRESS_REPORTS: Final = 20
MOST_CHUNK_BYTES: Final = 100_000
NOT_SET_UP: Final = "What this needs is not set up here. An operator must look at its settings."


class Processors:
    """The app's processors over one process's dependencies."""

    def __init__(self, app: Training) -> None:
        self._app = app

    async def transcription(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Check the recording, take its sound out, and write down what is said."""
        loaded = await self._app.store.load(job.id, job.fence)
        training = loaded.training
        if training is None:
            return _gone(job.payload)
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
        await self._app.files.remove(prefix=sound_prefix(training.workspace_id, training.id))
        missing = (training.sound or {}).get("missing_seconds")
        ends = f"; the file lacks its last {missing:.0f} s" if missing else ""
        ctx.log("info", f"The transcript is ready{ends}")
        ctx.progress(100, "finished", f"The transcript is ready{ends}")
        return {"training_id": str(training.id), **transcript}

    async def sop_generation(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Write the procedure, where there is a model."""
        training = (await self._app.store.load(job.id, job.fence)).training
        if training is None:
            return _gone(job.payload)
        stored = training.procedure
        if stored is None:
            with _set_up(ctx):
                written = await self._write(job, ctx, training)
            stored = await self._app.store.store(job.id, job.fence, "procedure", written)
        found = stored["procedure"]
        done = "The procedure is ready" if found else "No procedure: there is no language model"
        ctx.progress(100, "finished", done)
        steps = len(found["steps"]) if found else 0
        return {"training_id": str(training.id), "steps": steps, "author": stored["author"]}

    async def mux_upload(self, job: Job[TrainingPayload], ctx: JobContext) -> Outcome:
        """Bring the video to the video host, where there is one, once it is known to be one."""
        loaded = await self._app.store.load(job.id, job.fence)
        training, checked = loaded.training, loaded.transcription
        if training is None:
            return _gone(job.payload)
        if training.media is None:
            if checked is None or checked.status in {"pending", "processing", "waiting"}:
                ctx.progress(0, "waiting", "The video is being checked")
                return Snooze(after=CHECK_SECONDS)
            data = (checked.data or {}).get("data")
            return Fail(checked.error or "The video was not checked", data=data)
        published = training.published
        if published is None:
            with _set_up(ctx):
                calls = VendorCalls(job, ctx, "video host")
                found = await calls.get(partial(self._publish, job, ctx, training))
            if isinstance(found, Snooze):
                return found
            published = await self._app.store.store(job.id, job.fence, "published", found)
        ctx.progress(100, "finished", "The video is ready")
        return {"training_id": str(training.id), **published}

    async def chunk(self, job: Job[ChunkPayload], ctx: JobContext) -> Outcome:
        """Write down what is said in one chunk."""
        loaded, said = await self._app.store.load(job.id, job.fence), job.payload
        if loaded.training is None:
            return _gone(said)
        if said.number not in loaded.transcribed:
            key = sound_key(job.workspace_id, said.training_id, said.number)
            with _set_up(ctx):
                sound = await self._app.files.read_part(key, missing="audio_gone")
                calls = VendorCalls(job, ctx, "speech to text")
                found = await calls.get(partial(self._transcribe, ctx, said, sound))
                await self._app.store.store_chunk(job.id, job.fence, found)
        return {"number": said.number}

    async def _prepare(
        self, job: Job[Any], ctx: JobContext, training: StoredTraining
    ) -> StoredTraining:
        """Fetch the recording once, check it, and take its sound out."""
        from minutehand_apps.training.folder import job_folder

        store = partial(self._app.store.store, job.id, job.fence)
        with job_folder() as folder:
            file = folder / "video"
            size = await self._fetch(training, file, partial(_report, ctx, "fetch"))
            media = training.media or await store("media", await self._check(file, size))
            sound = await store("sound", await self._cut(training, media, folder, ctx))
        return training.model_copy(update={"media": media, "sound": sound})

    async def _fetch(
        self, training: StoredTraining, file: Path, report: Callable[[float], None]
    ) -> int:
        size = await self._app.files.measure(training.object_key)
        if size is None:
            raise refused("video_missing", "The upload is not complete, or was deleted")
        if size == 0:
            raise refused("empty_file", "The file is empty")
        if size > self._app.videos.upload_bytes:
            raise refused(
                "video_too_large",
                f"A video has at most {self._app.videos.upload_bytes} bytes, this one {size}",
            )
        digest = await self._app.files.fetch(
            training.object_key, file, on_bytes=lambda done, of: report(done / of if of else 0.5)
        )
        if training.checksum is not None and not digest.matches(training.checksum):
            raise refused(
                "checksum_mismatch",
                "The file that arrived is not the one that was sent: its checksum differs",
            )
        return size

    async def _check(self, file: Path, size: int) -> dict[str, Any]:
        """Whether the recording is one; what its sender said of it does not count."""
        media = await (await self._app.ffmpeg()).look(file)
        if media.seconds is not None and media.seconds > MOST_SECONDS:
            raise refused(
                "video_too_long",
                f"A video lasts at most {MOST_SECONDS / 3600:g} hours, this one"
                f" {media.seconds / 3600:.1f}",
            )
        return {"bytes": size, **asdict(media)}

    async def _cut(
        self, training: StoredTraining, media: dict[str, Any], folder: Path, ctx: JobContext
    ) -> dict[str, Any]:
        """Take the sound out, and keep it in chunks that are cut where no one speaks."""
        from minutehand.ai import BYTES_PER_SECOND
        from minutehand_apps.training.media import cut

        if media["audio"] is None:
            raise refused("no_audio", "The video has no sound: there is nothing to write down")
        seconds = media["seconds"] or MOST_SECONDS
        file = folder / "sound"
        room = int((media["seconds"] or 0) * BYTES_PER_SECOND) + SPARE_BYTES
        if shutil.disk_usage(folder).free < room:
            raise later("no_room", "The worker's disk has no room for the sound")
        ffmpeg = await self._app.ffmpeg()
        for track in range(media.get("tracks", 1)):  # the first that is not silent
            sound = await ffmpeg.listen(
                folder / "video",
                file,
                seconds=SOUND_SECONDS + seconds,
                most_seconds=MOST_SECONDS,
                track=track,
                on_second=lambda at: _report(ctx, "audio", 0.6 * at / seconds),
            )
            if not sound.silent:
                break
        if sound.silent:
            raise refused("silent", "The video's sound is silent: there is nothing to write down")
        chunks = cut(sound.seconds, sound.pauses)
        with file.open("rb") as samples:
            for number, (start, end) in enumerate(chunks, 1):
                first, last = (round(at * BYTES_PER_SECOND / 2) * 2 for at in (start, end))
                samples.seek(first)
                piece = await asyncio.to_thread(samples.read, last - first)
                await self._app.files.put(
                    sound_key(training.workspace_id, training.id, number), piece
                )
                _report(ctx, "audio", 0.6 + 0.4 * number / len(chunks))
        missing = round(seconds - sound.seconds, 1) if sound.broken_off else 0
        if missing > LEAST_MISSING:
            ctx.log("warning", f"The file breaks off: its last {missing:.0f} s are missing")
        return {
            "seconds": sound.seconds,
            "chunks": chunks,
            "missing_seconds": missing if missing > LEAST_MISSING else None,
        }

    async def _transcribe_all(
        self, job: Job[Any], ctx: JobContext, loaded: Loaded, sound: dict[str, Any]
    ) -> None:
        """Have each chunk transcribed by its own job; ProcessorError where some were not."""
        from minutehand.queue import NewJob

        chunks, transcribed = sound.get("chunks", []), set(loaded.transcribed)
        # a later run has children of its own, though it is the same job
        name = f"training_chunk@{loaded.generation}"

        async def missing() -> list[int]:
            return [n for n in range(1, len(chunks) + 1) if n not in transcribed]

        # remembered, since the children of later attempts hang on it
        numbers = await ctx.step(f"to transcribe@{loaded.generation}", missing)
        if not numbers:
            return
        ids = await ctx.spawn(
            [
                NewJob(
                    job_type="training_chunk",
                    payload={
                        "training_id": str(job.payload.training_id),
                        "number": n,
                        "start": chunks[n - 1][0],
                        "end": chunks[n - 1][1],
                    },
                )
                for n in numbers
            ],
            name=name,
        )
        failed: list[str] = []
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
            failed += [each.error_message or each.status for each in ended if not each.completed]
        if failed:
            raise refused(
                "chunks_missing",
                f"{len(failed)} of {len(chunks)} chunks could not be transcribed: {failed[0]}",
            )

    async def _transcribe(self, ctx: JobContext, said: ChunkPayload, sound: bytes) -> Chunk:
        from minutehand.worker import clean_text

        transcript = await self._app.speech.transcribe(
            sound, on_share=lambda share: _report(ctx, "transcribe", share)
        )

        def at(seconds: float) -> float:
            return round(min(said.start + seconds, said.end), 3)

        segments = [
            SpokenSegment(start=at(each.start), end=at(each.end), text=clean_text(each.text)[:4000])
            for each in transcript.segments
            if clean_text(each.text).strip()
        ]
        if sum(len(each.text.encode()) + 50 for each in segments) > MOST_CHUNK_BYTES:
            raise refused(
                "answer_unusable", f"{transcript.engine} recognised more words than are spoken"
            )
        return Chunk(
            number=said.number,
            segments=segments,
            language=transcript.language,
            engine=transcript.engine[:200],
            offline=transcript.offline,
        )

    async def _join(self, job: Job[Any], training: StoredTraining) -> dict[str, Any]:
        """Store that the transcript is complete; with it, the procedure's job."""
        chunks = await self._app.store.load_chunks(job.id, job.fence)
        words = sum(len(said.text.split()) for chunk in chunks for said in chunk.segments)
        if words == 0:
            raise refused(
                "no_speech", "The recording has sound, but no words were recognised in it"
            )
        found = {
            "chunks": len(chunks),
            "words": words,
            "language": next((c.language for c in chunks if c.language), None),
            "duration_seconds": (training.sound or {}).get("seconds"),
            "engine": chunks[0].engine,
            "offline": any(chunk.offline for chunk in chunks),
        }
        return await self._app.store.store(job.id, job.fence, "transcript", found)

    async def _write(
        self, job: Job[Any], ctx: JobContext, training: StoredTraining
    ) -> dict[str, Any]:
        """Have a model write the procedure from what was said; without one there is none."""
        from minutehand.ai import ask_for
        from minutehand_apps.training import procedure

        model = self._app.model
        if model.offline:
            return {"procedure": None, "author": procedure.OFFLINE, "offline": True}
        chunks = await self._app.store.load_chunks(job.id, job.fence)
        segments = [said for chunk in chunks for said in chunk.segments]
        try:
            prompt = procedure.write_prompt(training.title, segments)
        except ValueError as error:
            raise refused("transcript_too_long", f"The model cannot take {error}") from error

        async def written() -> Procedure:
            found = await ask_for(
                job,
                ctx,
                model,
                prompt,
                Procedure,
                check=lambda found: procedure.check_times(found, segments),
            )
            return procedure.in_order(found)

        ctx.progress(10, "procedure", "A model writes the procedure")
        found = await ctx.step("procedure", written)  # a model is paid once
        return {"procedure": found, "author": model.name[:200], "offline": False}

    async def _publish(
        self, job: Job[Any], ctx: JobContext, training: StoredTraining
    ) -> dict[str, Any] | Snooze:
        """Bring the video to the host and wait until it can be played there."""
        host, media = self._app.host, training.media or {}
        if host is None:
            note = "No video host is configured: the video stays in the uploads bucket"
            ctx.log("info", note)
            found = {"host": "s3", "playback_id": None, "note": note}
            return {**found, "duration_seconds": media.get("seconds")}
        note_host = partial(self._app.store.note_host, job.id, job.fence)
        asset_id = training.host_asset
        if asset_id is None:
            upload = await self._send(job, ctx, training, host)
            asset_id = upload.asset_id
            if upload.status == "errored":
                await note_host(upload=None, asset=None)  # a retry sends it again
                raise refused("host_refused", "The video host cannot use the upload")
            if asset_id is None:
                return _wait_for_host(ctx, "The video host takes the video over")
            await note_host(upload=upload.id, asset=asset_id)
        asset = await host.find_asset(asset_id)
        if asset is None or asset.status == "errored":
            await note_host(upload=None, asset=None)
            given = asset.errors.messages if asset and asset.errors else ("it is gone",)
            problem = "; ".join(given)[:500]
            raise refused("host_refused", f"The video host cannot use the video: {problem}")
        if asset.status != "ready":
            return _wait_for_host(ctx, "The video host makes the video playable")
        return {
            "host": "mux",
            "asset_id": asset.id,
            "playback_id": next((each.id for each in asset.playback_ids), None),
            "duration_seconds": asset.duration,
        }

    async def _send(
        self, job: Job[Any], ctx: JobContext, training: StoredTraining, host: Mux
    ) -> HostUpload:
        """The upload of this video, sent; an earlier attempt's continues where it stopped."""
        upload = None
        if training.host_upload is not None:
            upload = await host.find_upload(training.host_upload)
            if upload is not None and upload.status in {"asset_created", "errored"}:
                return upload
        if upload is None or upload.status != "waiting" or upload.url is None:
            upload = await host.create_upload(str(training.id))
            await self._app.store.note_host(job.id, job.fence, upload=upload.id, asset=None)
        size, key = (training.media or {})["bytes"], training.object_key
        await host.send(
            upload.url or "",
            size,
            lambda start, length: self._app.files.read_part(
                key, missing="video_missing", start=start, length=length
            ),
            on_sent=lambda sent: _report(ctx, "publish", 0.9 * sent / size),
        )
        return await host.find_upload(upload.id) or upload


@contextmanager
def _set_up(ctx: JobContext) -> Iterator[None]:
    """A deployment that lacks what a stage needs will not have it at the next attempt."""
    try:
        yield
    except ConfigurationError as error:
        ctx.log("error", str(error), code="not_configured")
        raise refused("not_configured", NOT_SET_UP) from error


def _wait_for_host(ctx: JobContext, sentence: str) -> Snooze:
    """Look again later, for `HOST_PATIENCE` from the first look of this run on."""
    memo, now = ctx.memo("host looked at"), ctx.clock.now()
    if memo.last is None:
        memo.add(now.isoformat())
    if now - datetime.fromisoformat(memo.last) > HOST_PATIENCE:
        raise refused("host_too_slow", "The video host does not make the video playable")
    ctx.progress(95, "publish", sentence)
    return Snooze(after=HOST_LOOKS_SECONDS)


def _gone(payload: TrainingPayload | ChunkPayload) -> Fail:
    return Fail(f"Training not found: {payload.training_id}", data={"code": "training_not_found"})


#: What people read while a stage is done, and which part of its job's percentage it is.
_STAGES: Final[dict[str, tuple[str, float, float]]] = {
    "fetch": ("The recording is fetched", 1, 6),
    "audio": ("The sound is taken out", 6, 20),
    "transcribe": ("The words are written down", 0, 100),
    "publish": ("The video is sent to the video host", 0, 100),
}


def _report(ctx: JobContext, stage: str, share: float) -> None:
    """Report how far a stage is, 0 to 1, as its share of the job."""
    sentence, first, last = _STAGES[stage]
    ctx.progress(first + (last - first) * min(1.0, share), stage, sentence)


def register(registry: Registry, settings: Settings, *, app: Training | None = None) -> Training:
    """Add the app's processors to `registry`; returns what they hold, to be closed at the end."""
    app = app or Training(settings)
    processors = Processors(app)
    backoff = Backoff(first=5, cap=300)
    long = timedelta(minutes=14)  # a Lambda ends after fifteen
    for job_type, run in (
        ("transcription", processors.transcription),
        ("sop_generation", processors.sop_generation),
        ("mux_upload", processors.mux_upload),
    ):
        registry.processor(
            job_type,
            payload=TrainingPayload,
            workspace_concurrency=app.videos.max_running,  # each may hold a whole video on the disk
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
