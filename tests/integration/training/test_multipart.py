"""Multipart uploads against S3's protocol: in pieces, broken off, resumed, repeated."""

from __future__ import annotations

import base64
import hashlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.aws.clients import client
from minutehand.config import Settings
from minutehand_apps.training.multipart import UploadIncomplete, UploadNotFound, Uploads
from minutehand_apps.training.parts import MAX_BYTES, MAX_PARTS, MIB, MIN_PART_BYTES, Plan, plan
from tests.integration.training.conftest import BUCKET


@given(st.integers(min_value=0, max_value=MAX_BYTES))
def test_any_file_is_cut_into_parts_that_s3_takes(size: int) -> None:
    """Sizes add up, parts are large enough, and there are not too many."""
    cut = plan(size)

    assert cut.part_bytes >= MIN_PART_BYTES
    assert cut.part_bytes % MIB == 0
    assert 1 <= cut.count <= MAX_PARTS
    last = cut.bytes_of(cut.count)
    assert (cut.count - 1) * cut.part_bytes + last == size
    assert 0 <= last <= cut.part_bytes
    assert last > 0 or size == 0


def sha256(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


async def _put(url: str, content: bytes) -> None:
    headers = {"x-amz-checksum-sha256": sha256(content)}
    async with httpx.AsyncClient(trust_env=False) as browser:
        response = await browser.put(url, content=content, headers=headers)
    assert response.status_code == 200, response.text


async def test_an_upload_survives_a_break_and_a_repeated_completion(settings: Settings) -> None:
    """The way of a large video over a bad line."""
    uploads = Uploads(settings)
    cut = plan(2 * MIN_PART_BYTES + 3)
    upload_id = await uploads.create("videos/a b.mp4", content_type="video/mp4")
    pieces = {1: b"1" * MIN_PART_BYTES, 2: b"2" * MIN_PART_BYTES, 3: b"3" * 3}
    sums = {number: sha256(piece) for number, piece in pieces.items()}
    urls = await uploads.sign("videos/a b.mp4", upload_id, cut, sums)
    assert all("content-length" in url.lower() for url in urls.values())
    assert all("x-amz-checksum-sha256" in url.lower() for url in urls.values())
    assert all("X-Amz-Expires=3600" in url for url in urls.values())
    await _put(urls[1], pieces[1])
    await _put(urls[3], pieces[3])

    with pytest.raises(UploadIncomplete) as incomplete:
        await uploads.complete("videos/a b.mp4", upload_id, cut)
    assert incomplete.value.missing == (2,)
    resumed = Uploads(settings)
    assert cut.missing(await resumed.parts("videos/a b.mp4", upload_id)) == (2,)
    await _put(urls[2], pieces[2])
    await resumed.complete("videos/a b.mp4", upload_id, cut)
    await resumed.complete("videos/a b.mp4", upload_id, cut)

    assert await resumed.size_of("videos/a b.mp4") == cut.size_bytes
    with pytest.raises(UploadNotFound):  # what lies there is another file
        await resumed.complete("videos/a b.mp4", upload_id, plan(cut.size_bytes + 1))


async def test_a_part_beyond_the_plan_is_not_joined(settings: Settings) -> None:
    """It would make the file larger than was announced and allowed."""
    uploads = Uploads(settings)
    cut = plan(MIN_PART_BYTES)
    upload_id = await uploads.create("videos/c.mp4", content_type="video/mp4")
    pieces = {1: b"1" * MIN_PART_BYTES, 2: b"2" * cut.bytes_of(2)}
    sums = {number: sha256(piece) for number, piece in pieces.items()}
    for number, url in (await uploads.sign("videos/c.mp4", upload_id, cut, sums)).items():
        await _put(url, pieces[number])

    await uploads.complete("videos/c.mp4", upload_id, cut)

    assert await uploads.size_of("videos/c.mp4") == cut.size_bytes


async def test_a_file_is_measured_checked_and_removed(settings: Settings) -> None:
    """A removal may be repeated; what is gone has no size."""
    uploads = Uploads(settings)
    content = b"x" * (MIB + 1)
    client(settings, "s3").put_object(Bucket=BUCKET, Key="r.mp4", Body=content)

    assert await uploads.find_size("r.mp4") == MIB + 1
    right = hashlib.sha256(content).hexdigest()
    assert await uploads.check("r.mp4", Plan(MIB + 1, MIB), right)
    assert not await uploads.check("r.mp4", Plan(MIB + 1, MIB), "0" * 64)
    for _ in range(2):
        await uploads.remove("r.mp4")
    assert await uploads.size_of("r.mp4") is None
    with pytest.raises(UploadNotFound):
        await uploads.check("r.mp4", Plan(MIB + 1, MIB), right)
