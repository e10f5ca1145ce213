"""A video of more than 100 MB: uploaded in parts, broken off, resumed, and worked on like any."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx

from tests.integration.training.conftest import SAMPLE, Studio

#: Of a box that every reader of MP4 passes over: the sample grows without new pictures.
PADDING = 110 * 1024 * 1024


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


async def test_a_large_video_is_uploaded_in_parts_and_becomes_a_procedure(studio: Studio) -> None:
    """In any order, over a break, without the server ever holding it."""
    content = SAMPLE.read_bytes() + (PADDING + 8).to_bytes(4, "big") + b"free" + bytes(PADDING)
    whole = {"checksum": hashlib.sha256(content).hexdigest()}
    described = {"filename": "large.mp4", "content_type": "video/mp4", "size": len(content)}
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
    await studio.call("DELETE", f"/api/trainings/{state['id']}")
    await studio.tick_until_so(lambda: studio.objects() == before)

    assert len(content) > 100 * 1024 * 1024
    assert (early.status_code, early.json()["code"]) == (409, "upload_incomplete")
    assert resumed["missing"] == sorted(numbers[5:])
    assert state["status"] == "completed", state["reason"]
