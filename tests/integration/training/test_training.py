"""A video becomes a transcript and a procedure: the whole way, with the offline engines."""

from __future__ import annotations

import httpx

from minutehand.ai.speech_offline import NAME
from minutehand.apps.training.procedure import OFFLINE
from minutehand.config import Settings
from tests.integration.training.conftest import SAMPLE, Studio
from tests.support.project import ACME, Project


async def test_an_uploaded_video_becomes_a_procedure(project: Project, settings: Settings) -> None:
    """Offline all the way: real parts to S3, real ffmpeg, a real ear; and it says what it used."""
    async with Studio(project, settings).open() as studio:
        content = SAMPLE.read_bytes()
        described = {
            "workspace_id": ACME,
            "filename": "paper.mp4",
            "content_type": "video/mp4",
            "size_bytes": len(content),
        }
        upload = (await studio.call("POST", "/api/uploads", json=described)).json()
        path = f"/api/uploads/{upload['id']}"
        body = {"workspace_id": ACME, "title": "Changing the paper", "object_key": upload["key"]}
        early = await studio.call("POST", "/api/trainings", json=body)
        parts = await studio.call("POST", f"{path}/parts", json={"part_numbers": [1]})
        async with httpx.AsyncClient() as browser:
            await browser.put(parts.json()["parts"][0]["url"], content=content)
        await studio.call("POST", f"{path}/complete")
        started = await studio.call("POST", "/api/trainings", json=body)
        again = await studio.call("POST", "/api/trainings", json=body)

        state = await studio.ended(started.json())
        at = f"/api/trainings/{state['id']}"
        transcript = (await studio.call("GET", f"{at}/transcript")).json()
        found = (await studio.call("GET", f"{at}/procedure")).json()
        video = (await studio.call("GET", f"{at}/video")).json()
        async with httpx.AsyncClient() as browser:
            played = await browser.get(video["url"], headers={"Range": "bytes=0-9"})
        await studio.until(state, lambda _: not studio.objects(f"training/{state['id']}/"))

    assert (early.status_code, early.json()["code"]) == (409, "upload_incomplete")
    assert (started.status_code, again.status_code) == (201, 200)
    assert started.json()["id"] == again.json()["id"]
    assert state["status"] == "completed", state
    assert [stage["name"] for stage in state["stages"]] == [
        "verify", "audio", "transcribe", "procedure", "publish",
    ]  # fmt: skip
    assert (transcript["complete"], transcript["engine"], transcript["offline"]) == (
        True, NAME, True,
    )  # fmt: skip
    words = " ".join(segment["text"] for segment in transcript["segments"])
    assert "the front door of the machine" in words
    assert (found["version"], found["author"], found["offline"]) == (1, OFFLINE, True)
    steps = found["procedure"]["steps"]
    assert len(steps) >= 3
    starts = {segment["start"] for segment in transcript["segments"]}
    assert {step["at_seconds"] for step in steps} <= starts
    assert "without a language model" in found["procedure"]["purpose"]
    assert (video["host"], played.status_code, played.content) == ("s3", 206, content[:10])
    assert played.headers["content-type"] == "video/mp4"
