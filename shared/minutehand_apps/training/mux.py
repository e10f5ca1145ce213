"""Client of Mux's video API, which uploads videos and reads their state.

`processors.py` decides when to call the API, and handles its responses. The processor polls the
state of a video, because webhooks would need a signature, a route and a secret, and would be only a
little faster.
"""

import base64
import functools
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from minutehand.queue import outbound_http
from minutehand.redaction import without_secrets
from minutehand.retry_after import requested_wait
from minutehand.worker import VendorError, classify_no_response, classify_status
from minutehand_apps.training.models import Lenient

T = TypeVar("T", bound=Lenient)
MAX_RESPONSE_BYTES = 1_000_000
#: Bytes of one request. Resumable uploads require a multiple of 256 KiB.
PIECE_BYTES = 16 * 1024 * 1024
UPLOAD_SECONDS = 6 * 3600
#: Maximum seconds for one piece, which are enough for a slow connection.
PIECE_SECONDS = 600.0
_RECEIVED = re.compile(r"bytes=0-([0-9]{1,18})")


class HostUpload(Lenient):
    """A direct upload. `url` grants access to the upload, so never log or store `url`."""

    id: str
    status: str
    url: str | None = None
    asset_id: str | None = None


class Playback(Lenient):
    """An id by which players request the video."""

    id: str


class Problems(Lenient):
    """Error messages of the video host."""

    messages: tuple[str, ...] = ()


class HostAsset(Lenient):
    """A video that the video host stores."""

    id: str
    status: str
    playback_ids: tuple[Playback, ...] = ()
    duration: float | None = None
    errors: Problems | None = None


class HostError(VendorError):
    """A call of the video host failed. Calls are free, so that each call may be repeated."""

    vendor = "The video host"
    prefix = "host_"


class Mux:
    """Client of Mux's video API with one access token.

    References:
        https://www.mux.com/docs/api-reference/video/direct-uploads,
        https://www.mux.com/docs/guides/upload-files-directly,
        https://www.mux.com/docs/api-reference/video/assets
    """

    def __init__(self, token_id: str, token_secret: str, *, base_url: str) -> None:
        self._base = f"{base_url.rstrip('/')}/video/v1"
        token = base64.b64encode(f"{token_id}:{token_secret}".encode()).decode()
        self._headers = {"authorization": f"Basic {token}"}
        self._http = outbound_http.connect(timeout=outbound_http.timeouts(30.0))

    async def create_upload(self, passthrough: str) -> HostUpload:
        """Start the upload of a video that can be played only by signed URLs.

        A failed call is not repeated. An upload that is not used expires at the host.
        """
        body = {
            "new_asset_settings": {"playback_policies": ["signed"], "passthrough": passthrough},
            "timeout": UPLOAD_SECONDS,
            "cors_origin": "*",
        }
        return await self._call(HostUpload, "POST", "/uploads", body=body)

    async def find_upload(self, upload_id: str) -> HostUpload:
        """Return the state of an upload."""
        return await self._call(HostUpload, "GET", f"/uploads/{quote(upload_id, safe='')}")

    async def find_asset(self, asset_id: str) -> HostAsset:
        """Return the state of a video."""
        return await self._call(HostAsset, "GET", f"/assets/{quote(asset_id, safe='')}")

    async def send(
        self,
        url: str,
        size: int,
        read: Callable[[int, int], Awaitable[bytes]],
        *,
        on_sent: Callable[[int], None],
    ) -> None:
        """Send a video in pieces. Begin at the byte at which an earlier attempt stopped.

        Args:
            url: URL of the upload.
            read: Function that returns `length` bytes of the video, beginning at `start`.
            on_sent: Function that gets the number of bytes that have arrived at the host.
        """
        at = await self._put(url, b"", f"bytes */{size}", size)
        while at < size:
            on_sent(at)
            piece = await read(at, min(PIECE_BYTES, size - at))
            span = f"bytes {at}-{at + len(piece) - 1}/{size}"
            arrived = await self._put(url, piece, span, size)
            if arrived <= at:
                raise HostError(f"The video host stopped after {at} bytes", code="failed")
            at = arrived
        on_sent(size)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _put(self, url: str, piece: bytes, span: str, size: int) -> int:
        """Send a piece, and return the total number of bytes that have arrived at the host."""
        response = await self._send(
            "PUT", url, within=PIECE_SECONDS, content=piece, headers={"content-range": span}
        )
        if response.status in {200, 201}:
            return size
        if response.status == 308:
            received = _RECEIVED.fullmatch(response.headers.get("range", ""))
            return int(received[1]) + 1 if received else 0
        raise _rejection(response)

    async def _call(
        self, kind: type[T], method: str, path: str, *, body: Mapping[str, Any] | None = None
    ) -> T:
        response = await self._send(method, self._base + path, json=body, headers=self._headers)
        if response.status not in {200, 201}:
            raise _rejection(response)
        try:
            return kind.model_validate((response.object() or {}).get("data"))
        except ValidationError as error:
            message = f"The video host returned an undocumented response: {error}"
            raise HostError(message[:500], code="failed") from error

    async def _send(self, method: str, url: str, **options: Any) -> outbound_http.HttpResponse:
        arguments = {name: value for name, value in options.items() if value}
        # repeat a request that was never sent, and a failed request that only reads
        retrying = outbound_http.retrying(
            lambda error: (
                isinstance(error, outbound_http.NoResponse) and (error.unsent or method == "GET")
            ),
            attempts=3,
        )
        exchange = functools.partial(
            outbound_http.exchange,
            self._http,
            method,
            url,
            max_bytes=MAX_RESPONSE_BYTES,
            **arguments,
        )
        try:
            response: outbound_http.HttpResponse = await retrying(exchange)
        except outbound_http.NoResponse as error:
            code = classify_no_response(error).code
            raise HostError(f"The video host {error}", code=code) from error
        return response


def _rejection(response: outbound_http.HttpResponse) -> HostError:
    failure = classify_status(response.status)
    message = without_secrets(" ".join(response.body[:2_000].decode(errors="replace").split()))[
        :500
    ]
    return HostError(
        f"The video host returned {response.status}: {message or 'no message'}",
        code=failure.code,
        hope=failure.hope,
        status=response.status,
        retry_after=requested_wait(response.headers, now=datetime.now(UTC)),
    )
