"""How long another service asks callers to wait, as the headers of its refusal say it.

What to do with a wait, or without one, is its reader's to decide.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

LONGEST_WAIT: Final = timedelta(days=1)
#: Numbers from here on are instants, in seconds or milliseconds since 1970, and not lengths.
_INSTANT, _INSTANT_MS = 1e9, 1e12
#: A length as OpenAI, Azure and Groq write it: 20ms, 1s, 6m0s, 2m59.56s, 1h0m0s.
_LENGTH: Final = re.compile(
    r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,6}(?:\.\d{1,9})?)s)?"
    r"(?:(\d{1,9}(?:\.\d{1,9})?)ms)?"
)
_NUMBER: Final = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
_RESET: Final = "x-ratelimit-reset"


def retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """Read `Retry-After`, seconds or a date; None when absent or nonsense.

    Returns:
        None or 0 to `LONGEST_WAIT`, even from a hostile service.

    References:
        https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
    """
    if not value:
        return None
    if value.strip().isdecimal():
        # nine digits say enough, and int() refuses a few thousand
        seconds = int(value.strip().lstrip("0")[:9] or 0)
        return min(timedelta(seconds=seconds), LONGEST_WAIT)
    if length := _length(value, now=now):
        return length
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max(at - now, timedelta(0)), LONGEST_WAIT)


def asked_to_wait(headers: Mapping[str, str], *, now: datetime) -> timedelta | None:
    """The wait that a refusal's headers ask for; the names of `headers` are in lower case.

    The most exact comes first: `retry-after-ms`, `retry-after`, then `x-ratelimit-reset…`, of which
    a service sends one for each of its limits: those count whose `x-ratelimit-remaining…` is 0. If
    none is, the shortest does, since a refusal costs nothing.

    References:
        https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return min(timedelta(milliseconds=float(milliseconds)), LONGEST_WAIT)
    if (asked := retry_after(headers.get("retry-after"), now=now)) is not None:
        return asked
    used_up: list[timedelta] = []
    others: list[timedelta] = []
    for name in headers:
        if name.startswith(_RESET):
            wait = _length(headers[name], now=now)
            left = headers.get(name.replace("reset", "remaining"), "").strip()
            if wait is not None:
                (used_up if left == "0" else others).append(wait)
    return max(used_up) if used_up else min(others, default=None)


def _length(value: str, *, now: datetime) -> timedelta | None:
    """A length in seconds or with units, or an instant as a number; None for what is neither."""
    value = value.strip()
    if _NUMBER.fullmatch(value):
        number = float(value)
        if number >= _INSTANT:
            at = number / 1000 if number >= _INSTANT_MS else number
            return min(max(timedelta(seconds=at - now.timestamp()), timedelta(0)), LONGEST_WAIT)
        return min(timedelta(seconds=number), LONGEST_WAIT)
    found = _LENGTH.fullmatch(value)
    if found is None or not any(found.groups()):
        return None
    days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    length = timedelta(
        days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds
    )
    return min(length, LONGEST_WAIT)
