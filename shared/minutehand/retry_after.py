"""How long another service asks callers to wait, as HTTP's `Retry-After` says it.

What to do with a wait, or without one, is its reader's to decide.
"""

from __future__ import annotations

import email.utils
from datetime import UTC, datetime, timedelta
from typing import Final

LONGEST_WAIT: Final = timedelta(days=1)


def retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """Read the header, seconds or a date; None when absent or nonsense.

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
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max(at - now, timedelta(0)), LONGEST_WAIT)
