"""Recordings that lie elsewhere: fetched over HTTPS from allowed hosts, public addresses only.

Each redirect is checked as the first address was; size and time are bounded.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

from minutehand.queue.lean_httpx import httpx
from minutehand.worker.outbound import AddressRefused, PublicTransport
from minutehand_apps.training.errors import StageError, no_room
from minutehand_apps.training.files import SPARE_BYTES
from minutehand_apps.training.settings import TrainingSettings

MOST_REDIRECTS: Final = 5
CONNECT_SECONDS: Final = 10.0
#: A host that sends nothing for this long has failed.
SILENT_SECONDS: Final = 30.0
#: Longest fetch; a worker's run ends after fifteen minutes.
FETCH_SECONDS: Final = 600.0


def refuse_address(url: str, settings: TrainingSettings) -> str | None:
    """Why a recording is not fetched from `url`, as a sentence; None when it may be."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "The address is not a URL"
    if parts.scheme != "https" or not parts.hostname:
        return "The address must be https"
    if parts.username is not None or parts.password is not None:
        return "The address must not carry a password"
    if port not in {None, 443}:
        return "The address must use the port of https, 443"
    if not settings.fetches_from(parts.hostname):
        return (
            f"Recordings are not fetched from {parts.hostname}; the operator allows hosts in"
            " TRAINING_SOURCE_HOSTS"
        )
    return None


async def fetch_remote(
    url: str,
    into: Path,
    *,
    settings: TrainingSettings,
    most_bytes: int,
    on_bytes: Callable[[int, int | None], None],
    transport: httpx.AsyncBaseTransport | None = None,
    silent_seconds: float = SILENT_SECONDS,
) -> None:
    """Write what lies at `url` to a file.

    Args:
        most_bytes: Largest file that is taken.
        on_bytes: Called with the bytes that have arrived and their number in the end, if known.
        transport: Replaces the one that connects to public addresses alone.

    Raises:
        StageError: `source_refused`, `source_missing`, `video_too_large`, `no_room`, and with
            another attempt `source_unreachable`.
    """
    timeout = httpx.Timeout(silent_seconds, connect=min(CONNECT_SECONDS, silent_seconds))
    try:
        async with (
            asyncio.timeout(FETCH_SECONDS),
            httpx.AsyncClient(
                transport=transport or PublicTransport(loopback=False),
                timeout=timeout,
                follow_redirects=False,
                trust_env=False,
            ) as client,
        ):
            for _ in range(MOST_REDIRECTS + 1):
                refused = refuse_address(url, settings)
                if refused is not None:
                    raise StageError("source_refused", refused)
                async with client.stream(
                    "GET", url, headers={"user-agent": "Minutehand", "accept-encoding": "identity"}
                ) as answer:
                    if answer.status_code in {301, 302, 303, 307, 308}:
                        url = urljoin(url, answer.headers.get("location", ""))
                        continue
                    _check(answer)
                    await _write(answer, into, most_bytes, on_bytes)
                    return
            raise StageError("source_refused", "The address redirects too often")
    except AddressRefused as error:
        raise StageError("source_refused", "The address leads into a private network") from error
    except TimeoutError as error:
        raise StageError(
            "source_unreachable", "The recording did not arrive in time", later=True
        ) from error
    except httpx.HTTPError as error:
        raise StageError(
            "source_unreachable",
            f"The recording could not be fetched ({type(error).__name__})",
            later=True,
        ) from error


def _check(answer: httpx.Response) -> None:
    if answer.status_code == 200:
        return
    if answer.status_code in {408, 425, 429} or answer.status_code >= 500:
        raise StageError(
            "source_unreachable", f"The host answered {answer.status_code}", later=True
        )
    raise StageError("source_missing", f"The host answered {answer.status_code}")


async def _write(
    answer: httpx.Response,
    into: Path,
    most_bytes: int,
    on_bytes: Callable[[int, int | None], None],
) -> None:
    announced = answer.headers.get("content-length", "")
    size = int(announced) if announced.isascii() and announced.isdigit() else None
    if size is not None and shutil.disk_usage(into.parent).free < size + SPARE_BYTES:
        raise no_room("the recording")
    done = 0
    with into.open("wb") as file:
        async for piece in answer.aiter_bytes():
            done += len(piece)
            if done > most_bytes or (size or 0) > most_bytes:
                raise StageError("video_too_large", f"A recording has at most {most_bytes} bytes")
            await asyncio.to_thread(file.write, piece)
            on_bytes(done, size)
    if size is not None and done != size:
        raise StageError("source_unreachable", "The recording ended early", later=True)
