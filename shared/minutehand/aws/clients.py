"""boto3 clients, created on first use and shared by the process, one per service and setting.

Credentials come from boto3's own chain.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

from minutehand.aws.sigv4 import configured_endpoint
from minutehand.config import Settings

_lock = threading.Lock()


def client(settings: Settings, service: str, *, read_timeout: float = 5.0) -> Any:
    """Return the client of a service, which threads may share.

    Args:
        settings: Settings with the region and, on the local stack, the endpoint.
        service: Name of the service in boto3, e.g. `kms`.
        read_timeout: Maximum seconds to wait for a response.
    """
    environ = {**settings.environ, "AWS_ENDPOINT_URL": settings.aws_endpoint_url or ""}
    endpoint = configured_endpoint(service, environ)
    # Creating a client is not thread-safe, and without the lock two threads could create two.
    with _lock:
        return _create_client(service, settings.aws_region, endpoint, read_timeout)


@functools.lru_cache(maxsize=16)
def _create_client(service: str, region: str, endpoint: str | None, read_timeout: float) -> Any:
    # imported here, because boto3 takes 120 to 170 ms of a cold start that may not need it
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=2.0,
        read_timeout=read_timeout,
        retries={"total_max_attempts": 3, "mode": "standard"},
        # path-style addresses work on any endpoint, also on the local stack
        s3={"addressing_style": "path"} if endpoint else {},
        signature_version="s3v4" if service == "s3" else None,
    )
    return boto3.client(  # type: ignore[call-overload]
        service, region_name=region, endpoint_url=endpoint, config=config
    )
