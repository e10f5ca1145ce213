"""From an upload in parts to a transcript and a procedure, by the offline engines."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from minutehand.ai.speech_offline import NAME
from minutehand.config import Settings
from minutehand_apps.training.client import TrainingClient, TrainingRefused
from minutehand_apps.training.procedure import OFFLINE
from tests.integration.training.conftest import BOB, EVE, SAMPLE, Studio
from tests.support.project import ACME, ADA, Project

DESCRIBED = {"filename": "changing-the-paper.mp4", "content_type": "video/mp4"}


def sha256(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


async def begin(studio: Studio, content: bytes, **more: Any) -> dict[str, Any]:
    """Begin an upload of a file with one part."""
    described = {**DESCRIBED, "size": len(content), **more}
    answer = await studio.call("POST", "/api/uploads", json=described)
    assert answer.status_code == 201, answer.text
    upload: dict[str, Any] = answer.json()
    return upload


async def send(
    studio: Studio,
    upload: dict[str, Any],
    content: bytes,
    *,
    numbers: Sequence[int] = (1,),
    checksum_of: bytes | None = None,
) -> httpx.Response:
    """Send parts, by default the only one with its true checksum; the last one's answer."""
    size = upload["part_bytes"]
    pieces = {number: content[(number - 1) * size : number * size] for number in numbers}
    parts = [
        {"part_number": number, "checksum": sha256(checksum_of or piece)}
        for number, piece in pieces.items()
    ]
    signed = await studio.call("POST", f"/api/uploads/{upload['id']}/parts", json={"parts": parts})
    async with httpx.AsyncClient(timeout=60) as browser:
        for part in signed.json()["parts"]:
            piece = pieces[part["part_number"]]
            answer = await browser.put(part["url"], content=piece, headers=part["headers"])
    return answer


async def complete(studio: Studio, upload: dict[str, Any], content: bytes) -> httpx.Response:
    return await studio.call(
        "POST",
        f"/api/uploads/{upload['id']}/complete",
        json={"checksum": hashlib.sha256(content).hexdigest()},
    )


@pytest.mark.timeout(600)
async def test_an_uploaded_video_becomes_a_procedure(project: Project, settings: Settings) -> None:
    """Completing the upload is enough: the tab may be closed then."""
    content = SAMPLE.read_bytes()
    async with Studio(project, settings).open() as studio:
        upload = await begin(studio, content)
        early = await complete(studio, upload, content)
        await send(studio, upload, content)
        done = await complete(studio, upload, content)
        again = await complete(studio, upload, content)
        seen = (await studio.call("GET", f"/api/uploads/{upload['id']}")).json()

        # a busy machine may listen for longer than one of the other ticks lasts
        await studio.worker.tick(budget_seconds=400)
        state = await studio.ended(done.json()["training"])
        at = f"/api/trainings/{state['id']}"
        transcript = (await studio.call("GET", f"{at}/transcript")).json()
        by_ending = await studio.call("GET", f"{at}/transcript.vtt")
        by_accept = await studio.call("GET", f"{at}/transcript", headers={"Accept": "text/vtt"})
        subrip = await studio.call(
            "GET", f"{at}/transcript", headers={"Accept": "application/x-subrip"}
        )
        found = (await studio.call("GET", f"{at}/procedure")).json()
        video = (await studio.call("GET", f"{at}/video")).json()
        async with httpx.AsyncClient() as browser:
            played = await browser.get(video["url"], headers={"Range": "bytes=0-9"})
        await studio.until(state, lambda _: not studio.objects(f"training/{state['id']}/sound/"))

    assert (early.status_code, early.json()["code"]) == (409, "upload_incomplete")
    assert (done.status_code, again.status_code) == (200, 200)
    assert done.json()["training"]["id"] == again.json()["training"]["id"] == state["id"]
    assert (seen["complete"], seen["training"]["id"]) == (True, state["id"])
    assert [job["job_type"] for job in done.json()["training"]["jobs"]] == [
        "transcription", "mux_upload",
    ]  # fmt: skip
    assert (state["status"], state["title"]) == ("completed", "Changing the paper")
    assert {stage["name"] for stage in state["stages"]} == {
        "verify", "audio", "transcribe", "procedure", "publish",
    }  # fmt: skip
    assert (transcript["complete"], transcript["engine"], transcript["offline"]) == (
        True, NAME, True,
    )  # fmt: skip
    assert (transcript["language"], round(transcript["duration_seconds"])) == ("en", 19)
    assert "the front door of the machine" in transcript["text"]
    assert set(transcript["segments"][0]) == {"start", "end", "text"}
    assert by_ending.text == by_accept.text
    assert by_ending.text.startswith("WEBVTT\n\n00:00:00.")
    assert by_ending.headers["content-type"].startswith("text/vtt")
    assert subrip.text.startswith("1\n00:00:00,")
    assert (found["version"], found["author"], found["offline"]) == (1, OFFLINE, True)
    steps = found["procedure"]["steps"]
    assert [step["number"] for step in steps] == list(range(1, len(steps) + 1))
    assert len(steps) >= 3
    assert "extractive" in found["author"]
    assert (video["host"], played.status_code, played.content) == ("s3", 206, content[:10])
    assert (video["playable"], video["note"], round(video["duration_seconds"])) == (True, None, 19)
    assert video["playback_id"] == f"offline-{state['id']}"


async def test_a_large_video_is_uploaded_in_parts_and_becomes_a_procedure(studio: Studio) -> None:
    """Of more than 100 MB, in any order, over a break."""
    padding = 110 * 1024 * 1024  # of a box that every reader of MP4 passes over
    content = SAMPLE.read_bytes() + (padding + 8).to_bytes(4, "big") + b"free" + bytes(padding)
    before = studio.objects()
    upload = await begin(studio, content)
    numbers = list(range(upload["part_count"], 0, -1))
    await send(studio, upload, content, numbers=numbers[:5])
    early = await complete(studio, upload, content)
    resumed = (await studio.call("GET", f"/api/uploads/{upload['id']}")).json()
    await send(studio, upload, content, numbers=resumed["missing"])
    done = await complete(studio, upload, content)
    state = await studio.ended(done.json()["training"])
    await studio.call("DELETE", f"/api/trainings/{state['id']}")
    await studio.tick_until_so(lambda: studio.objects() == before)

    assert (early.status_code, early.json()["code"]) == (409, "upload_incomplete")
    assert resumed["missing"] == sorted(numbers[5:])
    assert state["status"] == "completed", state["reason"]


async def test_what_may_not_be_uploaded_is_refused_before_its_bytes(studio: Studio) -> None:
    """By type and by size, as the operator sets them; and an empty file."""
    refused = {}
    uploads: dict[str, dict[str, Any]] = {
        "page": {"content_type": "text/html"},
        "script": {"content_type": "application/x-sh"},
        "large": {"size": 6 * 1024**3},
        "empty": {"size": 0},
        "lied": {"size": -1},
        "strange": {"workspace_id": "22222222-2222-4222-8222-222222222222"},
    }
    for name, more in uploads.items():
        body = {**DESCRIBED, "size": 10, **more}
        answer = await studio.call("POST", "/api/uploads", json=body)
        refused[name] = (answer.status_code, answer.json()["code"])

    assert refused == {
        "page": (415, "upload_type_refused"),
        "script": (415, "upload_type_refused"),
        "large": (413, "upload_too_large"),
        "empty": (422, "empty_file"),
        "lied": (422, "validation_failed"),
        "strange": (404, "workspace_not_found"),
    }


async def test_other_bytes_than_announced_are_not_taken(studio: Studio) -> None:
    """A flipped byte, a part of another size, a file of another checksum; nothing stays."""
    content = b"\x00" * 1000
    flipped = content[:-1] + b"\x01"
    before = studio.objects()

    one = await begin(studio, content)
    refused = await send(studio, one, flipped, checksum_of=content)
    early = await complete(studio, one, content)
    short = await send(studio, one, content[:-1])
    other = await begin(studio, content)
    await send(studio, other, flipped)
    mismatch = await complete(studio, other, content)
    gone = await studio.call("GET", f"/api/uploads/{other['id']}")

    assert (refused.status_code, "checksum" in refused.text) == (400, True)
    assert (early.status_code, early.json()["detail"]) == (409, {"missing": [1]})
    assert short.status_code == 403
    assert (mismatch.status_code, mismatch.json()["code"]) == (422, "checksum_mismatch")
    assert gone.status_code == 404
    assert studio.objects() == before
    assert studio.project.rows("select 1 from public.trainings") == []


async def test_a_larger_file_is_checked_by_the_worker(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading gigabytes is nothing for a request; the transcription says the same."""
    from minutehand.web import uploads

    monkeypatch.setattr(uploads, "CHECKED_BYTES", 100)
    content = SAMPLE.read_bytes()
    upload = await begin(studio, content)
    await send(studio, upload, content[:-1] + b"\x01")
    done = await complete(studio, upload, content)

    state = await studio.ended(done.json()["training"])

    assert (done.status_code, state["status"]) == (200, "failed")
    assert state["code"] == "checksum_mismatch"


async def test_a_training_gets_the_id_that_was_asked_for(studio: Studio) -> None:
    """Once: a second recording for it is refused before its bytes, or is no training."""
    training_id = "7f3c1c9e-0000-4000-8000-000000000001"
    content = SAMPLE.read_bytes()
    upload, other = [await begin(studio, content, training_id=training_id) for _ in range(2)]
    for each in (upload, other):
        await send(studio, each, content)
    done = await complete(studio, upload, content)
    refused = await complete(studio, other, content)
    left = (await studio.call("GET", f"/api/uploads/{other['id']}")).json()
    again = await studio.call(
        "POST", "/api/uploads", json={**DESCRIBED, "size": 10, "training_id": training_id}
    )

    assert done.json()["training"]["id"] == training_id
    assert (refused.status_code, refused.json()["code"]) == (409, "training_exists")
    assert (left["missing"], left["complete"]) == ([], False)
    assert (again.status_code, again.json()["code"]) == (409, "training_exists")


async def test_an_upload_of_ones_own_is_transcribed_by_its_address(studio: Studio) -> None:
    """Also by the address it is played from; the same call finds the same job."""
    training_id = "7f3c1c9e-0000-4000-8000-000000000002"
    key = await studio.put(SAMPLE.read_bytes(), name="lamp.mp4")
    at = f"/api/trainings/{training_id}/transcription"
    body = {"user_id": ADA, "company_id": ACME, "audio_url": key}

    first = await studio.call("POST", at, json=body)
    address = studio.app.files.presign(key, content_type="video/mp4")
    again = await studio.call("POST", at, json={**body, "audio_url": address})
    others = await studio.call("POST", at, user=EVE, json={**body, "user_id": EVE})
    false = await studio.call("POST", at, user=BOB, json=body)
    done = await studio.ended({"id": training_id})

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.json()["job_id"] == str(studio.job({"id": training_id})["id"])
    assert (others.status_code, false.status_code) == (404, 403)
    assert [job["job_type"] for job in done["jobs"]] == ["transcription", "sop_generation"]
    assert done["status"] == "completed"


async def test_the_python_client_gives_the_jobs_id(studio: Studio) -> None:
    """The same one when it is called again; a refusal carries the API's code."""
    key = await studio.put(SAMPLE.read_bytes())
    training_id = "7f3c1c9e-0000-4000-8000-000000000004"
    client = TrainingClient(
        "http://api.test",
        studio.project.token(ADA),
        transport=httpx.ASGITransport(app=studio._api),
    )

    first = await client.create_transcription_job(ADA, ACME, key, training_id)
    again = await client.create_transcription_job(ADA, ACME, key, training_id)
    with pytest.raises(TrainingRefused) as caught:
        await client.create_transcription_job(ADA, ACME, "https://a.example/x", training_id)
    await client.aclose()

    assert first == again == str(studio.job({"id": training_id})["id"])
    assert (caught.value.status, caught.value.code) == (422, "audio_url_refused")


async def test_recordings_come_from_allowed_hosts_alone(studio: Studio) -> None:
    """Neither from this network nor from anywhere; refused before a job is made."""
    at = "/api/trainings/7f3c1c9e-0000-4000-8000-000000000003/transcription"
    for address in (
        "https://media.example.com/a.mp3",
        "http://media.example.com/a.mp3",
        "https://127.0.0.1/a.mp3",
        "https://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        f"workspaces/{ACME}/training/x/0001.pcm",
    ):
        body = {"user_id": ADA, "company_id": ACME, "audio_url": address}
        answer = await studio.call("POST", at, json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "audio_url_refused"), address
    assert studio.project.rows("select 1 from public.trainings") == []
