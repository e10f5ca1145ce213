"""The app's part of the uploads bucket: videos as they were uploaded, and their cut sound.

Never holds more than a piece of a video in memory; SQL decides who may read what.
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

#: Left free on the disk beside a video.
SPARE_BYTES: Final = 64 * 1024 * 1024
VIDEO_SECONDS: Final = 3600
T = TypeVar("T")


class TrainingFiles(UploadsBucket):
    """Reads videos, keeps cut sound, and removes both."""

    def presign(self, key: str) -> str:
        """Sign an address from which a browser may read an object for `VIDEO_SECONDS`."""
        url: str = self._s3.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._bucket,
                "Key": key,
                # regardless of the claim at the upload: never shown as a page
                "ResponseContentType": mimetypes.guess_type(key)[0] or "video/mp4",
                "ResponseContentDisposition": "inline",
            },
            ExpiresIn=VIDEO_SECONDS,
        )
        return url

    async def measure(self, key: str) -> int | None:
        """Find an object's size in bytes; None when there is none."""
        return await _typed(lambda: self._size(key), missing="storage_unavailable")

    async def fetch(
        self, key: str, into: Path, *, on_bytes: Callable[[int, int | None], None]
    ) -> FileDigest:
        """Write an object to a file; its checksums.

        Args:
            on_bytes: Called with the bytes that have arrived, and with their number in the end.
        """
        stop = threading.Event()

        def copy() -> FileDigest:
            answer = self._s3.get_object(Bucket=self._bucket, Key=key)
            digest = FileDigest(plan(answer["ContentLength"]).part_bytes)
            if shutil.disk_usage(into.parent).free < answer["ContentLength"] + SPARE_BYTES:
                raise later("no_room", "The worker's disk has no room for the video")
            done = 0
            with into.open("wb") as file:
                while piece := answer["Body"].read(PIECE_BYTES):
                    if stop.is_set():
                        return digest
                    file.write(piece)
                    digest.update(piece)
                    done += len(piece)
                    on_bytes(done, answer["ContentLength"])
            if done != answer["ContentLength"]:
                raise later("storage_unavailable", "Reading the video failed")
            return digest

        try:
            return await _typed(copy, missing="video_missing")
        finally:
            stop.set()  # cancelled: the thread ends with the piece under way

    async def read_part(
        self, key: str, *, missing: str, start: int = 0, length: int | None = None
    ) -> bytes:
        """Read an object, or a piece of it."""

        def read() -> bytes:
            more = {} if length is None else {"Range": f"bytes={start}-{start + length - 1}"}
            answer = self._s3.get_object(Bucket=self._bucket, Key=key, **more)
            body: bytes = answer["Body"].read()
            return body

        return await _typed(read, missing=missing)

    async def put(self, key: str, body: bytes) -> None:
        """Keep an object."""

        def put() -> None:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=body)

        await _typed(put, missing="storage_unavailable")

    async def remove(self, *keys: str, prefix: str) -> None:
        """Remove objects by their names, and all below a prefix."""

        def remove() -> None:
            names = list(keys)
            pages = self._s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                names += [each["Key"] for each in page.get("Contents", ())]
            for at in range(0, len(names), 1000):
                batch = [{"Key": name} for name in names[at : at + 1000]]
                answer = self._s3.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True}
                )
                if answer.get("Errors"):
                    _report(f"not removed: {answer['Errors'][0].get('Code')}")
                    raise later("storage_unavailable", "The uploads bucket did not remove a file")

        await _typed(remove, missing="storage_unavailable")


async def _typed(call: Callable[[], T], *, missing: str) -> T:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return await asyncio.to_thread(call)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in {"NoSuchKey", "404"}:
            raise refused(missing, "The file is no longer in the uploads bucket") from error
        _report(f"the bucket answered {code}")
        raise later("storage_unavailable", "The uploads bucket refused the request") from error
    except (BotoCoreError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            # another job's video came between
            raise later("no_room", "The worker's disk is full") from error
        _report(f"the bucket did not answer: {type(error).__name__}: {error}")
        raise later("storage_unavailable", "The uploads bucket did not answer") from error


def _report(reason: str) -> None:
    """What exactly was wrong, for the log of this process: people read a sentence."""
    logger.warning("uploads failed", extra={"event": "uploads.failed", "reason": reason[:300]})


def sound_prefix(workspace_id: UUID | str, training_id: UUID | str) -> str:
    """Where a training's cut sound lies."""
    return f"workspaces/{workspace_id}/training/{training_id}/"


def sound_key(workspace_id: UUID | str, training_id: UUID | str, number: int) -> str:
    """Where a chunk of it lies."""
    return f"{sound_prefix(workspace_id, training_id)}{number:04}.pcm"
