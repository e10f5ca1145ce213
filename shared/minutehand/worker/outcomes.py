"""Outcomes that a processor may return instead of a result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from minutehand.retry_after import requested_wait

_CENTURY = 3_155_760_000.0
#: A duration, given as a number of seconds or as a timedelta.
Seconds = float | int | timedelta


@dataclass(frozen=True)
class Retry:
    """Retry the job `after` a time, or after its backoff. The ended attempt counts."""

    reason: str = "the processor requested another attempt"
    after: Seconds | None = None
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Snooze:
    """Run the job again at `until`, or `after` a time. The ended attempt does not count."""

    until: datetime | None = None
    after: Seconds | None = None

    def __post_init__(self) -> None:
        if (self.until is None) == (self.after is None):
            raise ValueError("give either until= or after= to Snooze")
        if self.until is not None and self.until.tzinfo is None:
            raise ValueError(f"until={self.until.isoformat()} has no time zone")


@dataclass(frozen=True)
class Fail:
    """Fail the job now without a retry, even if it has attempts left."""

    reason: str
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Cancel:
    """End the job without a result, because it is no longer needed.

    A cancelled job does not count as failed.
    """

    reason: str
    data: Mapping[str, Any] | None = None


Outcome = Retry | Snooze | Fail | Cancel
#: The result of a processor, which must be JSON. A pydantic model is converted to JSON. A processor
#: without a result returns None.
Result = BaseModel | Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None
Returned = Outcome | Result


def seconds(value: Seconds) -> float:
    """Convert `value` to seconds, limited to a range from 0 to a century."""
    number = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if number != number:
        raise ValueError("a duration must be a number")
    return min(max(0.0, number), _CENTURY)


def retry_after_of(error: BaseException) -> float | None:
    """Return the wait that a service requested with its error, or None.

    The requested wait replaces the backoff.
    """
    try:
        value = getattr(error, "retry_after", None)
        if value is None:
            # errors of httpx and requests contain the response, and errors of aiohttp contain its
            # headers
            headers = getattr(getattr(error, "response", error), "headers", None)
            if isinstance(headers, Mapping):
                lowercase = {str(name).lower(): str(value) for name, value in headers.items()}
                value = requested_wait(lowercase, now=datetime.now(UTC))
        if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
            return None
        return min(seconds(value), 604_800.0)
    except BaseException:  # a property of a user's class may raise anything
        return None
