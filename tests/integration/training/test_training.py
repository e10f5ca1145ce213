"""Rules of the training app that its guide does not test: stages, wrong files, the video host."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from minutehand.ai.errors import LanguageModelError, UnusableOutput
from minutehand.ai.speech import BYTES_PER_SECOND, Segment
from minutehand.ai.speech_offline import NAME, OfflineSpeechToText
from minutehand_apps.training.bucket import sound_prefix
from minutehand_apps.training.media import cut
from minutehand_apps.training.parts import MIN_PART_BYTES, plan
from minutehand_apps.training.services import Training
from tests.integration.training.conftest import BUCKET, SAMPLE, QuickEar, Studio
from tests.integration.training.mux_server import MuxServer
from tests.support.engine import ACME, EVE, Json
from tests.support.killable import survive
from tests.support.project import Project
from tests.unit.ai.model_server import ModelServer
from tests.unit.ai.speech_server import SpeechServer

GOOD = {"title": "Paper", "steps": [{"title": "Turn off the power", "at_seconds": 0.1}]}


def jobs_of(state: Json) -> dict[str, Json]:
    return {job["job_type"]: job for job in state["jobs"]}


def code_of(state: Json, job_type: str = "transcription") -> Any:
    return jobs_of(state)[job_type]["error_data"]["code"]


async def make(app: Training, file: Path, *arguments: str) -> bytes:
    """Create a file with ffmpeg, and return its content."""
    path = (await app.ffmpeg())._path
    command = [path, "-hide_banner", "-v", "error", "-y", *arguments, str(file)]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=120)
    return await asyncio.to_thread(file.read_bytes)


@pytest.mark.timeout(600)
async def test_workers_killed_in_each_stage_transcribe_once_and_send_one_video(
    project: Project, host: MuxServer
) -> None:
    """Workers are killed after each write.

    The recording is still transcribed once, and the video is sent once.
    """
    async with SpeechServer() as ears:
        settings = host.known_to(ears.known_to(project.settings))
        async with Studio(project, settings).open() as studio:
            training = await studio.start()

            async def ended() -> object:
                return (await studio.look(training["id"]))["status"] in {"completed", "failed"}

            deaths = await survive(
                studio.project,
                "training",
                ended,
                WORKER_CONCURRENCY="1",  # a kill then interrupts one job only
                SPEECH_URL=settings.speech_url,
                SPEECH_KEY=settings.speech_key,
                SPEECH_MODEL=settings.speech_model,
                **settings.environ,
                UPLOADS_BUCKET=BUCKET,
                AWS_ENDPOINT_URL=settings.aws_endpoint_url,
                AWS_ACCESS_KEY_ID="test",
                AWS_SECRET_ACCESS_KEY="test",
            )
            state = await studio.look(training["id"])

    assert (state["status"], state["progress_percentage"]) == ("completed", 100), state
    assert len(ears.seen) == 1
    assert host.received["upload1"] == SAMPLE.read_bytes()
    assert list(host.uploads) == ["upload1"]
    for stage in ("media", "sound", "transcript", "procedure", "published"):
        assert any(f'"name": "{stage}"' in death for death in deaths), (stage, deaths)


async def test_a_models_procedure_is_checked_and_asked_for_again(
    project: Project, ear: QuickEar
) -> None:
    """A step at a time without speech is rejected, and the model is asked once more.

    After a second wrong output, the job fails. A user can edit the words of a step.
    """
    nowhere = {"title": "Paper", "steps": [{"title": "Wash the car", "at_seconds": 900}]}
    answers = [nowhere, GOOD, nowhere, nowhere]
    async with ModelServer() as server:
        server.answers["procedure"] = lambda _: answers.pop(0)
        settings = server.known_to(project.settings)
        async with Studio(project, settings, speech=ear).open() as studio:
            started = await studio.start()
            good = await studio.ended(started)
            bad = await studio.ended(await studio.start())
            edits = []
            for step, title in ((1, "Pull the plug"), (2, "x"), (0, "x"), (1, " "), (1, "x" * 501)):
                response = await studio.call(
                    "PUT", f"/api/trainings/{started['id']}/steps/{step}", json={"title": title}
                )
                edits.append(response.status_code)
            edited = await studio.look(started["id"])

    assert (good["procedure"]["author"], good["procedure"]["offline"]) == ("test-model", False)
    assert good["procedure"]["procedure"]["steps"][0]["title"] == "Turn off the power"
    [step] = good["procedure"]["procedure"]["steps"]
    assert edited["procedure"]["procedure"]["steps"] == [{**step, "title": "Pull the plug"}]
    assert edits == [200, 422, 422, 422, 422]
    assert (bad["status"], code_of(bad, "sop_generation")) == ("failed", UnusableOutput.code)
    assert bad["transcript"] is not None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), "empty_file"),
        (("text",), "not_a_video"),
        (("-f", "lavfi", "-i", "testsrc=d=1", "-pix_fmt", "yuv420p"), "no_audio"),
        (("-f", "lavfi", "-i", "anullsrc", "-t", "2"), "silent"),
        (("-i", str(SAMPLE), "-c", "copy"), "incomplete"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_file_says_so_at_once_for_all_its_jobs(
    studio: Studio, tmp_path: Path, arguments: tuple[str, ...], code: str
) -> None:
    """A file that is empty, silent or no video fails its training without a retry.

    The error code says which it is.
    """
    content = b"" if not arguments else b"no video at all"
    if len(arguments) > 1:
        content = await make(studio.app, tmp_path / "file.mp4", *arguments)
    if code == "incomplete":
        content = content[: len(content) // 2]  # the cut removes the index at the file's end
    state = await studio.ended(await studio.start(content))
    found = studio.project.sql(
        "select job_type from background_jobs where training_id = %s and status = 'failed'"
        " and retry_count >= max_retries",
        state["id"],
    )

    assert (state["status"], code_of(state)) == ("failed", code)
    assert state["reason"]
    assert "transcription" in {row["job_type"] for row in found}


async def test_half_a_file_says_so(studio: Studio, tmp_path: Path) -> None:
    """The available part of a truncated video is transcribed."""
    front = ("-i", str(SAMPLE), "-c", "copy", "-movflags", "+faststart")
    whole = await make(studio.app, tmp_path / "file.mp4", *front)
    half = await studio.ended(await studio.start(whole[: len(whole) // 2]))
    path = f"/api/trainings/{half['id']}/transcript"
    assert (await studio.call("GET", path)).json()["missing_seconds"] > 5
    assert "lacks its last" in jobs_of(half)["transcription"]["progress_message"]


async def test_a_passing_fault_is_tried_again_and_a_retry_continues_after_what_is_finished(
    studio: Studio, ear: QuickEar
) -> None:
    """A training waits for the end of a rate limit and then completes.

    If no words were recognized, it fails, and a user's retry transcribes the sound again.
    """
    ear.before = [LanguageModelError("busy", code="rate_limited")]
    assert (await studio.ended(await studio.start()))["status"] == "completed"
    said, ear.said = ear.said, []
    silent = await studio.ended(await studio.start())
    ear.said = said
    again = await studio.call("POST", f"/api/trainings/{silent['id']}/retry")
    done = await studio.ended(silent)

    assert (silent["status"], code_of(silent)) == ("failed", "no_speech")
    assert again.status_code == 200, again.text
    assert (done["status"], done["sound"]) == ("completed", silent["sound"])


async def test_more_words_than_are_spoken_fail_at_once(studio: Studio, ear: QuickEar) -> None:
    """A transcript that is too long for its sound fails the training without a retry."""
    ear.said = [Segment(0.1, 2.0, "x" * 4000)] * 25
    state = await studio.ended(await studio.start())

    assert code_of(state) == "chunks_missing"
    assert "recognised more words than are spoken" in state["reason"]
    assert len(ear.transcribed) == 1


async def test_a_chunk_whose_sound_was_deleted_says_so(studio: Studio, ear: QuickEar) -> None:
    """If the extracted sound was deleted from the bucket, the training fails with that reason."""
    ear.before = [LanguageModelError("busy", code="rate_limited")]
    training = await studio.start()
    await studio.tick_until(lambda: studio.look(training["id"]), lambda _: not ear.before)
    await studio.app.bucket.remove(sound_prefix(ACME, training["id"]))
    state = await studio.ended(training)
    codes = studio.project.sql(
        "select error_data->'data'->>'code' as code from jobs"
        " where job_type = 'training_chunk' and status = 'failed'"
    )

    assert code_of(state) == "chunks_missing"
    assert "sound is no longer in the uploads bucket" in state["reason"]
    assert codes == [{"code": "audio_gone"}]


async def test_a_cancelled_training_stops_and_continues_when_it_is_retried(studio: Studio) -> None:
    """A cancelled training stops immediately and can be retried. A second cancel returns 409."""
    training = await studio.start()
    path = f"/api/trainings/{training['id']}"
    cancelled = await studio.call("POST", f"{path}/cancel")
    twice = await studio.call("POST", f"{path}/cancel")
    await studio.call("POST", f"{path}/retry")
    done = await studio.ended(training)

    assert cancelled.json()["status"] == "cancelled"
    assert (twice.status_code, done["status"]) == (409, "completed")


async def test_the_video_host_is_asked_until_it_is_ready(
    project: Project, ear: QuickEar, host: MuxServer
) -> None:
    """The training waits until the video host has processed the video. The video is sent once."""
    host.asset_status = "preparing"
    host.failures = 1
    async with Studio(project, host.known_to(project.settings), speech=ear).open() as studio:
        training = await studio.start()
        waiting = await studio.tick_until(
            lambda: studio.look(training["id"]), lambda _: bool(host.assets)
        )
        host.assets["asset-of-upload1"]["status"] = "ready"
        done = await studio.ended(training)

    assert waiting["published"] is None
    assert done["published"]["playback_id"] == "playback-of-upload1"
    assert bytes(host.received["upload1"]) == SAMPLE.read_bytes()
    assert list(host.uploads) == ["upload1"]


async def test_an_upload_is_its_owners_and_a_deleted_one_leaves_nothing(studio: Studio) -> None:
    """No one may transcribe another person's upload. A deleted training leaves no files."""
    before = studio.objects()
    state = await studio.ended(await studio.start())
    [key] = studio.objects() - before
    path = f"/api/trainings/{state['id']}"
    listed = await studio.call("GET", f"/api/trainings?workspace_id={ACME}")
    body = {"user_id": EVE, "company_id": ACME, "audio_url": key}
    stolen = await studio.call("POST", f"{path}/transcription", user=EVE, json=body)
    gone = await studio.call("DELETE", path)

    assert [each["id"] for each in listed.json()["trainings"]] == [state["id"]]
    assert stolen.status_code == 404
    assert (gone.status_code, studio.objects()) == (204, before)
    assert (await studio.call("GET", path)).status_code == 404


async def test_a_part_beyond_the_plan_is_not_joined(studio: Studio) -> None:
    """A part that exceeds the announced size is not joined into the uploaded file."""
    bucket, key, planned = studio.app.bucket, "videos/c.mp4", plan(MIN_PART_BYTES)
    upload_id = await bucket.create(key, content_type="video/mp4")
    part = {"Key": key, "UploadId": upload_id, "ChecksumAlgorithm": "SHA256"}
    for number, size in ((1, MIN_PART_BYTES), (2, 5)):
        await bucket.call("upload_part", **part, PartNumber=number, Body=bytes(size))

    await bucket.join(key, upload_id, planned)

    assert await bucket.find_size(key) == planned.size_bytes


def test_sound_is_cut_in_pauses_into_chunks_of_about_half_a_minute() -> None:
    """Sound is cut in pauses into chunks of about half a minute, without a gap."""
    chunks = cut(100.0, [(28.0, 30.0), (61.0, 62.0)])
    assert [start for start, _ in chunks] == [0.0, 29.0, 61.5]
    assert [end for _, end in chunks] == [29.0, 61.5, 100.0]


async def test_cancelling_ends_the_process_and_the_next_chunk_is_transcribed() -> None:
    """A cancel ends the offline engine's process. The next chunk of sound is transcribed."""
    model = OfflineSpeechToText()
    progressed = asyncio.Event()
    running = asyncio.create_task(
        model.transcribe(bytes(60 * BYTES_PER_SECOND), on_share=lambda _: progressed.set())
    )
    await progressed.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    found = await model.transcribe(bytes(3_200))
    assert (found.segments, found.engine, found.offline) == ((), NAME, True)
