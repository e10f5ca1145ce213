"""Uploaded CSV files in the uploads bucket: put, measured, presigned, and read as a stream.

Never holds more than one chunk of a file in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import BinaryIO
from uuid import UUID

from minutehand.aws.bucket import UploadsBucket
from minutehand.queue.errors import ProcessorError

CHUNK_BYTES = 256 * 1024
UPLOAD_SECONDS = 900


class ImportFiles(UploadsBucket):
    """The app's part of the uploads bucket."""

    async def put(self, key: str, file: BinaryIO) -> None:
        """Store a file without reading it whole."""
        await asyncio.to_thread(self._s3.upload_fileobj, file, self._bucket, key)

    def presign(self, key: str, *, length: int) -> str:
        """Sign an address to which a browser may put exactly `length` bytes."""
        url: str = self._s3.generate_presigned_url(
            "put_object",
            Params={
                "Bucket": self._bucket,
                "Key": key,
                "ContentType": "text/csv",
                "ContentLength": length,
            },
            ExpiresIn=UPLOAD_SECONDS,
        )
        return url

    async def stream(self, key: str, *, start: int) -> AsyncIterator[bytes]:
        """Stream an object from `start` on.

        Raises:
            ProcessorError: It does not exist (not retryable), or the read failed.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = await asyncio.to_thread(
                self._s3.get_object, Bucket=self._bucket, Key=key, Range=f"bytes={start}-"
            )
            while chunk := await asyncio.to_thread(answer["Body"].read, CHUNK_BYTES):
                yield chunk
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "InvalidRange":  # start is the very end: nothing is left to read
                return
            raise ProcessorError(
                f"The uploaded file cannot be read: {code}", retryable=code != "NoSuchKey"
            ) from error
        except BotoCoreError as error:
            raise ProcessorError(
                f"Reading the uploaded file failed: {type(error).__name__}"
            ) from error


def object_key(workspace_id: UUID, import_id: UUID) -> str:
    """Where a workspace's file lies; SQL refuses any other workspace's prefix."""
    return f"imports/{workspace_id}/{import_id}.csv"
