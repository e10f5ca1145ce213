"""Delays that a service requests in the headers of a response."""

from datetime import UTC, datetime, timedelta

import pytest

from minutehand.retry_after import MAX_WAIT, requested_wait

NOW = datetime(2026, 1, 1, tzinfo=UTC)

RESET, LEFT = "x-ratelimit-reset", "x-ratelimit-remaining"
MOST = MAX_WAIT.total_seconds()
#: The expected seconds for each value of `Retry-After`. The value is a number of seconds, a date
#: (RFC 9110 §10.2.3) or a duration. A hostile endpoint may send anything.
VALUES: dict[str, float | None] = {
    "": None,
    "soon": None,
    "-5": None,
    "0": 0,
    " 7 ": 7,
    "²": None,
    "1.5": 1.5,
    "2m59.56s": 179.56,
    "Thu, 01 Jan 2026 00:00:30 GMT": 30,
    "Fri, 02 Jan 2026 00:00:00 GMT": 86_400,
    "Wed, 31 Dec 2025 00:00:00 GMT": 0,
    "9" * 5000: MOST,
    "0000000000060": 60,
    "0" * 5000: 0,
    "Fri, 31 Dec 9999 23:59:59 GMT": MOST,
    f"Fri, 31 Dec {'9' * 20} 23:59:59 GMT": None,
    f"Fri, 31 Dec 2026 23:59:59 +{'9' * 20}": None,
}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        *(({"retry-after": value}, seconds) for value, seconds in VALUES.items()),
        ({"retry-after-ms": "250", "retry-after": "20"}, 0.25),
        ({f"{RESET}-requests": "1s", f"{RESET}-tokens": "6m0s"}, 1),
        ({f"{RESET}-requests": "1s", f"{RESET}-tokens": "6m0s", f"{LEFT}-tokens": "0"}, 360),
        ({f"{RESET}-tokens": "20ms"}, 0.02),
        ({f"{RESET}-tokens": "7"}, 7),
        ({RESET: str(int(NOW.timestamp()) + 30)}, 30),
        ({RESET: str(int(NOW.timestamp() + 30) * 1000)}, 30),
        ({RESET: "99h"}, MOST),
        ({RESET: "m"}, None),
    ],
)
def test_a_wait_is_read_bounded_or_left(headers: dict[str, str], seconds: float | None) -> None:
    """The delay is read from the most exact header, limited to a maximum, or ignored if invalid."""
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
    """A delay that ends at a date is computed with the service's clock, not the reader's."""
    headers |= {"date": "Thu, 01 Jan 2026 03:00:00 GMT"}
    assert requested_wait(headers, now=NOW) == timedelta(seconds=30)
