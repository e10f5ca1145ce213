"""Mux's video API: direct uploads sent piece by piece, and the videos they become.

When to ask, and what an answer means for a training, is processors.py's.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from minutehand.queue import outbound_http
from minutehand.redaction import without_secrets
from minutehand.retry_after import requested_wait
from minutehand.worker import VendorError, classify_no_response, classify_status
from minutehand_apps.training.models import Lenient

T = TypeVar("T", bound=Lenient)
MAX_ANSWER_BYTES: Final = 1_000_000
#: Sent at once; a multiple of 256 KiB, as resumable uploads want.
PIECE_BYTES: Final = 16 * 1024 * 1024
UPLOAD_SECONDS: Final = 6 * 3600
#: Longest time for one piece, over a slow line.
PIECE_SECONDS: Final = 600.0
_RECEIVED: Final = re.compile(r"bytes=0-([0-9]{1,18})")


class HostUpload(Lenient):
    """A direct upload; `url` is a capability and is never logged or stored."""

    id: str
    status: str
    url: str | None = None
    asset_id: str | None = None


class Playback(Lenient):
    """An id by which players ask for a video."""

    id: str


class Problems(Lenient):
    """What is wrong, in the host's words."""

    messages: tuple[str, ...] = ()


class HostAsset(Lenient):
    """A video at the host."""

    id: str
    status: str
    playback_ids: tuple[Playback, ...] = ()
    duration: float | None = None
    errors: Problems | None = None


class HostError(VendorError):
    """The video host did not do as asked; its calls cost nothing, so each may be made again."""

    vendor = "The video host"
    prefix = "host_"


class Mux:
    """Speaks Mux's video API with one access token.

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
        """Begin an upload of a video that only signed addresses will play.

        Not repeated: an upload that no one fills expires at the host.
        """
        body = {
            "new_asset_settings": {"playback_policies": ["signed"], "passthrough": passthrough},
            "timeout": UPLOAD_SECONDS,
            "cors_origin": "*",
        }
        made = await self._call(HostUpload, "POST", "/uploads", body=body)
        if made is None:
            raise HostError("The video host has no uploads", code="failed")
        return made

    async def find_upload(self, upload_id: str) -> HostUpload | None:
        """The present state of an upload; None when there is none."""
        return await self._call(HostUpload, "GET", f"/uploads/{quote(upload_id, safe='')}")

    async def find_asset(self, asset_id: str) -> HostAsset | None:
        """The present state of a video; None when there is none."""
        return await self._call(HostAsset, "GET", f"/assets/{quote(asset_id, safe='')}")

    async def send(
        self,
        url: str,
        size: int,
        read: Callable[[int, int], Awaitable[bytes]],
        *,
        on_sent: Callable[[int], None],
    ) -> None:
        """Send a video piece by piece, from where an earlier attempt stopped.

        Args:
            url: The upload's.
            read: Gives `length` bytes from `start` on.
            on_sent: Called with the bytes that have arrived.
        """
        at = await self._put(url, b"", f"bytes */{size}", size)
        while at < size:
            on_sent(at)
            piece = await read(at, min(PIECE_BYTES, size - at))
            span = f"bytes {at}-{at + len(piece) - 1}/{size}"
            arrived = await self._put(url, piece, span, size)
            if arrived <= at:
                raise HostError(f"The video host takes no more than {at} bytes", code="failed")
            at = arrived
        on_sent(size)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _put(self, url: str, piece: bytes, span: str, size: int) -> int:
        """Send a piece; how many bytes of the whole have arrived."""
        response = await self._send(
            "PUT", url, within=PIECE_SECONDS, content=piece, headers={"content-range": span}
        )
        if response.status in {200, 201}:
            return size
        if response.status == 308:
            found = _RECEIVED.fullmatch(response.headers.get("range", ""))
            return int(found[1]) + 1 if found else 0
        if response.status in {404, 410}:  # the next attempt asks for another
            what = "The address to upload to has expired at the video host"
            raise HostError(what, code="upload_gone", said=what)
        raise _refusal(response)

    async def _call(
        self, kind: type[T], method: str, path: str, *, body: Mapping[str, Any] | None = None
    ) -> T | None:
        response = await self._send(method, self._base + path, json=body, headers=self._headers)
        if response.status in {404, 410}:
            return None
        if response.status not in {200, 201}:
            raise _refusal(response)
        try:
            return kind.model_validate((response.object() or {}).get("data"))
        except ValidationError as error:
            what = f"The video host's answer is not as documented: {error}"
            raise HostError(what[:500], code="failed") from error

    async def _send(self, method: str, url: str, **options: Any) -> outbound_http.HttpResponse:
        given = {name: value for name, value in options.items() if value}
        # what was never made carried no request, and asking again does no harm
        retrying = outbound_http.retrying(
            lambda error: (
                isinstance(error, outbound_http.NoResponse) and (error.unsent or method == "GET")
            ),
            attempts=3,
        )
        ask = functools.partial(
            outbound_http.exchange, self._http, method, url, max_bytes=MAX_ANSWER_BYTES, **given
        )
        try:
            answer: outbound_http.HttpResponse = await retrying(ask)
        except outbound_http.NoResponse as error:
            code = classify_no_response(error).code
            raise HostError(f"The video host {error}", code=code) from error
        return answer


def _refusal(response: outbound_http.HttpResponse) -> HostError:
    found = classify_status(response.status)
    said = without_secrets(" ".join(response.body[:2_000].decode(errors="replace").split()))[:500]
    return HostError(
        f"The video host answered {response.status}: {said or 'it says no more'}",
        code=found.code,
        hope=found.hope,
        status=response.status,
        retry_after=requested_wait(response.headers, now=datetime.now(UTC)),
    )
