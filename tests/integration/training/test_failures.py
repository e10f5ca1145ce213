"""Whatever goes wrong: a reason for people, what was finished kept, and a way on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from minutehand.ai.errors import NotAuthorised, RateLimited
from minutehand.ai.speech import Segment
from minutehand.config import Settings
from minutehand.worker.testing import drain
from minutehand_apps.training.procedure import OFFLINE
from tests.integration.training.conftest import (
    BOB,
    BUCKET,
    EVE,
    GLOBEX,
    SAMPLE,
    QuickEar,
    Studio,
)
from tests.support.killable import until
from tests.support.project import ACME, ADA, Project
from tests.unit.ai.model_server import Fault, ModelServer
from tests.unit.training.test_media import THRICE, make


async def test_what_cannot_be_learned_from_is_reported(studio: Studio, tmp_path: Path) -> None:
    """Each by its own reason; a failed training keeps it, and the job says it too."""
    picture = ("-f", "lavfi", "-i", "testsrc=s=64x64:r=5")
    silence = ("-f", "lavfi", "-i", "anullsrc")
    cases = {
        "not_a_video": b"Turn the power off.\n" * 100,
        "no_audio": make(tmp_path / "mute.mp4", *picture, "-t", "2").read_bytes(),
        "silent": make(tmp_path / "hushed.mp4", *picture, *silence, "-t", "2").read_bytes(),
    }
    started = {code: await studio.start(content) for code, content in cases.items()}

    for code, training in started.items():
        state = await studio.ended(training)
        assert (state["status"], state["code"]) == ("failed", code)
        assert state["reason"]
        job = studio.job(training)
        assert (job["status"], job["error_message"]) == ("failed", state["reason"])


async def test_a_recording_that_was_cut_off_says_so(studio: Studio) -> None:
    """Half a file is learned from, and no one takes that for the whole."""
    content = SAMPLE.read_bytes()
    training = await studio.start(content[: len(content) // 2])

    state = await studio.ended(training)

    logged = studio.project.rows(
        "select message from public.job_logs where job_id = %s", studio.job(training)["id"]
    )
    assert state["status"] == "completed"
    assert any("s of 19 s: is the file whole?" in row["message"] for row in logged)


async def test_what_is_handed_in_wrongly_is_refused_at_once(studio: Studio) -> None:
    """Empty, too large, not there, another's: before anything is enqueued."""
    empty = await studio.put(b"")
    bobs = await studio.put(b"x", user=BOB)
    missing = f"workspaces/{ACME}/{ADA}/{uuid.uuid4()}/clip.mp4"
    good = await studio.put(b"x" * 100)
    body = {"workspace_id": ACME, "title": "Paper", "object_key": good}
    studio.project.run_sql(
        "update queue.settings set value = '99' where name = 'training_max_bytes'"
    )

    async def refusal(user: str = ADA, **changes: Any) -> tuple[int, str]:
        answer = await studio.call("POST", "/api/trainings", user=user, json={**body, **changes})
        return answer.status_code, answer.json()["code"]

    assert await refusal(object_key=empty) == (422, "empty_file")
    assert await refusal() == (413, "video_too_large")
    assert await refusal(object_key=missing) == (409, "upload_incomplete")
    assert await refusal(object_key=bobs) == (404, "upload_not_found")
    assert await refusal(object_key="../../etc/passwd") == (404, "upload_not_found")
    assert await refusal(user=EVE) == (404, "upload_not_found")
    assert await refusal(workspace_id=GLOBEX) == (404, "upload_not_found")
    assert await refusal(title=" ") == (422, "validation_failed")
    assert studio.project.rows("select 1 from public.trainings") == []


async def test_one_upload_is_one_training(studio: Studio) -> None:
    """Handed in again it is found; with another title it is a conflict."""
    key = await studio.put(SAMPLE.read_bytes())
    body = {"workspace_id": ACME, "title": "Paper", "object_key": key}

    answers = await asyncio.gather(
        *(studio.call("POST", "/api/trainings", json=body) for _ in range(3))
    )
    other = await studio.call("POST", "/api/trainings", json={**body, "title": "Other"})

    assert sorted(answer.status_code for answer in answers) == [200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


async def test_a_failed_stretch_is_transcribed_again_and_nothing_else(
    studio: Studio, ear: QuickEar, tmp_path: Path
) -> None:
    """Three stretches, one refused for good: going on cuts and hears only what is missing."""
    long = make(tmp_path / "long.mp4", *THRICE)
    ear.before = [NotAuthorised("Speech to text refused the key", status=401)]
    training = await studio.start(long.read_bytes())

    failed = await studio.ended(training)
    before = len(ear.heard)
    transcript = await studio.call("GET", f"/api/trainings/{training['id']}/transcript")
    again = await studio.call("POST", f"/api/trainings/{training['id']}/retry")
    done = await studio.ended(training)

    assert (failed["status"], failed["code"]) == ("failed", "not_authorised")
    assert "refused the key" in failed["reason"]
    assert failed["heard"] == before == 2
    assert transcript.json()["complete"] is False
    assert len(transcript.json()["segments"]) == 6
    assert again.status_code == 200, again.text
    assert (done["status"], done["run"], len(ear.heard)) == ("completed", 2, 3)
    stages = {stage["name"]: stage["run"] for stage in done["stages"]}
    assert (stages["verify"], stages["audio"], stages["transcribe"]) == (1, 1, 2)
    rows = studio.project.rows(
        "select starts_at_seconds as a, ends_at_seconds as b from public.training_chunks"
        " where training_id = %s order by number",
        training["id"],
    )
    assert all(one["b"] == two["a"] for one, two in itertools.pairwise(rows))
    refused = await studio.call("POST", f"/api/trainings/{training['id']}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "invalid_state")


async def test_a_dead_letter_that_is_retried_continues_as_well(
    studio: Studio, ear: QuickEar
) -> None:
    """By the job's own retry, as an operator would: behind the rest, and heard anew.

    Where no word was heard another ear may do better; else going on could change nothing.
    """
    ear.said = []
    training = await studio.start()
    failed = await studio.ended(training)
    assert (failed["code"], failed["heard"]) == ("no_speech", 1)

    ear.said = [Segment(0.0, 1.0, "turn it off")]
    retried = await studio.call("POST", f"/api/jobs/{studio.job(training)['id']}/retry")
    assert retried.status_code == 200, retried.text
    done = await studio.until(training, lambda state: state["status"] == "completed")

    assert done["run"] == 2
    assert len(ear.heard) == 2


async def test_a_service_in_trouble_is_asked_again_later(studio: Studio, ear: QuickEar) -> None:
    """`Retry-After` is obeyed by the stretch's own job; the training does not notice."""
    ear.before = [
        RateLimited("The rate limit is reached", status=429, retry_after=timedelta(seconds=40))
    ]
    training = await studio.start()
    await studio.until(training, lambda state: ear.before == [])
    [waiting] = studio.project.rows(
        "select extract(epoch from next_retry_at - updated_at) as seconds from public.jobs"
        " where job_type = 'training_chunk' and status = 'pending'"
    )
    done = await studio.ended(training)

    assert 35 < waiting["seconds"] < 60
    assert done["status"] == "completed"


async def test_a_cancel_stops_every_stage_and_work_continues_later(
    studio: Studio, ear: QuickEar
) -> None:
    """The stretch under way is stopped; what was finished stays for the next run."""
    ear.hold = asyncio.Event()
    training = await studio.start()
    working = asyncio.create_task(drain(studio.worker))
    await asyncio.wait_for(ear.reached.wait(), 120)

    cancelled = await studio.call("POST", f"/api/trainings/{training['id']}/cancel")
    again = await studio.call("POST", f"/api/trainings/{training['id']}/cancel")
    await working
    stopped = await studio.until(training, lambda state: state["status"] == "cancelled")
    live = studio.project.rows(
        "select job_type from public.jobs where finished_at is null"
        " and job_type <> 'training_clean'"
    )
    ear.hold = None
    resumed = await studio.call("POST", f"/api/trainings/{training['id']}/retry")
    done = await studio.ended(training)

    assert (cancelled.status_code, again.status_code, resumed.status_code) == (200, 200, 200)
    # the upload to the host runs beside them, and may have ended at any time
    assert [stage["name"] for stage in stopped["stages"] if stage["name"] != "publish"] == [
        "verify",
        "audio",
    ]
    assert live == []
    assert done["status"] == "completed"
    late = await studio.call("POST", f"/api/trainings/{training['id']}/cancel")
    assert late.status_code == 409


async def test_a_cancel_while_the_video_is_read_leaves_nothing_running(
    project: Project, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an ffmpeg nor a video on the disk, which the next job may need."""
    slow = tmp_path / "ffmpeg"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    slowly = settings.with_environ(FFMPEG_PATH=str(slow))

    async with Studio(project, slowly, speech=QuickEar()).open() as studio:
        training = await studio.start()
        working = asyncio.create_task(drain(studio.worker))
        child = await asyncio.to_thread(until_it_runs, "sleep")
        kept = [file.name for file in disk.glob("minutehand-job-*/*")]
        await studio.call("POST", f"/api/trainings/{training['id']}/cancel")
        await working
        stopped = await studio.until(training, lambda state: state["status"] == "cancelled")

    assert kept == ["video"]
    assert stopped["stages"] == []
    assert not child.is_running()
    assert list(disk.glob("minutehand-job-*")) == []


def until_it_runs(name: str) -> psutil.Process:
    """Wait for a child of this process."""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == name:
                    return child
        time.sleep(0.02)
    raise AssertionError(f"no {name} runs")


async def test_a_deleted_training_leaves_nothing_behind(studio: Studio, ear: QuickEar) -> None:
    """Rows, the video, the cut sound; also when work on it was just under way."""
    before = studio.objects()
    ear.hold = asyncio.Event()
    training = await studio.start()
    working = asyncio.create_task(drain(studio.worker))
    await asyncio.wait_for(ear.reached.wait(), 120)
    kept = studio.objects() - before

    deleted = await studio.call("DELETE", f"/api/trainings/{training['id']}")
    again = await studio.call("DELETE", f"/api/trainings/{training['id']}")
    await working
    await studio.tick_until_so(lambda: studio.objects() == before)

    assert len(kept) == 2
    assert (deleted.status_code, again.status_code) == (204, 404)
    assert studio.objects() == before
    for table in ("trainings", "training_stages", "training_chunks", "training_procedures"):
        assert studio.project.rows(f"select 1 from public.{table}") == []


async def test_a_stranger_sees_nothing(studio: Studio) -> None:
    """Every route says the same to a stranger as about a training that never was."""
    training = await studio.start()
    await studio.ended(training)
    procedure = {"title": "x", "steps": [{"title": "x", "at_seconds": 0}]}
    calls = [
        ("GET", "", None), ("GET", "/transcript", None), ("GET", "/procedure", None),
        ("GET", "/video", None), ("POST", "/cancel", None), ("POST", "/retry", None),
        ("PUT", "/procedure", {"base_version": 1, "procedure": procedure}), ("DELETE", "", None),
    ]  # fmt: skip

    for method, part, body in calls:
        answers = [
            await studio.call(method, f"/api/trainings/{name}{part}", user=user, json=body)
            for name, user in ((training["id"], EVE), (uuid.uuid4(), ADA))
        ]
        assert {(a.status_code, a.json()["code"]) for a in answers} == {
            (404, "training_not_found")
        }, (method, part)
        nobody = await studio.call(
            method, f"/api/trainings/{training['id']}{part}", user=None, json=body
        )
        assert nobody.status_code == 401
    listed = await studio.call("GET", "/api/trainings", user=EVE, params={"workspace_id": ACME})
    assert (listed.status_code, listed.json()["code"]) == (404, "workspace_not_found")
    tables = ("trainings", "training_stages", "training_chunks", "training_procedures")
    for table in (*tables, "background_jobs", "job_queue"):
        path = f"/{table}?{'workspace' if table in tables else 'company'}_id=eq.{ACME}"
        assert await studio.read(path, user=EVE) == []
        assert isinstance(await studio.read(path), list)
    assert (await studio.look(training))["status"] == "completed"


async def test_people_edit_in_versions(studio: Studio) -> None:
    """Each is kept; who edits an older one is told; nothing becomes markup."""
    training = await studio.start()
    await studio.ended(training)
    at = f"/api/trainings/{training['id']}/procedure"
    first = (await studio.call("GET", at)).json()
    edited = {**first["procedure"], "title": "Turn it <b>off</b>"}
    other = {**first["procedure"], "title": "Another"}

    saved = await studio.call("PUT", at, json={"base_version": 1, "procedure": edited})
    same = await studio.call("PUT", at, json={"base_version": 2, "procedure": edited})
    late = await studio.call("PUT", at, user=BOB, json={"base_version": 1, "procedure": other})
    bad = await studio.call(
        "PUT", at, json={"base_version": 2, "procedure": {**edited, "steps": []}}
    )
    old = (await studio.call("GET", at, params={"version": 1})).json()
    text = await studio.call("GET", at, headers={"Accept": "text/markdown"})
    none = await studio.call("GET", at, params={"version": 7})

    assert (saved.status_code, saved.json()["version"], saved.json()["author"]) == (
        200, 2, "person",
    )  # fmt: skip
    assert [one["version"] for one in saved.json()["versions"]] == [2, 1]
    assert (same.status_code, same.json()["version"]) == (200, 2)
    assert (late.status_code, late.json()["code"]) == (409, "edit_conflict")
    assert (bad.status_code, none.status_code) == (422, 404)
    assert old["procedure"]["steps"][0]["said"] == saved.json()["procedure"]["steps"][0]["said"]
    assert old["procedure"]["title"] == first["procedure"]["title"]
    assert r"Turn it \<b\>off\</b\>" in text.text
    assert text.headers["content-disposition"].startswith("attachment")


async def test_edits_of_different_steps_are_merged(studio: Studio) -> None:
    """The second person to save keeps both; the same step is a conflict that shows both texts."""
    training = await studio.start()
    await studio.ended(training)
    at = f"/api/trainings/{training['id']}/procedure"
    first = (await studio.call("GET", at)).json()["procedure"]
    steps = [{k: step[k] for k in ("title", "detail", "at_seconds")} for step in first["steps"]]

    def edit(number: int, title: str) -> dict[str, Any]:
        changed = [{**s, "title": title} if n == number else s for n, s in enumerate(steps, 1)]
        return {"base_version": 1, "procedure": {**first, "steps": changed}}

    mine = await studio.call("PUT", at, json=edit(1, "Off with it"))
    theirs = await studio.call("PUT", at, user=BOB, json=edit(2, "Open it"))
    same = await studio.call("PUT", at, user=BOB, json=edit(1, "Leave it on"))
    resolved = await studio.call(
        "PUT",
        at,
        user=BOB,
        json={
            "base_version": same.json()["detail"]["version"],
            "procedure": same.json()["detail"]["merged"],
        },
    )

    assert (mine.status_code, theirs.status_code, theirs.json()["version"]) == (200, 200, 3)
    both = theirs.json()["procedure"]["steps"]
    assert [step["title"] for step in both[:2]] == ["Off with it", "Open it"]
    assert [step["said"] for step in both] == [step["said"] for step in first["steps"]]
    assert (same.status_code, same.json()["code"]) == (409, "edit_conflict")
    [conflict] = same.json()["detail"]["conflicts"]
    assert (conflict["part"], conflict["number"]) == ("step", 1)
    assert [conflict[who]["title"] for who in ("base", "mine", "theirs")] == [
        steps[0]["title"], "Leave it on", "Off with it",
    ]  # fmt: skip
    titles = [step["title"] for step in resolved.json()["procedure"]["steps"]]
    assert titles[:2] == ["Leave it on", "Open it"]


async def test_each_step_has_a_picture_of_its_time(studio: Studio) -> None:
    """Also a step whose time a person changed; all of them go with the training."""
    before = studio.objects()
    training = await studio.start()
    state = await studio.until(training, lambda now: now["stills"] > 0)
    at = f"/api/trainings/{training['id']}/procedure"
    first = (await studio.call("GET", at)).json()["procedure"]
    moved = [{**first["steps"][0], "at_seconds": 18.9}, *first["steps"][1:]]
    await studio.call("PUT", at, json={"base_version": 1, "procedure": {**first, "steps": moved}})
    await studio.until(training, lambda now: now["stills"] > state["stills"])
    second = (await studio.call("GET", at)).json()["procedure"]
    async with httpx.AsyncClient() as browser:
        pictures = [await browser.get(step["still"]) for step in second["steps"]]
    await studio.call("DELETE", f"/api/trainings/{training['id']}")
    await studio.tick_until_so(lambda: studio.objects() == before)

    assert all(picture.headers["content-type"] == "image/jpeg" for picture in pictures)
    assert all(picture.content.startswith(b"\xff\xd8\xff") for picture in pictures)
    assert pictures[0].content != pictures[1].content
    assert second["steps"][0]["still"].partition("?")[0] != first["steps"][0]["still"]


async def test_the_monitor_shows_what_waits_and_what_has_ended(studio: Studio) -> None:
    """The views of design: one for jobs as they are, one for those that have not ended."""
    training = await studio.start()
    of_it = f"training_id=eq.{training['id']}"
    queued = await studio.read(f"/job_queue?{of_it}&order=priority,created_at")
    await studio.ended(training)
    jobs = await studio.read(f"/background_jobs?{of_it}")

    assert [job["job_type"] for job in queued] == ["transcription", "mux_upload"]
    kinds = {job["job_type"]: job for job in jobs}
    assert set(kinds) == {"transcription", "sop_generation", "mux_upload"}
    for job in jobs:
        assert (job["status"], job["progress_percentage"]) == ("completed", 100)
        assert (job["user_id"], job["company_id"]) == (ADA, ACME)
        assert job["created_at"] <= job["started_at"] <= job["completed_at"]
        assert job["output_data"]["training_id"] == job["input_data"]["training_id"]
        assert (job["retry_count"], job["max_retries"], job["error_data"]) == (0, 4, None)
    assert kinds["mux_upload"]["output_data"]["playback_id"].startswith("offline-")
    assert kinds["mux_upload"]["output_data"]["duration_seconds"] == pytest.approx(19, abs=1)
    assert await studio.read(f"/job_queue?{of_it}") == []


async def test_a_language_model_writes_the_procedure(
    project: Project, settings: Settings, ear: QuickEar
) -> None:
    """An answer of another shape is asked for once more; the steps' times are checked."""
    answers = {
        "title": "Changing the paper",
        "purpose": "So that it prints.",
        "materials": ["paper"],
        "warnings": [],
        "steps": [{"title": "Turn the power off", "detail": "", "at_seconds": 0.1}],
    }
    async with ModelServer() as server:
        server.answers = {"procedure": answers}
        server.faults["procedure"] = [
            Fault(503, {"error": {"message": "busy"}}), Fault(said="{}"),
        ]  # fmt: skip
        online = server.known_to(settings)
        async with Studio(project, online, speech=ear).open() as studio:
            training = await studio.start()
            state = await studio.ended(training)
            found = (await studio.call("GET", f"/api/trainings/{training['id']}/procedure")).json()

    assert state["status"] == "completed"
    assert (found["author"], found["offline"]) == ("test-model", False)
    assert [step["title"] for step in found["procedure"]["steps"]] == ["Turn the power off"]
    assert server.paid["procedure"] == 2


async def test_a_model_that_gives_nothing_usable_can_be_done_without(
    project: Project, settings: Settings, ear: QuickEar
) -> None:
    """Retried without it, the procedure is extracted, and the model is not paid again."""
    async with ModelServer() as server:
        server.faults["procedure"] = [Fault(said="{}"), Fault(said="{}")]
        async with Studio(project, server.known_to(settings), speech=ear).open() as studio:
            training = await studio.start()
            failed = await studio.ended(training)
            at = f"/api/trainings/{training['id']}"
            await studio.call("POST", f"{at}/retry", params={"without_model": True})
            done = await studio.ended(training)
            found = (await studio.call("GET", f"{at}/procedure")).json()

    assert (failed["status"], failed["code"]) == ("failed", "answer_unusable")
    assert (done["status"], found["author"], found["offline"]) == ("completed", OFFLINE, True)
    assert server.paid["procedure"] == 2


async def test_a_procedure_that_was_stored_is_not_asked_for_again(
    project: Project, settings: Settings, ear: QuickEar
) -> None:
    """The worker died between storing it and saying so: the model was paid, and is not again."""
    async with (
        ModelServer() as server,
        Studio(project, server.known_to(settings), speech=ear).open() as studio,
    ):
        training = await studio.start()
        project.run_sql(
            "insert into public.training_procedures (training_id, version, workspace_id,"
            " procedure, author) values (%s, 1, %s, %s, 'an earlier attempt')",
            training["id"],
            ACME,
            '{"title": "x", "steps": [{"title": "x", "at_seconds": 0}]}',
        )
        state = await studio.ended(training)

    stages = {stage["name"]: stage for stage in state["stages"]}
    assert state["status"] == "completed", state["reason"]
    assert stages["procedure"]["result"]["author"] == "an earlier attempt"
    assert server.paid["procedure"] == 0


async def test_unavailable_storage_is_reported_by_its_name(
    project: Project, settings: Settings, studio: Studio, ear: QuickEar
) -> None:
    """Not by an address of the deployment's: members read this."""
    training = await studio.start()
    away = settings.model_copy(update={"aws_endpoint_url": "http://127.0.0.1:9"})

    async with Studio(project, away, speech=ear).open() as other:
        await other.until(training, lambda _: other.job(training)["error_message"])

    told = studio.job(training)["error_message"]
    assert told.startswith("The uploads bucket did not answer")
    assert "127.0.0.1" not in told


async def test_a_deployment_without_tools_says_what_is_missing(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The functions' zips have neither ffmpeg nor the offline ear."""
    import sys

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    async with Studio(project, settings).open() as studio:
        state = await studio.ended(await studio.start())

    assert (state["status"], state["code"]) == ("failed", "not_configured")
    assert "FFMPEG_PATH is not set" in state["reason"]


async def test_a_video_that_is_gone_is_reported(studio: Studio) -> None:
    """The bucket's own rules may have removed it meanwhile."""
    training = await studio.start()
    [row] = studio.project.rows(
        "select object_key from public.trainings where id = %s", training["id"]
    )
    studio.app.files._s3.delete_object(Bucket=BUCKET, Key=row["object_key"])

    state = await studio.ended(training)
    video = await studio.call("GET", f"/api/trainings/{training['id']}/video")

    assert (state["status"], state["code"]) == ("failed", "video_missing")
    assert (video.status_code, video.json()["code"]) == (404, "video_not_found")


async def test_a_recogniser_that_repeats_itself_is_asked_once(
    studio: Studio, ear: QuickEar
) -> None:
    """What the table would refuse is refused as an answer, not paid for at every attempt."""
    ear.said = [Segment(0.0, 1.0, "word " * 900)] * 60
    training = await studio.start()

    state = await studio.ended(training)

    assert (state["status"], state["code"]) == ("failed", "answer_unusable")
    assert len(ear.heard) == 1


async def test_sound_that_expired_is_cut_again(studio: Studio, ear: QuickEar) -> None:
    """A training that failed long ago finds its stretches gone; the run after that has them."""
    ear.before = [NotAuthorised("Speech to text refused the key", status=401)]
    training = await studio.start()
    at = f"/api/trainings/{training['id']}"
    await studio.ended(training)
    await studio.app.files.remove(
        keys=[], prefix=f"workspaces/{ACME}/training/{training['id']}/sound/"
    )

    await studio.call("POST", f"{at}/retry")
    gone = await studio.ended(training)
    await studio.call("POST", f"{at}/retry")
    done = await studio.ended(training)

    assert (gone["status"], gone["code"]) == ("failed", "audio_gone")
    assert done["status"] == "completed"
    assert {s["name"]: s["run"] for s in done["stages"]} == {
        "verify": 1, "audio": 3, "transcribe": 3, "procedure": 1, "publish": 1,
    }  # fmt: skip


async def test_what_is_beyond_the_limit_waits(
    project: Project, settings: Settings, ear: QuickEar
) -> None:
    """Also while the one ahead holds no lease, since its chunk is being recognised."""
    one_at_once = settings.with_environ(TRAINING_MAX_RUNNING="1")
    ear.hold = asyncio.Event()
    async with Studio(project, one_at_once, speech=ear).open() as studio:
        first, second = await studio.start(), await studio.start()
        working = asyncio.create_task(drain(studio.worker))
        await asyncio.wait_for(ear.reached.wait(), 120)

        def order() -> tuple[str, str]:
            return studio.job(first)["status"], studio.job(second)["status"]

        await until(lambda: studio.job(second)["snoozes"] > 0)
        # the one ahead may still be on its way into its wait, as the other into its own
        await until(lambda: order() == ("waiting", "pending"))
        wrong = await studio.start(b"a text, whatever its name says")
        await until(lambda: studio.job(wrong)["status"] == "failed")
        told = await studio.look(wrong)
        path = f"/background_jobs?company_id=eq.{ACME}&job_type=eq.transcription"
        async with asyncio.timeout(60):
            seen = await studio.read(f"{path}&status=eq.processing")
            while [row["training_id"] for row in seen] != [first["id"]]:
                await asyncio.sleep(0.02)  # the other asks for its turn now and then
                seen = await studio.read(f"{path}&status=eq.processing")
        ear.hold.set()
        await working
        states = [await studio.ended(one) for one in (first, second)]

    codes = {job["job_type"]: job["code"] for job in told["jobs"]}
    assert codes["transcription"] == "not_a_video"
    assert [state["status"] for state in states] == ["completed", "completed"]
    assert studio.job(second)["attempts"] == 1
