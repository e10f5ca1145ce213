"""AWS on this machine: a moto server with the bucket, key and parameters that the service uses.

`python -m minutehand.local.aws` serves on AWS_PORT until it is stopped; nothing is kept after that.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Mapping
from typing import NoReturn

REGION = "us-east-1"
BUCKET = "minutehand-local-uploads"
KMS_ALIAS = "alias/minutehand-local"
PARAMETERS = ("jobs", "status", "worker", "health")
SECRET_NAMES = (
    "SUPABASE_JWT_SECRET",
    "SUPABASE_SECRET_KEY",
    "WORKER_SECRET_TOKEN",
    "BACKGROUND_JOB_TOKEN",
)


def prepare(endpoint: str, environ: Mapping[str, str]) -> None:
    """Create what a deployment finds on AWS."""
    import boto3  # slow, and needed by this child alone

    def client(service: str) -> object:
        return boto3.client(  # type: ignore[call-overload]
            service,
            region_name=REGION,
            endpoint_url=endpoint,
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )

    s3, kms, ssm = (client(name) for name in ("s3", "kms", "ssm"))
    s3.create_bucket(Bucket=BUCKET)  # type: ignore[attr-defined]
    s3.put_bucket_cors(  # type: ignore[attr-defined]
        Bucket=BUCKET,
        CORSConfiguration={
            "CORSRules": [
                {
                    "AllowedOrigins": ["*"],
                    "AllowedMethods": ["GET", "PUT", "POST", "HEAD"],
                    "AllowedHeaders": ["*"],
                    "ExposeHeaders": ["ETag"],  # a browser must read it to complete an upload
                }
            ]
        },
    )
    key = kms.create_key(Description="Minutehand, local")["KeyMetadata"]["KeyId"]  # type: ignore[attr-defined]
    kms.create_alias(AliasName=KMS_ALIAS, TargetKeyId=key)  # type: ignore[attr-defined]
    secrets = {name: environ[name] for name in SECRET_NAMES if environ.get(name)}
    for function in PARAMETERS:
        ssm.put_parameter(  # type: ignore[attr-defined]
            Name=f"/minutehand/local/{function}", Value=json.dumps(secrets), Type="SecureString"
        )


def main(environ: Mapping[str, str]) -> NoReturn:
    """Serve until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    # moto's own start-up line and a line per request: the service's logs say enough
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    from minutehand.local.s3_guard import GuardedAws

    port = int(environ["AWS_PORT"])
    server = GuardedAws("127.0.0.1", port)
    server.start()
    prepare(f"http://127.0.0.1:{port}", environ)
    print(f"listening on {port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)  # there is nothing to keep, and taking moto's modules apart takes seconds


if __name__ == "__main__":
    main(os.environ)
