"""What a service's `Retry-After` may say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from minutehand.retry_after import LONGEST_WAIT, retry_after

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("0", timedelta(0)),
        (" 7 ", timedelta(seconds=7)),
        ("²", None),
        ("Thu, 01 Jan 2026 00:00:30 GMT", timedelta(seconds=30)),
        ("Wed, 31 Dec 2025 00:00:00 GMT", timedelta(0)),
        ("9" * 5000, LONGEST_WAIT),
        ("0000000000060", timedelta(seconds=60)),
        ("0" * 5000, timedelta(0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_WAIT),
        (f"Fri, 31 Dec {'9' * 20} 23:59:59 GMT", None),
        (f"Fri, 31 Dec 2026 23:59:59 +{'9' * 20}", None),
    ],
)
def test_a_wait_is_read_bounded_or_left(value: str | None, wait: timedelta | None) -> None:
    """RFC 9110 §10.2.3 allows seconds and dates; a hostile endpoint may answer anything."""
    assert retry_after(value, now=NOW) == wait
