"""AWS on this machine: a moto server with the bucket that the service uses.

`python -m minutehand.local.aws` serves on AWS_PORT until it is stopped; what was uploaded is kept
in UPLOADS_FOLDER.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any, NoReturn

REGION = "us-east-1"
BUCKET = "minutehand-local-uploads"
#: How long an object may be in memory alone.
KEEP_SECONDS = 2.0


def client(service: str, endpoint: str, **options: Any) -> Any:
    """A client of the AWS that serves at `endpoint`."""
    import boto3  # slow, and needed by few

    return boto3.client(  # type: ignore[call-overload]
        service,
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        **options,
    )


def prepare(endpoint: str, restore: Callable[[], None]) -> None:
    """Create what a deployment finds on AWS; with its CORS rules the bucket is ready."""
    s3 = client("s3", endpoint)
    s3.create_bucket(Bucket=BUCKET)
    restore()
    rule = {
        "AllowedOrigins": ["*"],
        "AllowedMethods": ["GET", "PUT", "POST", "HEAD"],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag"],  # a browser must read it to complete an upload
    }
    s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [rule]})


def main(environ: Mapping[str, str]) -> NoReturn:
    """Serve until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    # moto's own start-up line and a line per request: the service's logs say enough
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    from minutehand.local.kept_bucket import KeptBucket
    from minutehand.local.s3_guard import GuardedAws

    port = int(environ["AWS_PORT"])
    server = GuardedAws("127.0.0.1", port)
    server.start()
    kept, stop = KeptBucket(Path(environ["UPLOADS_FOLDER"]), BUCKET), Event()
    prepare(f"http://127.0.0.1:{port}", kept.restore)

    def keep() -> None:
        while not stop.wait(KEEP_SECONDS):
            kept.keep()

    keeper = Thread(target=keep, daemon=True)
    keeper.start()
    print(f"listening on {port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    stop.set()
    keeper.join()
    kept.keep(unfinished=True)
    os._exit(0)  # taking moto's modules apart takes seconds


if __name__ == "__main__":
    main(os.environ)
