"""The app's part of the uploads bucket: pages that work has built.

SQL decides who may read which page.
"""

from __future__ import annotations

import asyncio
from typing import Final

from minutehand.aws.bucket import UploadsBucket

MEDIA_TYPE: Final = "text/html; charset=utf-8"


def key_of(workspace_id: str, job_id: str) -> str:
    """Where a work item's page lies; the same for every attempt."""
    return f"workspaces/{workspace_id}/chat/{job_id}.html"


class ChatFiles(UploadsBucket):
    """Writes and reads pages."""

    async def put(self, key: str, page: str) -> int:
        """Store a page and return its size in bytes.

        Raises:
            ConfigurationError: This deployment has no uploads bucket.
        """
        body = page.encode()
        await asyncio.to_thread(
            lambda: self._s3.put_object(
                Bucket=self._bucket, Key=key, Body=body, ContentType=MEDIA_TYPE
            )
        )
        return len(body)

    async def find(self, key: str) -> bytes | None:
        """Read a page; None when there is none.

        Raises:
            ConfigurationError: This deployment has no uploads bucket.
        """
        return await asyncio.to_thread(self._read, key)

    def _read(self, key: str) -> bytes | None:
        from botocore.exceptions import ClientError

        try:
            body: bytes = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return body
