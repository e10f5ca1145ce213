"""S3 multipart uploads. The browser sends the parts directly to S3 by presigned URLs.

Only S3 records which parts have arrived. The routes decide who may upload.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, TypeVar

from minutehand.config import JobServiceError
from minutehand_apps.training.bucket import UploadsBucket
from minutehand_apps.training.parts import MIB, FileDigest, Part, Plan

URL_LIFETIME: Final = timedelta(hours=1)

T = TypeVar("T")


class UploadError(JobServiceError):
    """An upload could not continue."""


class UploadNotFound(UploadError):
    """The upload was aborted, has expired, or is complete."""


class UploadIncomplete(UploadError):
    """Parts are missing or have the wrong size. `missing` lists their numbers."""

    def __init__(self, missing: tuple[int, ...]) -> None:
        self.missing = missing
        super().__init__(f"{len(missing)} part(s) have not arrived")


class StorageUnavailable(UploadError):
    """S3 did not respond. Safe to repeat."""


class Uploads(UploadsBucket):
    """Multipart uploads into this deployment's bucket."""

    READ_SECONDS = 10.0  # shorter, because a request waits

    async def create(self, key: str, *, content_type: str) -> str:
        """Start an upload and return its id at S3."""
        response = await self._call(
            "create_multipart_upload", Key=key, ContentType=content_type, ChecksumAlgorithm="SHA256"
        )
        upload_id: str = response["UploadId"]
        return upload_id

    async def sign(
        self, key: str, upload_id: str, cut: Plan, checksums: Mapping[int, str]
    ) -> dict[int, str]:
        """Return presigned URLs by part number, each valid for the part's exact length.

        Args:
            checksums: SHA-256 of each part in base64, by part number. The client must send it as
                the header `x-amz-checksum-sha256`, or S3 rejects the request.
        """
        return await asyncio.to_thread(self._sign, key, upload_id, cut, dict(checksums))

    def _sign(
        self, key: str, upload_id: str, cut: Plan, checksums: Mapping[int, str]
    ) -> dict[int, str]:
        return {
            number: self._s3.generate_presigned_url(
                "upload_part",
                Params={
                    "Bucket": self._bucket,
                    "Key": key,
                    "UploadId": upload_id,
                    "PartNumber": number,
                    # Signed, so that a part cannot be longer than announced.
                    "ContentLength": cut.part_size(number),
                    # Signed, so that S3 accepts no other bytes.
                    "ChecksumSHA256": checksum,
                },
                ExpiresIn=int(URL_LIFETIME.total_seconds()),
            )
            for number, checksum in checksums.items()
        }

    async def parts(self, key: str, upload_id: str) -> tuple[Part, ...]:
        """Return the parts that have arrived, by number.

        Raises:
            UploadNotFound: The upload was aborted, has expired, or is complete.
        """
        parts: list[Part] = []
        marker = 0
        while True:
            page = await self._call(
                "list_parts", Key=key, UploadId=upload_id, PartNumberMarker=marker
            )
            parts += [
                Part(p["PartNumber"], p["Size"], p["ETag"], p.get("ChecksumSHA256"))
                for p in page.get("Parts", ())
            ]
            if not page.get("IsTruncated"):
                return tuple(sorted(parts, key=lambda part: part.number))
            marker = page["NextPartNumberMarker"]

    async def complete(self, key: str, upload_id: str, cut: Plan) -> None:
        """Join the parts. Repeating the call is harmless.

        Raises:
            UploadIncomplete: Parts are missing. Nothing was changed.
            UploadNotFound: The upload was aborted or has expired.
        """
        try:
            arrived = await self.parts(key, upload_id)
            missing = cut.missing(arrived)
            if missing:
                raise UploadIncomplete(missing)
            parts = [
                {"PartNumber": part.number, "ETag": part.etag}
                | ({"ChecksumSHA256": part.checksum} if part.checksum else {})
                for part in arrived
                if part.number <= cut.count
            ]
            await self._call(
                "complete_multipart_upload",
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        except UploadNotFound:
            # If an earlier call completed the upload, the object exists with the planned size.
            if await self.find_complete_size(key) != cut.size_bytes:
                raise

    async def abort(self, key: str, upload_id: str) -> None:
        """Delete the parts. Repeating the call is harmless."""
        try:
            await self._call("abort_multipart_upload", Key=key, UploadId=upload_id)
        except UploadNotFound:
            return

    async def find_complete_size(self, key: str) -> int | None:
        """Return the size of a complete object in bytes, or None if it does not exist."""
        return await asyncio.to_thread(_typed, functools.partial(self._size, key))

    async def check(self, key: str, cut: Plan, announced: str) -> bool:
        """Read a complete object, and return whether it has the announced checksum."""

        def read() -> bool:
            digest = FileDigest(cut.part_bytes)
            body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"]
            while piece := body.read(MIB):
                digest.update(piece)
            return digest.matches(announced)

        return await asyncio.to_thread(_typed, read)

    async def remove(self, key: str) -> None:
        """Delete a complete object. Repeating the call is harmless."""
        await self._call("delete_object", Key=key)

    async def _call(self, operation: str, **arguments: Any) -> Any:
        def call() -> Any:
            return getattr(self._s3, operation)(Bucket=self._bucket, **arguments)

        return await asyncio.to_thread(_typed, call)


def _typed(call: Callable[[], T]) -> T:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in {"NoSuchUpload", "NoSuchKey", "404"}:
            raise UploadNotFound("upload not found") from error
        if code in {"InvalidPart", "InvalidPartOrder", "EntityTooSmall"}:
            raise UploadIncomplete(()) from error
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500 or code == "SlowDown":
            raise StorageUnavailable(f"S3 returned {code}") from error
        raise
    except BotoCoreError as error:
        raise StorageUnavailable(f"S3 did not respond: {type(error).__name__}") from error
