"""boto3 clients: made on first use, one per service and setting, shared by the process.

Credentials come from boto3's own chain; nothing here reads or guesses them.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

from minutehand.config import Settings

_making = threading.Lock()


def client(
    settings: Settings,
    service: str,
    *,
    connect_timeout: float = 2.0,
    read_timeout: float = 5.0,
    attempts: int = 3,
) -> Any:
    """A client of `service`; boto3's clients are safe to share between threads.

    Args:
        settings: For the region and, on the local stack, the endpoint.
        service: boto3's name, for example `kms`.
        connect_timeout: Seconds.
        read_timeout: Seconds.
        attempts: Tries in all; 1 for calls whose loss is harmless.
    """
    endpoint = settings.aws_endpoint_url
    # making one is not safe between threads, and of two first callers each would make its own
    with _making:
        return bounded_client(
            service, settings.aws_region, endpoint, connect_timeout, read_timeout, attempts
        )


@functools.lru_cache(maxsize=16)
def bounded_client(
    service: str,
    region: str | None,
    endpoint: str | None,
    connect_timeout: float,
    read_timeout: float,
    attempts: int,
) -> Any:
    """As `client`, of an environment whose settings are not read yet; not for two threads."""
    # here and not at the top: boto3 costs 120 to 170 ms of a cold start that may not need it
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        # path-style addresses work on any endpoint, the local one included
        s3={"addressing_style": "path"} if endpoint else {},
        signature_version="s3v4" if service == "s3" else None,
    )
    return boto3.client(  # type: ignore[call-overload]
        service, region_name=region, endpoint_url=endpoint, config=config
    )
