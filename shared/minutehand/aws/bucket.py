"""The uploads bucket as the apps' files lie in it: its name, its client, the size of an object.

How files are written and read, and what a missing one means, is left to each app.
"""

from __future__ import annotations

import asyncio
from typing import Any

from minutehand.aws.clients import client
from minutehand.config import Settings


class UploadsBucket:
    """To be extended by an app's own files; nothing is connected before it is needed."""

    #: Longest wait for S3's next bytes.
    READ_SECONDS = 20.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def _s3(self) -> Any:
        return client(self._settings, "s3", read_timeout=self.READ_SECONDS)

    @property
    def _bucket(self) -> str:
        self._settings.require("UPLOADS_BUCKET")
        return self._settings.uploads_bucket or ""

    async def find_size(self, key: str) -> int | None:
        """Measure an object in bytes; None when there is none.

        Raises:
            ConfigurationError: This deployment has no uploads bucket.
        """
        return await asyncio.to_thread(self._size, key)

    async def read(self, key: str) -> bytes | None:
        """Read an object that fits into memory; None when there is none.

        Raises:
            ConfigurationError: This deployment has no uploads bucket.
        """
        if await self.find_size(key) is None:
            return None
        return await asyncio.to_thread(
            lambda: self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        )

    def _size(self, key: str) -> int | None:
        from botocore.exceptions import ClientError

        try:
            head = self._s3.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        size: int = head["ContentLength"]
        return size
