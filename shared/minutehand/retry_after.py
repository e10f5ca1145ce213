"""The wait that another service requests in the headers of an error response."""

import email.utils
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

MAX_WAIT = timedelta(days=1)
#: Numbers from these values on are times, in seconds or milliseconds since 1970, and not durations.
_MIN_UNIX_TIME, _MIN_UNIX_TIME_MS = 1e9, 1e12
#: Pattern of durations as OpenAI, Azure and Groq write them: 20ms, 1s, 6m0s, 2m59.56s, 1h0m0s.
_DURATION = re.compile(
    r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,6}(?:\.\d{1,9})?)s)?"
    r"(?:(\d{1,9}(?:\.\d{1,9})?)ms)?"
)
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
_RESET = "x-ratelimit-reset"


def retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """Parse `Retry-After`, which is a number of seconds or a date. Return None for other values.

    Returns:
        A wait from 0 to `MAX_WAIT`, whatever the other service sends, or None.

    References:
        https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
    """
    if not value:
        return None
    if value.strip().isdecimal():
        # read nine digits, which are enough, because int() rejects thousands of digits
        seconds = int(value.strip().lstrip("0")[:9] or 0)
        return min(timedelta(seconds=seconds), MAX_WAIT)
    if duration := _parse_duration(value, now=now):
        return duration
    if (at := parse_date(value)) is None:
        return None
    return min(max(at - now, timedelta(0)), MAX_WAIT)


def requested_wait(headers: Mapping[str, str], *, now: datetime) -> timedelta | None:
    """Return the wait that the headers of an error request.

    The names of the headers must be in lower case.

    The response headers are read in the following order: `retry-after-ms`, `retry-after`,
    `x-ratelimit-reset…`. A service sends a header `x-ratelimit-reset…` for each of its limits. Of
    all limits whose `x-ratelimit-remaining…` is 0, the longest wait is used. Without such a limit,
    the shortest wait is used, because another error costs nothing. A time is compared with the
    header `date` of the same response, because `now` is the time of another clock.

    References:
        https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
    """
    now = parse_date(headers.get("date", "")) or now
    header = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(header):
        return min(timedelta(milliseconds=float(header)), MAX_WAIT)
    if (wait := retry_after(headers.get("retry-after"), now=now)) is not None:
        return wait
    exhausted: list[timedelta] = []
    open_limits: list[timedelta] = []
    for name in headers:
        if name.startswith(_RESET):
            wait = _parse_duration(headers[name], now=now)
            remaining = headers.get(name.replace("reset", "remaining"), "").strip()
            if wait is not None:
                (exhausted if remaining == "0" else open_limits).append(wait)
    return max(exhausted) if exhausted else min(open_limits, default=None)


def parse_date(value: str) -> datetime | None:
    """Parse an HTTP date. Return None for any other string."""
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _parse_duration(value: str, *, now: datetime) -> timedelta | None:
    """Parse a duration in seconds or with units, or a number that is a time.

    Otherwise return None.
    """
    value = value.strip()
    if _NUMBER.fullmatch(value):
        number = float(value)
        if number >= _MIN_UNIX_TIME:
            at = number / 1000 if number >= _MIN_UNIX_TIME_MS else number
            return min(max(timedelta(seconds=at - now.timestamp()), timedelta(0)), MAX_WAIT)
        return min(timedelta(seconds=number), MAX_WAIT)
    match = _DURATION.fullmatch(value)
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    duration = timedelta(
        days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds
    )
    return min(duration, MAX_WAIT)
