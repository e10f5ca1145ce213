"""Multipart uploads to S3."""

from __future__ import annotations

import base64
import hashlib

import httpx

from minutehand.config import Settings
from minutehand_apps.training.bucket import Bucket
from minutehand_apps.training.parts import MIN_PART_BYTES, plan


def sha256(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


async def _put(url: str, content: bytes) -> None:
    headers = {"x-amz-checksum-sha256": sha256(content)}
    async with httpx.AsyncClient(trust_env=False) as browser:
        response = await browser.put(url, content=content, headers=headers)
    assert response.status_code == 200, response.text


async def test_a_part_beyond_the_plan_is_not_joined(settings: Settings) -> None:
    """A part that exceeds the announced size is not joined into the uploaded file."""
    bucket = Bucket(settings)
    cut = plan(MIN_PART_BYTES)
    upload_id = await bucket.create("videos/c.mp4", content_type="video/mp4")
    pieces = {1: b"1" * MIN_PART_BYTES, 2: b"2" * cut.part_size(2)}
    sums = {number: sha256(piece) for number, piece in pieces.items()}
    for number, url in (await bucket.sign("videos/c.mp4", upload_id, cut, sums)).items():
        await _put(url, pieces[number])

    await bucket.join("videos/c.mp4", upload_id, cut)

    assert await bucket.find_size("videos/c.mp4") == cut.size_bytes
