"""What one caller may do in a process, by a clock of the test's own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from minutehand.clock import FrozenClock
from minutehand.config import Settings
from minutehand.functions.status import artefacts
from minutehand.web.application import create_app
from minutehand.web.errors import ApiError
from minutehand.web.limits import MOST_CALLERS, CallerLimits
from minutehand.web.services import Services
from tests.unit.web.conftest import calling


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
    assert refused.value.info == {
        "limit": "requests",
        "retry_after_seconds": 1,
        "per_second": 2,
        "burst": 3,
    }
    assert (refused.value.headers or {})["Retry-After"] == "1"
    clock.advance(seconds=0.5)
    limit.count_request("eve")


def test_a_refusal_says_when_there_is_room_again(clock: FrozenClock) -> None:
    """Neither sooner nor later: what is in the bucket by then counts."""
    limit = limits(clock, requests_per_second=0.1, requests_burst=1)
    limit.count_request("eve")
    clock.advance(seconds=4)

    with pytest.raises(ApiError) as refused:
        limit.count_request("eve")

    assert refused.value.info["retry_after_seconds"] == 6


def test_a_bucket_holds_no_more_than_its_burst(clock: FrozenClock) -> None:
    """A quiet hour is no licence."""
    limit = limits(clock)
    limit.count_request("eve")
    clock.advance(seconds=3600)
    for _ in range(3):
        limit.count_request("eve")

    with pytest.raises(ApiError):
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

    assert limit.streams == 3
    for caller in ("eve", "eve", "ada"):
        limit.release_stream(caller)
    assert limit.streams == 0
    assert not limit._open, "no one who left is remembered"


def test_zero_is_no_limit(clock: FrozenClock) -> None:
    """For a deployment that counts elsewhere."""
    limit = limits(clock, requests_per_second=0, streams=0)

    for _ in range(1000):
        limit.count_request("eve")
        limit.hold_stream("eve")


@pytest.mark.parametrize("path", ["artefacts", "artefacts/a.txt", "artefacts.zip"])
async def test_the_requests_of_a_file_s_address_are_counted(settings: Settings, path: str) -> None:
    """It opens the file to anyone, and is passed on without a token to count by."""
    few = {"caller_requests_per_second": 0.1, "caller_requests_burst": 1}
    services = Services(settings.model_copy(update=few), clock=FrozenClock())
    services.queue.api._attempts = 1
    address = f"/api/jobs/{UUID(int=1)}/{path}"
    async with calling(create_app(services, [artefacts.router])) as api:
        answers = [await api.get(f"{address}?key={key * 64}") for key in "aab"]
    await services.aclose()

    assert [each.status_code for each in answers] == [503, 429, 503]


def test_what_is_known_of_callers_is_bounded(clock: FrozenClock) -> None:
    """The one that was seen longest ago is forgotten first."""
    limit = limits(clock, requests_burst=1)
    limit.count_request("eve")
    for number in range(MOST_CALLERS + 1):
        if number == MOST_CALLERS // 2:
            with pytest.raises(ApiError):
                limit.count_request("eve")
        limit.count_request(str(number))

    limit.count_request("0")
    for known in ("eve", str(MOST_CALLERS)):
        with pytest.raises(ApiError):
            limit.count_request(known)
