"""What one caller may do in a process, by a clock of the test's own."""

from __future__ import annotations

from typing import Any

import pytest

from minutehand.clock import FrozenClock
from minutehand.web.errors import ApiError
from minutehand.web.limits import CallerLimits


@pytest.fixture
def clock() -> FrozenClock:
    """It stands still."""
    return FrozenClock()


def limits(clock: FrozenClock, **changes: Any) -> CallerLimits:
    """Two requests a second, three at once, two streams."""
    usual = {"requests_per_second": 2, "requests_burst": 3, "streams": 2}
    return CallerLimits(clock, **{**usual, **changes})


def test_a_caller_in_a_loop_must_wait_and_others_need_not(clock: FrozenClock) -> None:
    """One user's loop must not be everybody's 429."""
    limit = limits(clock)
    for _ in range(3):
        limit.count_request("eve")

    with pytest.raises(ApiError) as refused:
        limit.count_request("eve")
    limit.count_request("ada")

    assert (refused.value.status_code, refused.value.code) == (429, "rate_limited")
    assert (refused.value.headers or {})["Retry-After"] == "1"
    clock.advance(seconds=0.5)
    limit.count_request("eve")


def test_a_caller_holds_so_many_streams_until_they_end(clock: FrozenClock) -> None:
    """237 of one user were open once."""
    limit = limits(clock)
    limit.hold_stream("eve")
    limit.hold_stream("eve")

    for _ in range(2):
        with pytest.raises(ApiError) as refused:
            limit.hold_stream("eve")
        assert refused.value.info == {"limit": "streams", "retry_after_seconds": 5, "most": 2}
        limit.release_stream("eve")
        limit.hold_stream("eve")
    limit.hold_stream("ada")
