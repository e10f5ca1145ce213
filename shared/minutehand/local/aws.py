"""AWS on this machine: a moto server with the bucket that the service uses.

`python -m minutehand.local.aws` serves on AWS_PORT, and forgets everything when it stops.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from threading import Thread
from typing import Any, NoReturn

REGION = "us-east-1"
BUCKET = "minutehand-local-uploads"

Start = Callable[..., Any]
App = Callable[[dict[str, Any], Start], Iterable[bytes]]


class MotoServer:
    """A moto server on this machine.

    Args:
        port: 0 takes a free one.
        around: A middleware before moto, if any.
    """

    def __init__(
        self, host: str, port: int, around: Callable[[App], App] = lambda app: app
    ) -> None:
        # slow, as boto3, and needed by this process alone
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.moto_server.werkzeug_app import MotoRequestHandler as Handler
        from werkzeug.serving import make_server

        app = around(DomainDispatcherApplication(create_backend_app))
        self._server = make_server(host, port, app, True, request_handler=Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{self._server.host}:{self._server.port}"

    def start(self) -> None:
        """Serve until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


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


def prepare(endpoint: str) -> None:
    """Create what a deployment finds on AWS; with its CORS rules the bucket is ready."""
    s3 = client("s3", endpoint)
    s3.create_bucket(Bucket=BUCKET)
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
    port = int(environ["AWS_PORT"])
    server = MotoServer("127.0.0.1", port)
    server.start()
    prepare(server.url)
    print(f"listening on {port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)  # taking moto's modules apart takes seconds


if __name__ == "__main__":
    main(os.environ)
