"""What S3 checks of a presigned address and moto does not: signature, lifetime, checksum.

A WSGI middleware before moto, so that the local stack refuses what S3 refuses. On this machine
the secret of an access key is the key itself.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any, Final
from urllib.parse import parse_qsl, quote

Start = Callable[..., Any]
App = Callable[[dict[str, Any], Start], Iterable[bytes]]
CHECKSUM: Final = "x-amz-checksum-sha256"
_MESSAGES: Final = {
    "SignatureDoesNotMatch": (
        403, "The request signature we calculated does not match the signature you provided."
    ),
    "AccessDenied": (403, "Request has expired"),
    "XAmzContentChecksumMismatch": (400, "The provided checksum does not match the content."),
}  # fmt: skip


class S3Guard:
    """Refuse what S3 would refuse, and hand the rest to moto."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Serve one request."""
        query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        if "X-Amz-Signature" in query and environ["REQUEST_METHOD"] != "OPTIONS":
            problem = _problem(environ, query)
            if problem is not None:
                return _refuse(problem, environ, start)
        return self._app(environ, start)


def _problem(environ: dict[str, Any], query: dict[str, str]) -> str | None:
    signed_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if datetime.now(UTC) > signed_at + timedelta(seconds=int(query["X-Amz-Expires"])):
        return "AccessDenied"
    if _signature(environ, query) != query["X-Amz-Signature"]:
        return "SignatureDoesNotMatch"
    announced = environ.get("HTTP_" + CHECKSUM.upper().replace("-", "_"))
    if announced is not None:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        if base64.b64encode(hashlib.sha256(body).digest()).decode() != announced:
            return "XAmzContentChecksumMismatch"
    return None


def _signature(environ: dict[str, Any], query: dict[str, str]) -> str:
    """The signature that the address must carry.

    References:
        https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
    """
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    key, _, region, service, _ = query["X-Amz-Credential"].split("/")
    headers = {}
    for name in query["X-Amz-SignedHeaders"].split(";"):
        variable = name.upper().replace("-", "_")
        own = variable if name in {"content-length", "content-type"} else f"HTTP_{variable}"
        headers[name] = environ.get(own, "")
    rest = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in query.items()
        if name != "X-Amz-Signature"
    )
    path = environ.get("RAW_URI") or environ.get("REQUEST_URI") or quote(environ["PATH_INFO"])
    request = AWSRequest(
        method=environ["REQUEST_METHOD"],
        url=f"http://{environ['HTTP_HOST']}{path.partition('?')[0]}?{rest}",
        headers=headers,
    )
    request.context["timestamp"] = query["X-Amz-Date"]
    auth = S3SigV4QueryAuth(Credentials(key, key), service, region)
    canonical = auth.canonical_request(request)
    found: str = auth.signature(auth.string_to_sign(request, canonical), request)
    return found


def _refuse(code: str, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    status, message = _MESSAGES[code]
    # what is left unread would be taken for the next request
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    ).encode()
    headers = [
        ("Content-Type", "application/xml"),
        ("Content-Length", str(len(body))),
        ("Access-Control-Allow-Origin", "*"),
    ]
    start(f"{status} {'Forbidden' if status == 403 else 'Bad Request'}", headers)
    return [body]


class GuardedAws:
    """A moto server behind the guard.

    Args:
        port: 0 takes a free one.
        guard: The middleware before moto.
    """

    def __init__(self, host: str, port: int, guard: Callable[[App], App] = S3Guard) -> None:
        # slow, as boto3, and needed by this process alone
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.moto_server.werkzeug_app import MotoRequestHandler as Handler
        from werkzeug.serving import make_server

        app = guard(DomainDispatcherApplication(create_backend_app))
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
