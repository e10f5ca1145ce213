"""Amazon on this machine, as far as moto knows it: S3, KMS, SSM, SQS, all at one address.

What is put there is kept by the test process: take names of your own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from minutehand.local.s3_guard import GuardedAws


@contextmanager
def fake_aws() -> Iterator[str]:
    """Serve on a free port; yields the address, for AWS_ENDPOINT_URL."""
    server = GuardedAws("127.0.0.1", 0)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
