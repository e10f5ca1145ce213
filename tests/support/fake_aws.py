"""Amazon on this machine, as far as moto knows it: S3, KMS, SSM, SQS, all at one address.

What is put there is kept by the test process: take names of your own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moto.server import ThreadedMotoServer


@contextmanager
def fake_aws() -> Iterator[str]:
    """Serve on a free port; yields the address, for AWS_ENDPOINT_URL."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
