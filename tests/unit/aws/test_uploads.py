"""Multipart uploads against S3's protocol: in pieces, broken off, resumed, repeated."""

from __future__ import annotations

import base64
import hashlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.aws.uploads import (
    MAX_BYTES,
    MAX_PARTS,
    MIB,
    MIN_PART_BYTES,
    FileDigest,
    Part,
    Plan,
    StorageUnavailable,
    UploadIncomplete,
    UploadNotFound,
    Uploads,
    plan,
)
from minutehand.config import ConfigurationError, Settings


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


def test_a_file_beyond_the_limit_is_refused() -> None:
    """Before anything is begun."""
    with pytest.raises(ValueError, match="bytes"):
        plan(MAX_BYTES + 1)


def test_a_part_of_the_wrong_size_counts_as_missing() -> None:
    """A cut connection may leave half a part behind."""
    cut = Plan(size_bytes=20 * MIB, part_bytes=8 * MIB)
    arrived = [Part(1, 8 * MIB, "a"), Part(2, 5 * MIB, "b"), Part(3, 4 * MIB, "c")]

    assert cut.missing(arrived) == (2,)


def sha256(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


async def _put(url: str, content: bytes) -> None:
    headers = {"x-amz-checksum-sha256": sha256(content)}
    async with httpx.AsyncClient(trust_env=False) as browser:
        response = await browser.put(url, content=content, headers=headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 2500])
def test_a_file_is_known_by_itself_and_by_its_parts(size: int) -> None:
    """However the bytes come in; another byte is another file."""
    content = bytes(range(250)) * 10
    parts = [content[:size][n : n + 1000] for n in range(0, size, 1000)] or [b""]
    whole = hashlib.sha256(content[:size]).hexdigest()
    sums = b"".join(hashlib.sha256(part).digest() for part in parts)
    by_parts = f"{hashlib.sha256(sums).hexdigest()}-{len(parts)}"

    def digest() -> FileDigest:
        found = FileDigest(1000)
        for start in range(0, size, 300):
            found.update(content[start : min(size, start + 300)])
        return found

    assert digest().matches(whole)
    assert digest().matches(by_parts)
    assert not digest().matches("0" * 64)
    assert not digest().matches(f"{by_parts}0")


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


async def test_an_aborted_upload_is_gone(settings: Settings) -> None:
    """And aborting it again is no error."""
    uploads = Uploads(settings)
    upload_id = await uploads.create("videos/b.mp4", content_type="video/mp4")

    await uploads.abort("videos/b.mp4", upload_id)
    await uploads.abort("videos/b.mp4", upload_id)

    with pytest.raises(UploadNotFound):
        await uploads.parts("videos/b.mp4", upload_id)
    with pytest.raises(UploadNotFound):
        await uploads.complete("videos/b.mp4", upload_id, plan(5))
    assert await uploads.size_of("videos/b.mp4") is None


async def test_unavailable_storage_is_distinguished_from_a_wrong_request(
    settings: Settings,
) -> None:
    """The first may be repeated, the second may not."""
    away = settings.model_copy(update={"aws_endpoint_url": "http://127.0.0.1:9"})

    with pytest.raises(StorageUnavailable):
        await Uploads(away).create("x", content_type="video/mp4")


def test_a_deployment_without_a_bucket_says_so(settings: Settings) -> None:
    """At the first use, by the variable's name."""
    with pytest.raises(ConfigurationError, match="UPLOADS_BUCKET"):
        Uploads(settings.model_copy(update={"uploads_bucket": None}))
