"""Mux's documented direct uploads and assets over httpx: one client per process.

Repeats what changes nothing when repeated; all longer waiting is the job's, not the call's.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

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
from minutehand_apps.training.errors import StageError

T = TypeVar("T")
MAX_ANSWER_BYTES: Final = 1_000_000
#: Sent at once; a multiple of 256 KiB, as resumable uploads want.
PIECE_BYTES: Final = 16 * 1024 * 1024
UPLOAD_SECONDS: Final = 6 * 3600
#: Longest time for one piece, over a slow line.
PIECE_SECONDS: Final = 600.0
_RECEIVED: Final = re.compile(r"bytes=0-([0-9]{1,18})")
#: What a call that was repeated for nothing answers.
_DONE: Final = frozenset({404, 410})


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

    Args:
        answer_seconds: Patience with an answer.
        attempts: Most requests for one call.
        sleep: Waits between them.
        piece_bytes: How much of a video is sent at once.

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
        answer_seconds: float = 30.0,
        attempts: int = 3,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self._base = f"{base_url.rstrip('/')}/video/v1"
        self._is_local = is_local(base_url)
        self._auth = httpx.BasicAuth(token_id, token_secret)
        self._attempts = attempts
        self._sleep = sleep
        self._piece_bytes = piece_bytes
        self._http = connect(timeout=timeouts(answer_seconds))

    async def create_upload(self, passthrough: str) -> HostUpload:
        """Begin an upload of a video that only signed addresses will play.

        Not repeated automatically unless the request certainly never arrived: an upload that no one
        fills expires at the host.
        """
        body = {
            "new_asset_settings": {"playback_policies": ["signed"], "passthrough": passthrough},
            "timeout": UPLOAD_SECONDS,
            "cors_origin": "*",
        }
        told = await self._call("POST", "/uploads", body=body, repeatable=False)
        upload = _upload(told)
        if upload.url is None:
            raise StageError("host_failed", "The video host gave no address to upload to")
        return upload

    async def find_upload(self, upload_id: str) -> HostUpload | None:
        """The present state of an upload; None when there is none."""
        told = await self._call("GET", f"/uploads/{quote(upload_id, safe='')}", missing_ok=True)
        return None if told is None else _upload(told)

    async def cancel_upload(self, upload_id: str) -> None:
        """End an upload; nothing happens if it has ended."""
        path = f"/uploads/{quote(upload_id, safe='')}/cancel"
        try:
            await self._call("PUT", path, missing_ok=True)
        except StageError as error:
            if error.code != "host_refused":  # it has become a video, or was cancelled before
                raise

    async def find_asset(self, asset_id: str) -> HostAsset | None:
        """The present state of a video; None when there is none."""
        told = await self._call("GET", f"/assets/{quote(asset_id, safe='')}", missing_ok=True)
        if told is None:
            return None
        playback = told.get("playback_ids")
        first = playback[0] if isinstance(playback, list) and playback else {}
        problems = told.get("errors")
        said = problems.get("messages") if isinstance(problems, dict) else None
        return HostAsset(
            id=asset_id,
            status=str(told.get("status") or ""),
            playback_id=_text(first.get("id")) if isinstance(first, dict) else None,
            seconds=_seconds(told.get("duration")),
            problem="; ".join(map(str, said))[:500] if isinstance(said, list) else None,
        )

    async def delete_asset(self, asset_id: str) -> None:
        """Delete a video; nothing happens if it is already deleted."""
        await self._call("DELETE", f"/assets/{quote(asset_id, safe='')}", missing_ok=True)

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

        Raises:
            StageError: `host_upload_gone` when the address has expired, or as for every call.
        """
        if not self._is_local:
            _refuse_address(url)
        ask = functools.partial(self._put, url, b"", f"bytes */{size}", size)
        at = await self._repeat(ask)
        while at < size:
            on_sent(at)
            piece = await read(at, min(self._piece_bytes, size - at))
            told = f"bytes {at}-{at + len(piece) - 1}/{size}"
            arrived = await self._repeat(functools.partial(self._put, url, piece, told, size))
            if arrived <= at:
                raise StageError("host_failed", "The video host takes no more", later=True)
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
        if response.status in _DONE:
            raise StageError(
                "host_upload_gone",
                "The address to upload to has expired at the video host",
                later=True,  # the next attempt asks for another
            )
        raise _refusal(response)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        repeatable: bool = True,
        missing_ok: bool = False,
    ) -> dict[str, Any] | None:
        async def call() -> dict[str, Any] | None:
            response = await self._send(method, self._base + path, json=body, auth=self._auth)
            if response.status in {200, 201}:
                told = (response.object() or {}).get("data")
                if not isinstance(told, dict):
                    raise _undocumented()
                return told
            if response.status == 204:
                return {}
            if response.status in _DONE and missing_ok:
                return None
            raise _refusal(response)

        return await self._repeat(call, safe=repeatable)

    async def _repeat(self, call: Callable[[], Awaitable[T]], *, safe: bool = True) -> T:
        retrying = repeating(
            lambda error: _worth_repeating(error, safe), attempts=self._attempts, sleep=self._sleep
        )
        answer: T = await retrying(call)
        return answer

    async def _send(self, method: str, url: str, **options: Any) -> Answer:
        given = {name: value for name, value in options.items() if value}
        try:
            return await exchange(self._http, method, url, most_bytes=MAX_ANSWER_BYTES, **given)
        except NoAnswer as error:
            raise _Unreachable(f"The video host {error}", unsent=error.unsent) from error


class _Unreachable(StageError):
    """No whole answer; `unsent` when the request certainly never arrived."""

    def __init__(self, reason: str, *, unsent: bool) -> None:
        self.unsent = unsent
        super().__init__("host_unreachable", reason, later=True)


class _Busy(StageError):
    """An answer that says: not now; nothing was done."""


def _refusal(response: Answer) -> StageError:
    error = (response.object() or {}).get("error")
    messages = error.get("messages") if isinstance(error, dict) else None
    said = "; ".join(map(str, messages))[:500] if isinstance(messages, list) else ""
    said = said or f"status {response.status}"
    wait = retry_after(response.headers.get("retry-after"), now=datetime.now(UTC))
    if response.status in {401, 403} and not said.lower().count("upload"):
        return StageError("host_not_authorised", "The video host refused the access token")
    if response.status == 402:
        return StageError("host_out_of_credit", "The video host's account has no credit left")
    if response.status == 429:
        return _Busy(
            "host_rate_limited",
            "The video host's rate limit is reached",
            later=True,
            retry_after=wait,
        )
    if response.status in {408, 409, 425} or response.status >= 500:
        return _Busy("host_failed", f"The video host failed: {said}", later=True, retry_after=wait)
    return StageError("host_refused", f"The video host refused: {said}")


def _worth_repeating(error: BaseException, safe: bool) -> bool:
    if isinstance(error, _Unreachable):
        return error.unsent or safe
    # a rate limit that does not say for how long is left to the job's backoff
    return isinstance(error, _Busy) and (
        error.code != "host_rate_limited" or error.retry_after is not None
    )


def _undocumented() -> StageError:
    return StageError("host_failed", "The video host's answer is not as documented", later=True)


def _upload(told: Mapping[str, Any] | None) -> HostUpload:
    told = told or {}
    if not isinstance(told.get("id"), str):
        raise _undocumented()
    return HostUpload(
        id=told["id"],
        status=str(told.get("status") or ""),
        url=_text(told.get("url")),
        asset_id=_text(told.get("asset_id")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(value: object) -> float | None:
    """A duration; None for what no table can hold, such as 1e400 or a number of 400 digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _refuse_address(url: str) -> None:
    """Refuse to send a video to plain text or to an address inside this network."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise StageError("host_failed", "The video host gave a malformed address") from error
    if parts.scheme != "https":
        raise StageError("host_failed", "The video host gave an address that is not https")
    try:
        inside = not is_public(host)
    except ValueError:  # a name
        inside = is_local(url)
    if inside:
        raise StageError("host_failed", "The video host gave an address that is not public")
