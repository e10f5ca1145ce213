"""Simulates AWS for the local stack by a moto server with the uploads bucket.

`python -m minutehand.local.aws` listens on AWS_PORT. The moto server keeps its data only in memory.
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
    """A moto server on this machine, which simulates AWS.

    Args:
        port: Port to listen on, or 0 for a free port.
        around: Middleware that handles a request before moto.
    """

    def __init__(
        self, host: str, port: int, around: Callable[[App], App] = lambda app: app
    ) -> None:
        # import moto only here, because only this process needs the slow import
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler as Handler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        app = around(DomainDispatcherApplication(create_backend_app))
        self._server = make_server(host, port, app, True, request_handler=Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """URL of the moto server."""
        return f"http://{self._server.host}:{self._server.port}"

    def start(self) -> None:
        """Serve requests in a thread until `stop` is called."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def client(service: str, endpoint: str, **options: Any) -> Any:
    """Create a boto3 client for the server at `endpoint`."""
    import boto3  # a slow import that is rarely needed

    return boto3.client(  # type: ignore[call-overload]
        service,
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        **options,
    )


def prepare(endpoint: str) -> None:
    """Create the resources that a deployment creates on AWS.

    The uploads bucket gets CORS rules, so that browsers can upload files.
    """
    s3 = client("s3", endpoint)
    s3.create_bucket(Bucket=BUCKET)
    rule = {
        "AllowedOrigins": ["*"],
        "AllowedMethods": ["GET", "PUT", "POST", "HEAD"],
        "AllowedHeaders": ["*"],
        # a browser reads the header ETag to complete an upload
        "ExposeHeaders": ["ETag"],
    }
    s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [rule]})


def main(environ: Mapping[str, str]) -> NoReturn:
    """Serve requests until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    # omit moto's start-up line and its line per request, because the service logs its own calls
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    port = int(environ["AWS_PORT"])
    server = MotoServer("127.0.0.1", port)
    server.start()
    prepare(server.url)
    print(f"listening on {port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)  # exit without clean-up, because unloading moto's modules takes seconds


if __name__ == "__main__":
    main(os.environ)
