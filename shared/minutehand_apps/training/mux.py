"""Mux's video API: direct uploads sent piece by piece, and the videos they become.

When to ask, and what an answer means for a training, is processors.py's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from minutehand.queue.errors import ProcessorError
from minutehand.queue.foreign import (
    Answer,
    NoAnswer,
    connect,
    exchange,
    is_local,
    repeating,
    timeouts,
)
from minutehand.queue.lean_httpx import httpx
from minutehand.retry_after import retry_after
from minutehand.worker.outbound import is_public
from minutehand_apps.training.errors import later, refused

MAX_ANSWER_BYTES: Final = 1_000_000
#: Sent at once; a multiple of 256 KiB, as resumable uploads want.
PIECE_BYTES: Final = 16 * 1024 * 1024
UPLOAD_SECONDS: Final = 6 * 3600
#: Longest time for one piece, over a slow line.
PIECE_SECONDS: Final = 600.0
_RECEIVED: Final = re.compile(r"bytes=0-([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class HostUpload:
    """A direct upload; `url` is a capability and is never logged or stored."""

    id: str
    status: str
    url: str | None
    asset_id: str | None


@dataclass(frozen=True, slots=True)
class HostAsset:
    """A video at the host."""

    id: str
    status: str
    playback_id: str | None
    seconds: float | None
    problem: str | None


class Mux:
    """Speaks Mux's video API with one access token.

    References:
        https://www.mux.com/docs/api-reference/video/direct-uploads,
        https://www.mux.com/docs/guides/upload-files-directly,
        https://www.mux.com/docs/api-reference/video/assets
    """

    def __init__(
        self,
        token_id: str,
        token_secret: str,
        *,
        base_url: str = "https://api.mux.com",
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self._base = f"{base_url.rstrip('/')}/video/v1"
        self._is_local = is_local(base_url)
        self._auth = httpx.BasicAuth(token_id, token_secret)
        self._piece_bytes = piece_bytes
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
        return _upload(await self._call("POST", "/uploads", body=body))

    async def find_upload(self, upload_id: str) -> HostUpload | None:
        """The present state of an upload; None when there is none."""
        told = await self._call("GET", f"/uploads/{quote(upload_id, safe='')}")
        return None if told is None else _upload(told)

    async def find_asset(self, asset_id: str) -> HostAsset | None:
        """The present state of a video; None when there is none."""
        told = await self._call("GET", f"/assets/{quote(asset_id, safe='')}")
        if told is None:
            return None
        playback = told.get("playback_ids")
        first = playback[0] if isinstance(playback, list) and playback else {}
        problems, seconds = told.get("errors"), told.get("duration")
        said = problems.get("messages") if isinstance(problems, dict) else None
        return HostAsset(
            id=asset_id,
            status=str(told.get("status") or ""),
            playback_id=_text(first.get("id")) if isinstance(first, dict) else None,
            seconds=seconds if isinstance(seconds, float | int) and 0 <= seconds < 1e9 else None,
            problem="; ".join(map(str, said))[:500] if isinstance(said, list) else None,
        )

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
        if not self._is_local:
            _refuse_address(url)
        at = await self._put(url, b"", f"bytes */{size}", size)
        while at < size:
            on_sent(at)
            piece = await read(at, min(self._piece_bytes, size - at))
            told = f"bytes {at}-{at + len(piece) - 1}/{size}"
            arrived = await self._put(url, piece, told, size)
            if arrived <= at:
                raise later("host_failed", "The video host takes no more")
            at = arrived
        on_sent(size)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _put(self, url: str, piece: bytes, told: str, size: int) -> int:
        """Send a piece; how many bytes of the whole have arrived."""
        response = await self._send(
            "PUT", url, within=PIECE_SECONDS, content=piece, headers={"content-range": told}
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
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        response = await self._send(method, self._base + path, json=body, auth=self._auth)
        if response.status in {404, 410}:
            return None
        if response.status not in {200, 201}:
            raise _refusal(response)
        told = (response.object() or {}).get("data")
        if not isinstance(told, dict):
            raise later("host_failed", "The video host's answer is not as documented")
        return told

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
    error = (response.object() or {}).get("error")
    messages = error.get("messages") if isinstance(error, dict) else None
    said = "; ".join(map(str, messages))[:500] if isinstance(messages, list) else ""
    said = said or f"status {response.status}"
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


def _upload(told: Mapping[str, Any] | None) -> HostUpload:
    told = told or {}
    if not isinstance(told.get("id"), str):
        raise later("host_failed", "The video host's answer is not as documented")
    return HostUpload(
        id=told["id"],
        status=str(told.get("status") or ""),
        url=_text(told.get("url")),
        asset_id=_text(told.get("asset_id")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _refuse_address(url: str) -> None:
    """Refuse to send a video to plain text or to an address inside this network."""
    parts = urlsplit(url)
    try:
        inside = not is_public(parts.hostname or "")
    except ValueError:  # a name
        inside = is_local(url)
    if parts.scheme != "https" or inside:
        raise refused("host_failed", "The video host gave an address that is not public https")
