"""A video of more than 100 MB: uploaded in parts, broken off, resumed, and worked on like any."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from tests.integration.training.conftest import SAMPLE, Studio
from tests.support.project import Project

#: Of a box that every reader of MP4 passes over: the sample grows without new pictures.
PADDING = 110 * 1024 * 1024


def large_video(into: Path) -> bytes:
    """The sample, made larger than 100 MB; its speech and pictures are the sample's."""
    box = (PADDING + 8).to_bytes(4, "big") + b"free" + bytes(PADDING)
    into.write_bytes(SAMPLE.read_bytes() + box)
    return into.read_bytes()


async def send(studio: Studio, upload: dict[str, Any], content: bytes, numbers: list[int]) -> None:
    """Send some parts."""
    size = upload["part_bytes"]
    pieces = {number: content[(number - 1) * size : number * size] for number in numbers}
    body = {
        "parts": [
            {"part_number": number, "checksum": hashlib.sha256(piece).hexdigest()}
            for number, piece in pieces.items()
        ]
    }
    signed = await studio.call("POST", f"/api/uploads/{upload['id']}/parts", json=body)
    async with httpx.AsyncClient(timeout=60) as browser:
        for part in signed.json()["parts"]:
            piece = pieces[part["part_number"]]
            answer = await browser.put(part["url"], content=piece, headers=part["headers"])
            assert answer.status_code == 200, answer.text


@pytest.mark.timeout(600)  # its bytes are copied several times, its speech is heard
async def test_a_large_video_is_uploaded_in_parts_and_becomes_a_procedure(
    project: Project, settings: Settings, tmp_path: Path
) -> None:
    """In any order, over a break, without the server ever holding it."""
    content = large_video(tmp_path / "large.mp4")
    whole = {"checksum": hashlib.sha256(content).hexdigest()}
    async with Studio(project, settings).open() as studio:
        described = {
            "filename": "large.mp4", "content_type": "video/mp4", "size": len(content),
        }  # fmt: skip
        before = studio.objects()
        upload = (await studio.call("POST", "/api/uploads", json=described)).json()
        path = f"/api/uploads/{upload['id']}"
        numbers = list(range(upload["part_count"], 0, -1))
        await send(studio, upload, content, numbers[:5])
        early = await studio.call("POST", f"{path}/complete", json=whole)
        resumed = (await studio.call("GET", path)).json()
        await send(studio, upload, content, resumed["missing"])
        done = await studio.call("POST", f"{path}/complete", json=whole)
        state = await studio.ended(done.json()["training"])
        found = await studio.call("GET", f"/api/trainings/{state['id']}/procedure")
        await studio.call("DELETE", f"/api/trainings/{state['id']}")
        await studio.tick_until_so(lambda: studio.objects() == before)

    assert len(content) > 100 * 1024 * 1024
    assert (early.status_code, early.json()["code"]) == (409, "upload_incomplete")
    assert resumed["missing"] == sorted(numbers[5:])
    assert state["status"] == "completed", state["reason"]
    assert len(found.json()["procedure"]["steps"]) >= 3
    assert studio.objects() == before
