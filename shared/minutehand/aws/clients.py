"""boto3 clients: made on first use, one per service and setting, shared by the process.

Credentials come from boto3's own chain; nothing here reads or guesses them.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

from minutehand.aws.sigv4 import configured
from minutehand.config import Settings

_making = threading.Lock()


def client(settings: Settings, service: str, *, read_timeout: float = 5.0) -> Any:
    """A client of `service`; boto3's clients are safe to share between threads.

    Args:
        settings: For the region and, on the local stack, the endpoint.
        service: boto3's name, for example `kms`.
        read_timeout: Seconds.
    """
    environ = {**settings.environ, "AWS_ENDPOINT_URL": settings.aws_endpoint_url or ""}
    endpoint = configured(service, environ)
    # making one is not safe between threads, and of two first callers each would make its own
    with _making:
        return _made(service, settings.aws_region, endpoint, read_timeout)


@functools.lru_cache(maxsize=16)
def _made(service: str, region: str, endpoint: str | None, read_timeout: float) -> Any:
    # here and not at the top: boto3 costs 120 to 170 ms of a cold start that may not need it
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=2.0,
        read_timeout=read_timeout,
        retries={"total_max_attempts": 3, "mode": "standard"},
        # path-style addresses work on any endpoint, the local one included
        s3={"addressing_style": "path"} if endpoint else {},
        signature_version="s3v4" if service == "s3" else None,
    )
    return boto3.client(  # type: ignore[call-overload]
        service, region_name=region, endpoint_url=endpoint, config=config
    )
