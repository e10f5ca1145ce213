"""What each stage does; a stage returns what it found, or raises StageError.

Storing it, and what a failure means, is processors.py's.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

from minutehand.ai.in_job import ask
from minutehand.ai.speech import BYTES_PER_SECOND
from minutehand.worker.context import JobContext
from minutehand.worker.folder import Folder
from minutehand.worker.job import Job
from minutehand.worker.plain import clean_text
from minutehand_apps.training import procedure
from minutehand_apps.training.errors import EMPTY_FILE, StageError, no_room
from minutehand_apps.training.files import (
    SPARE_BYTES,
    folder_of,
    sound_key,
    sound_prefix,
    still_key,
)
from minutehand_apps.training.media import cut, unplayable
from minutehand_apps.training.models import (
    Chunk,
    ChunkPayload,
    CleanPayload,
    Limits,
    Loaded,
    Procedure,
    StillsPayload,
    StoredTraining,
    TimedSegment,
)
from minutehand_apps.training.mux import HostUpload, Mux
from minutehand_apps.training.remote import fetch_remote
from minutehand_apps.training.services import Training

#: Least time for taking the sound out, beyond what its length asks for.
SOUND_SECONDS: Final = 60.0
#: A recording whose sound ends this much before it may have been cut off.
CUT_OFF_SECONDS: Final = 5.0
#: How long the video host may take to make a video playable.
HOST_PATIENCE: Final = timedelta(hours=6)
HOST_LOOKS_SECONDS: Final = 10.0
MOST_SEGMENT: Final = 4_000
#: Most text of a chunk, and what a segment and a word take beside their own; the table's limit
#: is higher.
MOST_CHUNK_BYTES: Final = 100_000
SEGMENT_BYTES: Final = 50
WORD_BYTES: Final = 30
#: A piece is not sent with less than this, and the time of the last one, before the tick ends.
SPARE_SECONDS: Final = 10.0
#: A step at the very end is shown by the picture of this much before it.
LAST_PICTURE_SECONDS: Final = 0.5


class Pause(Exception):
    """The stage continues in `seconds`; that spends no attempt."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(seconds)


@dataclass(frozen=True, slots=True)
class Work:
    """A stage's job and what it works with."""

    app: Training
    job: Job[Any]
    ctx: JobContext
    loaded: Loaded

    @property
    def training(self) -> StoredTraining:
        """The training it is for."""
        assert self.loaded.training is not None
        return self.loaded.training

    @property
    def limits(self) -> Limits:
        """What the operator allows."""
        assert self.loaded.limits is not None
        return self.loaded.limits


class Source:
    """The recording on this machine's disk, fetched by the stage that needs it first."""

    def __init__(self, app: Training, loaded: Loaded, ctx: JobContext) -> None:
        self._app = app
        self._loaded = loaded
        self._ctx = ctx
        self._folder = Folder()
        self._file: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.__exit__()

    @property
    def folder(self) -> Path:
        """For files that shall go with it."""
        return self._folder.path

    async def file(self) -> Path:
        """The recording, whole and as announced.

        Raises:
            StageError: It is missing, too large, or not the file whose checksum was announced.
        """
        training, limits = self._loaded.training, self._loaded.limits
        if self._file is None and training is not None and limits is not None:
            file = self.folder / "video"
            if training.source_url is not None:
                await fetch_remote(
                    training.source_url,
                    file,
                    settings=self._app.videos,
                    most_bytes=limits.bytes,
                    on_bytes=self._tell,
                    transport=self._app.remote,
                )
            else:
                digest = await self._app.files.fetch(
                    training.object_key or "", file, on_bytes=self._tell
                )
                if training.checksum is not None and not digest.matches(training.checksum):
                    raise StageError(
                        "checksum_mismatch",
                        "The file that arrived is not the one that was sent: its checksum differs",
                    )
            self._file = file
        assert self._file is not None
        return self._file

    def _tell(self, done: int, size: int | None) -> None:
        share = 100 * done / size if size else 50
        report(self._ctx, share, "fetch")


async def verify(work: Work, source: Source) -> dict[str, Any]:
    """Whether the recording is there and is one; what its sender said of it does not count."""
    if work.training.source_url is None:
        await _size_of(work)
    file = await source.file()
    size = file.stat().st_size
    if size == 0:
        raise StageError("empty_file", EMPTY_FILE)
    ffmpeg = await work.app.ffmpeg()
    media = await ffmpeg.look(file)
    if media.seconds is not None and media.seconds > work.limits.seconds:
        raise StageError(
            "video_too_long",
            f"A video lasts at most {work.limits.seconds:.0f} s, this one {media.seconds:.0f} s",
        )
    note = unplayable(media)
    if note is not None:
        work.ctx.log("warning", note, stage="verify")
    return {
        "bytes": size,
        "seconds": media.seconds,
        "container": media.container,
        "video": media.video,
        "audio": media.audio,
        "width": media.width,
        "height": media.height,
        "playable": note is None,
        "note": note,
    }


async def _size_of(work: Work) -> int:
    """The size of the uploaded file in bytes."""
    size = await work.app.files.measure(work.training.object_key or "")
    if size is None:
        raise StageError("video_missing", "The upload is not complete, or was deleted")
    if size == 0:
        raise StageError("empty_file", EMPTY_FILE)
    if size > work.limits.bytes:
        raise StageError(
            "video_too_large", f"A video has at most {work.limits.bytes} bytes, this one {size}"
        )
    return size


async def take_sound(work: Work, source: Source) -> dict[str, Any]:
    """Take the sound out, and keep it in chunks that are cut where no one speaks."""
    checked = work.loaded.result("verify") or {}
    if checked.get("audio") is None:
        raise StageError("no_audio", "The video has no sound: there is nothing to write down")
    seconds = checked.get("seconds") or work.limits.seconds
    ffmpeg = await work.app.ffmpeg()
    file = source.folder / "sound"
    video = await source.file()
    room = int((checked.get("seconds") or 0) * BYTES_PER_SECOND) + SPARE_BYTES
    if shutil.disk_usage(source.folder).free < room:
        raise no_room("the sound")
    sound = await ffmpeg.listen(
        video,
        file,
        # a slow machine reads a video at least at its own pace
        seconds=SOUND_SECONDS + seconds,
        most_seconds=work.limits.seconds,
        on_second=lambda at: report(work.ctx, 60 * min(1.0, at / seconds), "audio"),
    )
    if sound.silent:
        raise StageError("silent", "The video's sound is silent: there is nothing to write down")
    if sound.seconds < (checked.get("seconds") or 0) - CUT_OFF_SECONDS:
        work.ctx.log(
            "warning",
            f"The sound ends after {sound.seconds:.0f} s of {seconds:.0f} s: is the file whole?",
            stage="audio",
        )
    chunks = cut(sound.seconds, sound.pauses)
    with file.open("rb") as samples:
        for number, (start, end) in enumerate(chunks, 1):
            first, last = (round(at * BYTES_PER_SECOND / 2) * 2 for at in (start, end))
            samples.seek(first)
            piece = await asyncio.to_thread(samples.read, last - first)
            key = sound_key(work.training.workspace_id, work.training.id, number)
            await work.app.files.put(key, piece)
            report(work.ctx, 60 + 40 * number / len(chunks), "audio")
    return {"seconds": sound.seconds, "chunks": chunks}


async def hear(work: Work, payload: ChunkPayload) -> int:
    """Write down what is said in a chunk; how many words that is."""
    key = sound_key(work.training.workspace_id, work.training.id, payload.number)
    sound = await work.app.files.read_part(key, missing="audio_gone")
    transcript = await work.app.speech.transcribe(
        sound, on_heard=lambda share: report(work.ctx, 100 * share, "transcribe")
    )

    def at(seconds: float) -> float:
        return round(min(payload.start + seconds, payload.end), 3)

    segments = [
        TimedSegment(
            start=at(said.start),
            end=at(said.end),
            text=clean_text(said.text)[:MOST_SEGMENT],
            words=[
                (clean_text(w.text), at(w.start), at(w.end))
                if w.confidence is None
                else (clean_text(w.text), at(w.start), at(w.end), round(w.confidence, 3))
                for w in said.words
            ],
        )
        for said in transcript.segments
        if clean_text(said.text).strip()
    ]
    if sum(_weight(said) for said in segments) > MOST_CHUNK_BYTES:
        raise StageError(
            "answer_unusable", f"{transcript.engine} recognised more words than are spoken"
        )
    chunk = Chunk(
        number=payload.number,
        starts_at_seconds=payload.start,
        ends_at_seconds=payload.end,
        segments=segments,
        language=transcript.language,
        engine=transcript.engine[:200],
        offline=transcript.offline,
    )
    await work.app.store.store_chunk(work.job.id, work.job.fence, chunk)
    return sum(len(said.text.split()) for said in segments)


def _weight(said: TimedSegment) -> int:
    words = sum(len(word[0].encode()) + WORD_BYTES for word in said.words)
    return len(said.text.encode()) + SEGMENT_BYTES + words


async def write_procedure(work: Work) -> dict[str, Any]:
    """Write the procedure from what was said, and store it as version 1."""
    if work.loaded.written is not None:
        return work.loaded.written  # its worker died before it could say so: a model was paid
    chunks = await work.app.store.load_chunks(work.job.id, work.job.fence)
    segments = [said for chunk in chunks for said in chunk.segments]
    model = work.app.model
    report(work.ctx, 10, "procedure")
    offline = model.offline or work.training.without_model
    if offline:
        language = None if all(each.offline for each in chunks) else chunks[0].language
        found = procedure.extract(work.training.title, segments, language=language)
        author = procedure.OFFLINE
    else:
        found, author = await _ask(work, segments), model.name
    await work.app.store.store_procedure(
        work.job.id, work.job.fence, found, author=author, offline=offline
    )
    return {"steps": len(found.steps), "author": author[:200], "offline": offline}


async def take_stills(work: Work, source: Source) -> int:
    """Keep the video's picture of each of the job's times that has one; how many those are."""
    payload: StillsPayload = work.job.payload
    video, into = await source.file(), source.folder / "still"
    ffmpeg = await work.app.ffmpeg()
    seconds = (work.loaded.result("verify") or {}).get("seconds")
    last = max(0.0, seconds - LAST_PICTURE_SECONDS) if seconds else float("inf")
    taken = []
    for number, at in enumerate(payload.at, 1):
        if await ffmpeg.take_still(video, into, at_seconds=min(at, last)):
            key = still_key(work.training.workspace_id, work.training.id, at)
            await work.app.files.put(key, into.read_bytes(), content_type="image/jpeg")
            taken.append(at)
        report(work.ctx, 100 * number / len(payload.at), "stills")
    await work.app.store.store_stills(work.job.id, work.job.fence, taken)
    return len(taken)


async def _ask(work: Work, segments: list[TimedSegment]) -> Procedure:
    try:
        prompt = procedure.write_prompt(work.training.title, segments)
    except ValueError as error:
        raise StageError("transcript_too_long", f"The model cannot take {error}") from error
    written = 0

    def count(piece: str) -> None:
        nonlocal written
        written += len(piece)
        report(work.ctx, 10 + min(80.0, written / 60), "procedure")

    answer = await ask(
        work.ctx,
        work.app.model,
        prompt,
        lambda completion: procedure.read_answer(completion, segments),
        on_text=count,
    )
    return answer.value


async def publish(work: Work) -> dict[str, Any]:
    """Bring the video to the host and wait until it can be played there."""
    host = work.app.host
    if host is None:
        return await _publish_offline(work)
    asset_id = work.training.host_asset
    if asset_id is None:
        upload = await _upload(work, host)
        asset_id = upload.asset_id
        if upload.status == "errored":
            raise StageError("host_refused", "The video host cannot use the upload")
        if asset_id is None and upload.status != "waiting":
            raise StageError("host_upload_gone", f"The upload is {upload.status} there", later=True)
        if asset_id is None:
            return await _wait_for_host(work, "The video host takes the video over")
        await work.app.store.note_host(
            work.job.id, work.job.fence, upload=upload.id, asset=asset_id
        )
    asset = await host.find_asset(asset_id)
    if asset is None:
        raise StageError("host_lost", "The video is no longer at the video host")
    if asset.status == "errored":
        raise StageError(
            "host_refused", f"The video host cannot use the video: {asset.problem or 'no reason'}"
        )
    if asset.status != "ready":
        return await _wait_for_host(work, "The video host makes the video playable")
    return {
        "host": "mux",
        "asset_id": asset.id,
        "playback_id": asset.playback_id,
        "duration_seconds": asset.seconds,
        "offline": False,
    }


async def _publish_offline(work: Work) -> dict[str, Any]:
    """Stand in for a video host: the video stays in the bucket, and its duration is measured."""
    checked = work.loaded.result("verify") or {}
    seconds = checked.get("seconds") or (work.loaded.result("audio") or {}).get("seconds")
    if seconds is None:  # its container does not say, or the transcription was cancelled
        with Source(work.app, work.loaded, work.ctx) as source:
            file = await source.file()
            ffmpeg = await work.app.ffmpeg()
            seconds = (await ffmpeg.look(file)).seconds or await ffmpeg.measure(file)
    note = "No video host is configured: the video stays in the uploads bucket"
    work.ctx.log("info", note)
    return {
        "host": "s3",
        "playback_id": f"offline-{work.training.id}",
        "duration_seconds": seconds,
        "offline": True,
        "note": note,
    }


async def _upload(work: Work, host: Mux) -> HostUpload:
    """The upload of this video, sent; an earlier attempt's continues where it stopped."""
    upload = None
    if work.training.host_upload is not None:
        upload = await host.find_upload(work.training.host_upload)
        if upload is not None and (upload.asset_id is not None or upload.status == "errored"):
            return upload  # what the host cannot use it cannot use when it is sent again either
    if upload is None or upload.status != "waiting" or upload.url is None:
        upload = await host.create_upload(str(work.training.id))
        try:
            await work.app.store.note_host(
                work.job.id, work.job.fence, upload=upload.id, asset=None
            )
        except Exception:
            await host.cancel_upload(upload.id)  # no one else knows of it
            raise
    size = (work.loaded.result("verify") or {}).get("bytes") or await _size_of(work)
    assert upload.url is not None
    key, clock = work.training.object_key or "", work.app.clock
    began: float | None = None

    async def read(start: int, length: int) -> bytes:
        nonlocal began
        last, began = began, clock.monotonic()
        if last is not None and work.ctx.remaining < SPARE_SECONDS + began - last:
            raise Pause(1)  # the next tick continues from here
        return await work.app.files.read_part(
            key, missing="video_missing", start=start, length=length
        )

    await host.send(
        upload.url,
        size,
        read,
        on_sent=lambda sent: report(work.ctx, 90 * sent / size, "publish"),
    )
    return await host.find_upload(upload.id) or upload


async def _wait_for_host(work: Work, sentence: str) -> dict[str, Any]:
    if work.app.clock.now() - work.job.created_at > HOST_PATIENCE:
        raise StageError("host_too_slow", "The video host does not make the video playable")
    work.ctx.progress(95, "publish", sentence)
    raise Pause(HOST_LOOKS_SECONDS)


async def clean(app: Training, job: Job[CleanPayload]) -> int:
    """Remove what lies outside the database; how many objects that were."""
    payload = job.payload
    own = f"workspaces/{job.workspace_id}/"
    keys = [key for key in (payload.object_key,) if key is not None and key.startswith(own)]
    removed = 0
    if payload.video or payload.audio:  # first: this needs nothing of the host's
        below = folder_of if payload.video else sound_prefix
        prefix = below(job.workspace_id, payload.training_id)
        removed = await app.files.remove(keys=keys, prefix=prefix)
    if payload.host_upload is not None or payload.host_asset is not None:
        if app.host is None:
            raise StageError("not_configured", "The video host's access token was removed")
        await _clean_host(app.host, payload)
    return removed


async def _clean_host(host: Mux, payload: CleanPayload) -> None:
    asset = payload.host_asset
    if payload.host_upload is not None:
        # before it is read: what can no longer be cancelled has become a video
        await host.cancel_upload(payload.host_upload)
        if payload.host and asset is None:
            upload = await host.find_upload(payload.host_upload)
            asset = upload.asset_id if upload is not None else None
    if asset is not None:
        await host.delete_asset(asset)


#: What people read while a stage is done, and which part of its job's percentage it is.
_STAGES: Final[dict[str, tuple[str, float, float]]] = {
    "fetch": ("The recording is fetched", 1, 6),
    "audio": ("The sound is taken out", 6, 20),
    "transcribe": ("The words are written down", 0, 100),
    "procedure": ("The procedure is written", 0, 100),
    "stills": ("The pictures of the steps are taken", 6, 100),
    "publish": ("The video is sent to the video host", 0, 100),
}


def report(ctx: JobContext, percentage: float, stage: str) -> None:
    """Report how far a stage is, 0 to 100, as its share of the job."""
    sentence, first, last = _STAGES[stage]
    ctx.progress(first + (last - first) * min(100.0, percentage) / 100, stage, sentence)
