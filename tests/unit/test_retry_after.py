"""Delays that a service requests, in each of the ways of vendors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from minutehand.retry_after import MAX_WAIT, requested_wait, retry_after

NOW = datetime(2026, 1, 1, tzinfo=UTC)

DAY = "Fri, 02 Jan 2026 00:00:00 GMT"
RESET, LEFT = "x-ratelimit-reset", "x-ratelimit-remaining"


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
        ("9" * 5000, MAX_WAIT),
        ("0000000000060", timedelta(seconds=60)),
        ("0" * 5000, timedelta(0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_WAIT),
        (f"Fri, 31 Dec {'9' * 20} 23:59:59 GMT", None),
        (f"Fri, 31 Dec 2026 23:59:59 +{'9' * 20}", None),
    ],
)
def test_a_wait_is_read_bounded_or_left(value: str | None, wait: timedelta | None) -> None:
    """RFC 9110 §10.2.3 allows seconds and dates. A hostile endpoint may send anything."""
    assert retry_after(value, now=NOW) == wait


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "2m59.56s"}, 179.56),
        ({"retry-after": DAY}, 86_400),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250", "retry-after": "20"}, 0.25),
        ({f"{RESET}-requests": "1s", f"{RESET}-tokens": "6m0s"}, 1),
        ({f"{RESET}-requests": "1s", f"{RESET}-tokens": "6m0s", f"{LEFT}-tokens": "0"}, 360),
        ({f"{RESET}-tokens": "20ms"}, 0.02),
        ({f"{RESET}-tokens": "7"}, 7),
        ({RESET: str(int(NOW.timestamp()) + 30)}, 30),
        ({RESET: str(int(NOW.timestamp() + 30) * 1000)}, 30),
        ({RESET: "99h"}, MAX_WAIT.total_seconds()),
        ({RESET: "m"}, None),
    ],
)
def test_a_wait_is_read(headers: dict[str, str], seconds: float | None) -> None:
    """The most exact header has precedence."""
    wait = None if seconds is None else timedelta(seconds=seconds)
    assert requested_wait(headers, now=NOW) == wait


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "Thu, 01 Jan 2026 03:00:30 GMT"},
        {f"{RESET}-requests": str((NOW + timedelta(hours=3, seconds=30)).timestamp())},
    ],
)
def test_an_instant_is_by_the_clock_of_its_service(headers: dict[str, str]) -> None:
    """The reader's clock may be three hours behind."""
    headers |= {"date": "Thu, 01 Jan 2026 03:00:00 GMT"}
    assert requested_wait(headers, now=NOW) == timedelta(seconds=30)
