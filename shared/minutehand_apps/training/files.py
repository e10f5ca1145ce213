"""The app's files in the uploads bucket: the uploaded videos and the chunks of their sound.

At most one piece of a video is in memory. SQL decides who may read a file.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mimetypes
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

from minutehand_apps.training.bucket import UploadsBucket
from minutehand_apps.training.errors import later, refused
from minutehand_apps.training.parts import FileDigest, plan

PIECE_BYTES: Final = 4 * 1024 * 1024
logger = logging.getLogger(__name__)

#: Free space to keep on the disk in addition to the video.
SPARE_BYTES: Final = 64 * 1024 * 1024
VIDEO_SECONDS: Final = 3600
T = TypeVar("T")


class TrainingFiles(UploadsBucket):
    """Read videos, store chunks of sound, and delete both."""

    def presign(self, key: str) -> str:
        """Return a URL from which a browser can read an object for `VIDEO_SECONDS`."""
        url: str = self._s3.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._bucket,
                "Key": key,
                # Set by the file name and not by the upload's claim, so that no browser shows the
                # file as a page.
                "ResponseContentType": mimetypes.guess_type(key)[0] or "video/mp4",
                "ResponseContentDisposition": "inline",
            },
            ExpiresIn=VIDEO_SECONDS,
        )
        return url

    async def measure(self, key: str) -> int | None:
        """Return the size of an object in bytes, or None if the object does not exist."""
        return await _typed(lambda: self._size(key), missing="storage_unavailable")

    async def fetch(
        self, key: str, into: Path, *, on_bytes: Callable[[int, int | None], None]
    ) -> FileDigest:
        """Copy an object to a file and return its checksums.

        Args:
            on_bytes: Called with the number of bytes copied and the total.
        """
        stop = threading.Event()

        def copy() -> FileDigest:
            response = self._s3.get_object(Bucket=self._bucket, Key=key)
            digest = FileDigest(plan(response["ContentLength"]).part_bytes)
            if shutil.disk_usage(into.parent).free < response["ContentLength"] + SPARE_BYTES:
                raise later("no_room", "The worker's disk has no room for the video")
            done = 0
            with into.open("wb") as file:
                while piece := response["Body"].read(PIECE_BYTES):
                    if stop.is_set():
                        return digest
                    file.write(piece)
                    digest.update(piece)
                    done += len(piece)
                    on_bytes(done, response["ContentLength"])
            if done != response["ContentLength"]:
                raise later("storage_unavailable", "Reading the video failed")
            return digest

        try:
            return await _typed(copy, missing="video_missing")
        finally:
            stop.set()  # so that the thread stops after the current piece if the call was cancelled

    async def read_part(
        self, key: str, *, missing: str, start: int = 0, length: int | None = None
    ) -> bytes:
        """Read an object, or `length` bytes of it."""

        def read() -> bytes:
            range_header = (
                {} if length is None else {"Range": f"bytes={start}-{start + length - 1}"}
            )
            response = self._s3.get_object(Bucket=self._bucket, Key=key, **range_header)
            body: bytes = response["Body"].read()
            return body

        return await _typed(read, missing=missing)

    async def put(self, key: str, body: bytes) -> None:
        """Store an object."""

        def put() -> None:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=body)

        await _typed(put, missing="storage_unavailable")

    async def remove(self, *keys: str, prefix: str) -> None:
        """Delete these objects and all objects with the prefix."""

        def remove() -> None:
            names = list(keys)
            pages = self._s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                names += [entry["Key"] for entry in page.get("Contents", ())]
            for at in range(0, len(names), 1000):
                batch = [{"Key": name} for name in names[at : at + 1000]]
                response = self._s3.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True}
                )
                if response.get("Errors"):
                    _report(f"not deleted: {response['Errors'][0].get('Code')}")
                    raise later("storage_unavailable", "The uploads bucket did not delete a file")

        await _typed(remove, missing="storage_unavailable")


async def _typed(call: Callable[[], T], *, missing: str) -> T:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return await asyncio.to_thread(call)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in {"NoSuchKey", "404"}:
            raise refused(missing, "The file is no longer in the uploads bucket") from error
        _report(f"the bucket returned {code}")
        raise later("storage_unavailable", "The uploads bucket rejected the request") from error
    except (BotoCoreError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            # Another job's video has filled the disk since the check.
            raise later("no_room", "The worker's disk is full") from error
        _report(f"the bucket did not respond: {type(error).__name__}: {error}")
        raise later("storage_unavailable", "The uploads bucket did not respond") from error


def _report(reason: str) -> None:
    """Log the cause. The error that people read has one sentence."""
    logger.warning("uploads failed", extra={"event": "uploads.failed", "reason": reason[:300]})


def sound_prefix(workspace_id: UUID | str, training_id: UUID | str) -> str:
    """Return the key prefix of the sound chunks of a training."""
    return f"workspaces/{workspace_id}/training/{training_id}/"


def sound_key(workspace_id: UUID | str, training_id: UUID | str, number: int) -> str:
    """Return the key of a sound chunk."""
    return f"{sound_prefix(workspace_id, training_id)}{number:04}.pcm"
