"""The uploads bucket: its name, its S3 client, and the size of an object.

Subclasses read and write files, and decide how to treat a missing file.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from minutehand.aws import client
from minutehand.config import Settings

#: Maximum length of the file name in a key.
NAME_CHARACTERS: Final = 120
_ID: Final = "[0-9a-f-]{36}"
#: Key of an uploaded file, as returned when an upload is created.
KEY: Final = re.compile(
    rf"workspaces/(?P<workspace>{_ID})/(?P<owner>{_ID})/{_ID}"
    rf"/(?!\.{{1,2}}$)[A-Za-z0-9._-]{{1,{NAME_CHARACTERS}}}"
)


class UploadsBucket:
    """Base class for access to the uploads bucket. Connects to S3 on first use."""

    #: Maximum wait for the next bytes from S3.
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
        """Return the size of an object in bytes, or None if the object does not exist.

        Raises:
            ConfigurationError: This deployment has no uploads bucket.
        """
        return await asyncio.to_thread(self._size, key)

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
