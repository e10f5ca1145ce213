"""boto3 clients, which are created at first use, one for each AWS service, region and timeout.

boto3 finds the credentials of the clients itself.
"""

import functools
import threading
from typing import Any

from minutehand.aws.sigv4 import configured_endpoint
from minutehand.config import Settings

_lock = threading.Lock()


def client(settings: Settings, service: str, *, read_timeout: float = 5.0) -> Any:
    """Return the boto3 client of a service. Several threads may use the client.

    Args:
        settings: Settings with the AWS region. On the local stack, the settings also contain the
            address of the AWS simulation.
        service: Name of the service in boto3, e.g. `kms`.
        read_timeout: Maximum seconds to wait for a response.
    """
    environ = {**settings.environ, "AWS_ENDPOINT_URL": settings.aws_endpoint_url or ""}
    endpoint = configured_endpoint(service, environ)
    # use a lock, because otherwise two threads could create the same client at the same time
    with _lock:
        return _create_client(service, settings.aws_region, endpoint, read_timeout)


@functools.lru_cache(maxsize=16)
def _create_client(service: str, region: str, endpoint: str | None, read_timeout: float) -> Any:
    # import boto3 only here, because its import would lengthen every cold start by 120 to 170 ms
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=2.0,
        read_timeout=read_timeout,
        retries={"total_max_attempts": 3, "mode": "standard"},
        # use path-style addresses of S3 buckets, which work with every endpoint, including the
        # local one
        s3={"addressing_style": "path"} if endpoint else {},
        signature_version="s3v4" if service == "s3" else None,
    )
    return boto3.client(  # type: ignore[call-overload]
        service, region_name=region, endpoint_url=endpoint, config=config
    )
