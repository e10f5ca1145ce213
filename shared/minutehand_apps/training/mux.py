"""Mux's video API: direct uploads sent piece by piece, and the videos they become.

When to ask, and what an answer means for a training, is processors.py's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from minutehand.queue.errors import ProcessorError
from minutehand.queue.foreign import Answer, NoAnswer, connect, exchange, repeating, timeouts
from minutehand.retry_after import retry_after
from minutehand_apps.training.errors import later, refused
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


class Mux:
    """Speaks Mux's video API with one access token.

    References:
        https://www.mux.com/docs/api-reference/video/direct-uploads,
        https://www.mux.com/docs/guides/upload-files-directly,
        https://www.mux.com/docs/api-reference/video/assets
    """

    def __init__(self, token_id: str, token_secret: str, *, base_url: str) -> None:
        self._base = f"{base_url.rstrip('/')}/video/v1"
        self._auth = httpx.BasicAuth(token_id, token_secret)
        self._http = connect(timeout=timeouts(30.0))

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
            raise later("host_failed", "The video host has no uploads")
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
                raise later("host_failed", "The video host takes no more")
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
            raise later("host_upload_gone", "The address to upload to has expired there")
        raise _refusal(response)

    async def _call(
        self, kind: type[T], method: str, path: str, *, body: Mapping[str, Any] | None = None
    ) -> T | None:
        response = await self._send(method, self._base + path, json=body, auth=self._auth)
        if response.status in {404, 410}:
            return None
        if response.status not in {200, 201}:
            raise _refusal(response)
        try:
            return kind.model_validate((response.object() or {}).get("data"))
        except ValidationError as error:
            raise later("host_failed", "The video host's answer is not as documented") from error

    async def _send(self, method: str, url: str, **options: Any) -> Answer:
        given = {name: value for name, value in options.items() if value}
        # what was never made carried no request, and asking again does no harm
        retrying = repeating(
            lambda error: isinstance(error, NoAnswer) and (error.unsent or method == "GET"),
            attempts=3,
        )
        ask = functools.partial(
            exchange, self._http, method, url, most_bytes=MAX_ANSWER_BYTES, **given
        )
        try:
            answer: Answer = await retrying(ask)
        except NoAnswer as error:
            raise later("host_unreachable", f"The video host {error}") from error
        return answer


def _refusal(response: Answer) -> ProcessorError:
    said = f"status {response.status} {response.object() or ''}"[:500]
    wait = retry_after(response.headers.get("retry-after"), now=datetime.now(UTC))
    if response.status in {401, 403}:
        return refused("host_not_authorised", "The video host refused the access token")
    if response.status == 402:
        return refused("host_out_of_credit", "The video host's account has no credit left")
    if response.status == 429:
        return later("host_rate_limited", "The video host's rate limit is reached", after=wait)
    if response.status in {408, 409, 425} or response.status >= 500:
        return later("host_failed", f"The video host failed: {said}", after=wait)
    return refused("host_refused", f"The video host refused: {said}")
