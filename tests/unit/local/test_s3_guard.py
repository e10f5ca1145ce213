"""The local S3 refuses what S3 refuses of a presigned address, and keeps what it took."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from minutehand.local.kept_bucket import KeptBucket
from tests.support.fake_aws import fake_aws

BODY = b"x" * 100
SUM = base64.b64encode(hashlib.sha256(BODY).digest()).decode()


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """S3 with a bucket."""
    with fake_aws() as endpoint:
        made = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="key",
            config=Config(signature_version="s3v4"),
        )
        made.create_bucket(Bucket="guarded-bucket")
        yield made


def address(s3: Any, *, seconds: int = 60) -> str:
    """Where to put an object of that checksum and length."""
    params = {
        "Bucket": "guarded-bucket",
        "Key": "a b/c.mp4",
        "ChecksumSHA256": SUM,
        "ContentLength": len(BODY),
    }
    found: str = s3.generate_presigned_url("put_object", Params=params, ExpiresIn=seconds)
    return found


def put(url: str, body: bytes = BODY, checksum: str | None = SUM) -> httpx.Response:
    headers = {} if checksum is None else {"x-amz-checksum-sha256": checksum}
    return httpx.put(url, content=body, headers=headers, trust_env=False)


@pytest.mark.parametrize(
    ("body", "checksum", "status", "code"),
    [
        (b"y" + BODY[1:], SUM, 400, "XAmzContentChecksumMismatch"),
        (BODY, None, 403, "SignatureDoesNotMatch"),
        (BODY, base64.b64encode(bytes(32)).decode(), 403, "SignatureDoesNotMatch"),
        (BODY[1:], SUM, 403, "SignatureDoesNotMatch"),
    ],
    ids=["flipped", "no checksum", "another checksum", "another length"],
)
def test_other_bytes_than_signed_are_refused(
    s3: Any, body: bytes, checksum: str | None, status: int, code: str
) -> None:
    """Whichever of the three is changed."""
    answer = put(address(s3), body, checksum)

    assert (answer.status_code, code in answer.text) == (status, True)
    # else a browser could not tell a refusal from a broken line
    assert answer.headers["access-control-allow-origin"] == "*"


def test_another_object_and_a_late_call_are_refused(s3: Any) -> None:
    """An address is good for its object and its time alone."""
    other = put(address(s3).replace("c.mp4", "d.mp4"))
    late = put(address(s3, seconds=0))

    assert (other.status_code, "SignatureDoesNotMatch" in other.text) == (403, True)
    assert (late.status_code, "expired" in late.text) == (403, True)


def test_what_was_uploaded_is_found_after_a_restart(s3: Any, tmp_path: Path) -> None:
    """Objects as they are by then, with their types, and an upload that was under way."""
    bucket, folder = {"Bucket": "kept-bucket"}, tmp_path / "uploads"
    s3.create_bucket(**bucket)
    kept = KeptBucket(folder, "kept-bucket")
    for key, body in (("a/b.mp4", b"old"), ("gone.mp4", b"x"), ("a/b.mp4", b"new")):
        s3.put_object(**bucket, Key=key, Body=body, ContentType="video/mp4")
        kept.keep()
    s3.delete_object(**bucket, Key="gone.mp4")
    begun = {**bucket, "Key": "long.mp4"}
    begun["UploadId"] = s3.create_multipart_upload(**begun)["UploadId"]
    part = s3.upload_part(**begun, PartNumber=1, Body=b"part")
    kept.keep(unfinished=True)
    s3.delete_object(**bucket, Key="a/b.mp4")
    s3.abort_multipart_upload(**begun)
    (folder / "half").write_bytes(b"\x80")

    KeptBucket(folder, "kept-bucket").restore()

    listed = s3.list_objects_v2(**bucket)["Contents"]
    found = s3.get_object(**bucket, Key="a/b.mp4")
    assert [each["Key"] for each in listed] == ["a/b.mp4"]
    assert (found["Body"].read(), found["ContentType"]) == (b"new", "video/mp4")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(**begun, MultipartUpload=parts)
    assert s3.get_object(**bucket, Key="long.mp4")["Body"].read() == b"part"
