"""A fake AWS by moto: S3, KMS, SSM and SQS at one address.

Resources stay in the process until an `Account` is closed, so tests must use different names.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from minutehand.local.aws import MotoServer


@contextmanager
def fake_aws(*more: str) -> Iterator[str]:
    """Serve on a free port and yield the address for AWS_ENDPOINT_URL.

    Args:
        more: Services that are used besides S3 and KMS. Each service is imported here, because moto
        would import it at the first request, which may take longer than our clients wait.
    """
    server = MotoServer(0)
    server.start()
    try:
        with httpx.Client(trust_env=False, timeout=120) as http:
            for service in ("s3", "kms", *more):
                scope = f"Credential=x/20260101/us-east-1/{service}/aws4_request"
                authorization = f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=x"
                http.get(server.url, headers={"authorization": authorization})
        yield server.url
    finally:
        server.stop()
