"""Simulates AWS for the local stack by a moto server with the uploads bucket.

`python -m minutehand.local.aws` listens on AWS_PORT. The moto server keeps its data only in memory,
so each uploaded file is copied to UPLOADS_FOLDER, which the next server reads.
"""

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Lock, Thread
from typing import Any, NoReturn
from urllib.parse import quote, unquote

REGION = "us-east-1"
BUCKET = "minutehand-local-uploads"
#: HTTP methods that can change the files in the bucket.
WRITES = frozenset({"PUT", "POST", "DELETE"})

Start = Callable[..., Any]
App = Callable[[dict[str, Any], Start], Iterable[bytes]]


class MotoServer:
    """A moto server on this machine, which simulates AWS.

    Args:
        port: Port to listen on, or 0 for a free port.
        around: Middleware that handles a request before moto.
    """

    def __init__(self, port: int, around: Callable[[App], App] = lambda app: app) -> None:
        # import moto only here, because only this process needs the slow import
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler as Handler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        app = around(DomainDispatcherApplication(create_backend_app))
        self._server = make_server("127.0.0.1", port, app, True, request_handler=Handler)
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


def allow_browsers(endpoint: str) -> None:
    """Give the uploads bucket CORS rules, so that browsers can upload files."""
    rule = {
        "AllowedOrigins": ["*"],
        "AllowedMethods": ["GET", "PUT", "POST", "HEAD"],
        "AllowedHeaders": ["*"],
        # a browser reads the header ETag to complete an upload
        "ExposeHeaders": ["ETag"],
    }
    client("s3", endpoint).put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [rule]})


class UploadsFolder:
    """A folder with copies of the files in the uploads bucket, named by their keys."""

    def __init__(self, path: Path, endpoint: str) -> None:
        self._path = path
        self._s3 = client("s3", endpoint)
        self._lock = Lock()
        path.mkdir(exist_ok=True)

    def restore(self) -> None:
        """Create the bucket with the files of the folder."""
        self._s3.create_bucket(Bucket=BUCKET)
        for file in self._path.iterdir():
            with file.open("rb") as content:
                self._s3.put_object(Bucket=BUCKET, Key=unquote(file.name), Body=content)

    def update(self) -> None:
        """Copy new files to the folder, and delete files that the bucket no longer contains."""
        with self._lock:
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            keys = {one["Key"] for page in pages for one in page.get("Contents", ())}
            copies = {unquote(file.name) for file in self._path.iterdir()}
            for key in copies - keys:
                (self._path / quote(key, safe="")).unlink()
            for key in keys - copies:
                unfinished = self._path.with_suffix(".unfinished")
                with unfinished.open("wb") as copy:
                    content = self._s3.get_object(Bucket=BUCKET, Key=key)["Body"]
                    shutil.copyfileobj(content, copy)
                unfinished.rename(self._path / quote(key, safe=""))


def main(environ: Mapping[str, str]) -> NoReturn:
    """Serve requests until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    # omit moto's start-up line and its line per request, because the service logs its own calls
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    port = int(environ["AWS_PORT"])
    folder: UploadsFolder | None = None

    def around(app: App) -> App:
        def serve(request: dict[str, Any], start: Start) -> Iterable[bytes]:
            response = app(request, start)
            is_part = "partNumber=" in request["QUERY_STRING"]
            if folder and request["REQUEST_METHOD"] in WRITES and not is_part:
                folder.update()
            return response

        return serve

    server = MotoServer(port, around)
    server.start()
    restored = UploadsFolder(Path(environ["UPLOADS_FOLDER"]), server.url)
    restored.restore()
    folder = restored
    allow_browsers(server.url)  # the last step, because the launcher waits for these rules
    print(f"listening on {port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)  # exit without clean-up, because unloading moto's modules takes seconds


if __name__ == "__main__":
    main(os.environ)
