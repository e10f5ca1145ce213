"""The uploads bucket, which stores unfinished uploads, recordings, and chunks of their audio.

At most one piece of a video is in memory at a time. SQL and the routes decide who may use a key.
"""

import asyncio
import errno
import logging
import mimetypes
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from minutehand.aws import client
from minutehand.config import Settings
from minutehand.queue import ProcessorError
from minutehand_apps.training.errors import later
from minutehand_apps.training.parts import FileDigest, Part, Plan, plan

logger = logging.getLogger(__name__)

#: Maximum characters of the file name in the key of an object.
NAME_CHARACTERS = 120
_ID = "[0-9a-f-]{36}"
#: Pattern of the key of an uploaded file. The key is returned when the upload is created.
KEY = re.compile(
    rf"workspaces/(?P<workspace>{_ID})/(?P<owner>{_ID})/{_ID}"
    rf"/(?!\.{{1,2}}$)[A-Za-z0-9._-]{{1,{NAME_CHARACTERS}}}"
)
PIECE_BYTES = 4 * 1024 * 1024
#: Bytes that stay free on the disk in addition to the video.
SPARE_BYTES = 64 * 1024 * 1024
#: Seconds for which a presigned URL is valid: of a part and of a shared page's video, and of a
#: member's video, for which a player requests a new URL.
URL_SECONDS = 3600
VIDEO_SECONDS = 300
#: Maximum seconds until the next bytes from S3 arrive, because a request may wait for the bytes.
READ_SECONDS = 20.0
_UNAVAILABLE = "storage_unavailable"
T = TypeVar("T")


class NotStored(ProcessorError):
    """The requested file or unfinished upload is not in the bucket."""


class Bucket:
    """Client of the uploads bucket, which connects to S3 at its first use.

    Each method may raise ConfigurationError if this deployment has no bucket, NotStored, or a
    ProcessorError with a sentence for people.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def _s3(self) -> Any:
        return client(self._settings, "s3", read_timeout=READ_SECONDS)

    @property
    def _name(self) -> str:
        self._settings.require("UPLOADS_BUCKET")
        return self._settings.uploads_bucket or ""

    async def call(self, operation: str, **arguments: Any) -> Any:
        """Call an operation of S3 on this bucket."""
        return await _typed(lambda: getattr(self._s3, operation)(Bucket=self._name, **arguments))

    async def find_size(self, key: str) -> int | None:
        """Return the bytes of an object, or None if the object does not exist."""
        try:
            size: int = (await self.call("head_object", Key=key))["ContentLength"]
        except NotStored:
            return None
        return size

    def presign(self, key: str, *, seconds: int = URL_SECONDS) -> str:
        """Return a URL by which a browser can read an object."""
        return self._sign(
            "get_object",
            seconds=seconds,
            Key=key,
            # derive the content type from the file name and not from the uploader's claim, so that
            # no browser shows the file as a page
            ResponseContentType=mimetypes.guess_type(key)[0] or "video/mp4",
            ResponseContentDisposition="inline",
        )

    def _sign(self, operation: str, *, seconds: int = URL_SECONDS, **arguments: Any) -> str:
        arguments["Bucket"] = self._name
        url: str = self._s3.generate_presigned_url(operation, Params=arguments, ExpiresIn=seconds)
        return url

    async def create(self, key: str, *, content_type: str) -> str:
        """Start an upload, and return the id that S3 gives to it."""
        response = await self.call(
            "create_multipart_upload", Key=key, ContentType=content_type, ChecksumAlgorithm="SHA256"
        )
        upload_id: str = response["UploadId"]
        return upload_id

    async def sign(
        self, key: str, upload_id: str, cut: Plan, checksums: Mapping[int, str]
    ) -> dict[int, str]:
        """Return presigned URLs by the part's number.

        Each URL accepts only the part's exact length.

        Args:
            checksums: SHA-256 of each part in base64, by the part's number. The client must send
                the checksum in the header `x-amz-checksum-sha256`, or S3 rejects the request.
        """
        return await asyncio.to_thread(
            lambda: {
                number: self._sign(
                    "upload_part",
                    Key=key,
                    UploadId=upload_id,
                    PartNumber=number,
                    # sign the length, so that a part cannot be longer than announced
                    ContentLength=cut.part_size(number),
                    # sign the checksum, so that S3 accepts no other bytes
                    ChecksumSHA256=checksum,
                )
                for number, checksum in checksums.items()
            }
        )

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        """Return the parts of an unfinished upload that have arrived, sorted by number."""

        def read() -> list[Part]:
            pages = self._s3.get_paginator("list_parts")
            return [
                Part(p["PartNumber"], p["Size"], p["ETag"], p.get("ChecksumSHA256"))
                for page in pages.paginate(Bucket=self._name, Key=key, UploadId=upload_id)
                for p in page.get("Parts", ())
            ]

        return await _typed(read)

    async def join(self, key: str, upload_id: str, cut: Plan) -> tuple[int, ...]:
        """Join the parts. If parts are missing, return their numbers. The call may be repeated."""
        try:
            arrived = await self.parts(key, upload_id)
            if missing := cut.missing(arrived):
                return missing
            parts = [
                {"PartNumber": part.number, "ETag": part.etag}
                | ({"ChecksumSHA256": part.checksum} if part.checksum else {})
                for part in arrived
                if part.number <= cut.count
            ]
            await self.call(
                "complete_multipart_upload",
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        except NotStored:
            # after an earlier call has completed the upload, the object exists with the planned
            # size
            if await self.find_size(key) != cut.size_bytes:
                raise
        return ()

    async def fetch(self, key: str, into: Path, on_bytes: Callable[[int, int], None]) -> FileDigest:
        """Copy an object to a file, and return its checksums.

        Args:
            on_bytes: Function that gets the number of bytes read so far, and the total number.
        """
        stop = threading.Event()

        def copy() -> FileDigest:
            response = self._s3.get_object(Bucket=self._name, Key=key)
            total, done = response["ContentLength"], 0
            digest = FileDigest(plan(total).part_bytes)
            if shutil.disk_usage(into.parent).free < total + SPARE_BYTES:
                raise later("no_room", "The worker's disk has no room for the video")
            with into.open("wb") as file:
                while piece := response["Body"].read(PIECE_BYTES):
                    if stop.is_set():
                        return digest
                    file.write(piece)
                    digest.update(piece)
                    done += len(piece)
                    on_bytes(done, total)
            return digest

        try:
            return await _typed(copy)
        finally:
            stop.set()  # if the call was cancelled, the thread then stops after the current piece

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Read a whole object, or `length` bytes of it."""
        part = {} if length is None else {"Range": f"bytes={start}-{start + length - 1}"}

        def read() -> bytes:
            body: bytes = self._s3.get_object(Bucket=self._name, Key=key, **part)["Body"].read()
            return body

        return await _typed(read)

    async def remove(self, prefix: str) -> None:
        """Delete all objects whose keys begin with the prefix."""

        def remove() -> None:
            pages = self._s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._name, Prefix=prefix):
                objects = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
                if not objects:
                    return
                response = self._s3.delete_objects(
                    Bucket=self._name, Delete={"Objects": objects, "Quiet": True}
                )
                if response.get("Errors"):
                    _report(f"not deleted: {response['Errors'][0].get('Code')}")
                    raise later(_UNAVAILABLE, "The uploads bucket did not delete a file")

        await _typed(remove)


async def _typed(call: Callable[[], T]) -> T:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return await asyncio.to_thread(call)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in {"NoSuchKey", "NoSuchUpload", "404"}:
            text = "The file is no longer in the uploads bucket"
            raise NotStored(text, retryable=False, data={"code": "video_missing"}) from error
        _report(f"the bucket returned {code}")
        raise later(_UNAVAILABLE, "The uploads bucket rejected the request") from error
    except (BotoCoreError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            # the video of another job has filled the disk since the check
            raise later("no_room", "The worker's disk is full") from error
        _report(f"the bucket did not respond: {type(error).__name__}: {error}")
        raise later(_UNAVAILABLE, "The uploads bucket did not respond") from error


def _report(reason: str) -> None:
    """Log the cause of an error, because the error itself contains only a sentence for people."""
    logger.warning("uploads failed", extra={"event": "uploads.failed", "reason": reason[:300]})


def sound_prefix(workspace_id: UUID | str, training_id: UUID | str) -> str:
    """Return the prefix of the keys of a training's audio chunks."""
    return f"workspaces/{workspace_id}/training/{training_id}/"


def sound_key(workspace_id: UUID | str, training_id: UUID | str, number: int) -> str:
    """Return the key of one of a training's audio chunks."""
    return f"{sound_prefix(workspace_id, training_id)}{number:04}.pcm"
