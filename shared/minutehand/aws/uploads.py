"""S3 multipart uploads: the browser sends the parts straight to S3 by presigned URLs.

S3 is the only memory of what has arrived; who may upload is left to the routes.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from minutehand.aws.bucket import UploadsBucket
from minutehand.config import JobServiceError, Settings

MIB = 1024 * 1024
#: S3 takes at most 10,000 parts of 5 MiB to 5 GiB; fewer, larger ones keep answers short.
MIN_PART_BYTES = 8 * MIB
MAX_PARTS = 2_000
MAX_BYTES = 16 * 1024 * MIB
URL_LIFETIME = timedelta(hours=1)
#: Most of a file's name in its key.
NAME_CHARACTERS = 120
_ID = "[0-9a-f-]{36}"
#: The key of an uploaded file, as creating an upload gives it out.
KEY = re.compile(
    rf"workspaces/(?P<workspace>{_ID})/(?P<owner>{_ID})/{_ID}"
    rf"/(?!\.{{1,2}}$)[A-Za-z0-9._-]{{1,{NAME_CHARACTERS}}}"
)

T = TypeVar("T")


class UploadError(JobServiceError):
    """An upload could not continue."""


class UploadNotFound(UploadError):
    """The upload was not found: it was aborted, has expired, or is complete."""


class UploadIncomplete(UploadError):
    """Parts are missing or of the wrong size; `missing` holds their numbers."""

    def __init__(self, missing: tuple[int, ...]) -> None:
        self.missing = missing
        super().__init__(f"{len(missing)} part(s) have not arrived")


class StorageUnavailable(UploadError):
    """S3 did not answer; safe to repeat."""


@dataclass(frozen=True)
class Part:
    """A part that has arrived."""

    number: int
    size_bytes: int
    etag: str
    #: Base64 of its SHA-256, where storage keeps it.
    checksum: str | None = None


@dataclass(frozen=True)
class Plan:
    """How a file of `size_bytes` is cut; every part but the last has `part_bytes`."""

    size_bytes: int
    part_bytes: int

    @property
    def count(self) -> int:
        """Number of parts; an empty file has one, as S3 wants."""
        return max(1, -(-self.size_bytes // self.part_bytes))

    def bytes_of(self, number: int) -> int:
        """Size of part `number`, counted from 1."""
        if number < self.count:
            return self.part_bytes
        return self.size_bytes - (self.count - 1) * self.part_bytes

    def missing(self, arrived: Iterable[Part]) -> tuple[int, ...]:
        """Numbers of the parts that have yet to arrive in their right size."""
        whole = {part.number for part in arrived if part.size_bytes == self.bytes_of(part.number)}
        return tuple(number for number in range(1, self.count + 1) if number not in whole)


def plan(size_bytes: int) -> Plan:
    """Cut a file so that neither the parts nor their number exceed what S3 takes."""
    if not 0 <= size_bytes <= MAX_BYTES:
        raise ValueError(f"a file of {size_bytes} bytes; 0 to {MAX_BYTES} are taken")
    part = max(MIN_PART_BYTES, -(-size_bytes // MAX_PARTS))
    return Plan(size_bytes, -(-part // MIB) * MIB)


class FileDigest:
    """SHA-256 of a file as it passes by: over the whole, and over its parts' checksums.

    Args:
        part_bytes: Size of every part but the last.

    References:
        https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    """

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._whole = hashlib.sha256()
        self._part = hashlib.sha256()
        self._in_part = 0
        self._parts = b""

    def update(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._whole.update(piece)
        while piece:
            room = self._part_bytes - self._in_part
            self._part.update(piece[:room])
            self._in_part += min(room, len(piece))
            piece = piece[room:]
            if self._in_part == self._part_bytes:
                self._end_part()

    def matches(self, announced: str) -> bool:
        """Whether a checksum, `<hex>` or `<hex>-<parts>`, is this file's; to be asked once."""
        if "-" not in announced:
            return announced == self._whole.hexdigest()
        if self._in_part or not self._parts:
            self._end_part()
        count = len(self._parts) // hashlib.sha256().digest_size
        return announced == f"{hashlib.sha256(self._parts).hexdigest()}-{count}"

    def _end_part(self) -> None:
        self._parts += self._part.digest()
        self._part, self._in_part = hashlib.sha256(), 0


class Uploads(UploadsBucket):
    """Multipart uploads into this deployment's bucket."""

    READ_SECONDS = 10.0  # a request waits

    def __init__(self, settings: Settings) -> None:
        settings.require("UPLOADS_BUCKET")
        super().__init__(settings)

    async def create(self, key: str, *, content_type: str) -> str:
        """Begin an upload and return S3's id for it."""
        made = await self._call(
            "create_multipart_upload", Key=key, ContentType=content_type, ChecksumAlgorithm="SHA256"
        )
        upload_id: str = made["UploadId"]
        return upload_id

    async def sign(
        self, key: str, upload_id: str, cut: Plan, checksums: Mapping[int, str]
    ) -> dict[int, str]:
        """A URL for each part, to be PUT to within `URL_LIFETIME` with the bytes planned.

        Args:
            checksums: Base64 of the SHA-256 of each part, by number; it is to be sent as the
                header `x-amz-checksum-sha256`, without which the address is not valid.
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
                    # signed, so that a part cannot bring more than was announced
                    "ContentLength": cut.bytes_of(number),
                    # signed, so that no other bytes are taken
                    "ChecksumSHA256": checksum,
                },
                ExpiresIn=int(URL_LIFETIME.total_seconds()),
            )
            for number, checksum in checksums.items()
        }

    async def parts(self, key: str, upload_id: str) -> tuple[Part, ...]:
        """Every part that has arrived, by number.

        Raises:
            UploadNotFound: It is not there, any more.
        """
        found: list[Part] = []
        marker = 0
        while True:
            page = await self._call(
                "list_parts", Key=key, UploadId=upload_id, PartNumberMarker=marker
            )
            found += [
                Part(p["PartNumber"], p["Size"], p["ETag"], p.get("ChecksumSHA256"))
                for p in page.get("Parts", ())
            ]
            if not page.get("IsTruncated"):
                return tuple(sorted(found, key=lambda part: part.number))
            marker = page["NextPartNumberMarker"]

    async def complete(self, key: str, upload_id: str, cut: Plan) -> None:
        """Join the parts; doing so again is harmless.

        Raises:
            UploadIncomplete: Parts are missing; nothing was changed.
            UploadNotFound: The upload was aborted or has expired.
        """
        try:
            arrived = await self.parts(key, upload_id)
            missing = cut.missing(arrived)
            if missing:
                raise UploadIncomplete(missing)
            wanted = [
                {"PartNumber": part.number, "ETag": part.etag}
                | ({"ChecksumSHA256": part.checksum} if part.checksum else {})
                for part in arrived
                if part.number <= cut.count
            ]
            await self._call(
                "complete_multipart_upload",
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": wanted},
            )
        except UploadNotFound:
            # a repeated call, or a lost answer: the object itself shows which
            if await self.size_of(key) != cut.size_bytes:
                raise

    async def abort(self, key: str, upload_id: str) -> None:
        """Throw the parts away; doing so again is harmless."""
        try:
            await self._call("abort_multipart_upload", Key=key, UploadId=upload_id)
        except UploadNotFound:
            return

    async def size_of(self, key: str) -> int | None:
        """Size of a complete object in bytes; None when there is none."""
        return await asyncio.to_thread(_typed, functools.partial(self._size, key))

    async def check(self, key: str, cut: Plan, announced: str) -> bool:
        """Read a complete object, and say whether it has the checksum that was announced."""

        def read() -> bool:
            digest = FileDigest(cut.part_bytes)
            body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"]
            while piece := body.read(MIB):
                digest.update(piece)
            return digest.matches(announced)

        return await asyncio.to_thread(_typed, read)

    async def remove(self, key: str) -> None:
        """Remove a complete object; doing so again is harmless."""
        await self._call("delete_object", Key=key)

    async def _call(self, operation: str, **arguments: Any) -> Any:
        def call() -> Any:
            return getattr(self._s3, operation)(Bucket=self._bucket, **arguments)

        return await asyncio.to_thread(_typed, call)


def read_checksum(text: str) -> str:
    """A SHA-256 as base64, from base64 or hexadecimal.

    Raises:
        ValueError: It is neither.
    """
    raw = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
    if len(raw) != 32:
        raise ValueError("a SHA-256 has 32 bytes")
    return base64.b64encode(raw).decode()


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
            raise StorageUnavailable(f"S3 answered {code}") from error
        raise
    except BotoCoreError as error:
        raise StorageUnavailable(f"S3 did not answer: {type(error).__name__}") from error
