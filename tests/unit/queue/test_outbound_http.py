"""The HTTP client for foreign services."""

from datetime import timedelta
from unittest.mock import AsyncMock

import httpx
import pytest

from minutehand.queue.outbound_http import HttpResponse, NoResponse, connect, exchange, retrying


async def test_an_answer_is_read_up_to_its_bound_without_cookies_or_redirects() -> None:
    """A response that is too long is rejected.

    The client stores no cookies and follows no redirects.
    """
    seen: list[httpx.Request] = []

    def move(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        headers = {"location": "/elsewhere", "set-cookie": "key=one"}
        return httpx.Response(302, headers=headers, content=b"x" * (99 + len(seen)))

    async with connect(transport=httpx.MockTransport(move)) as http:
        answer = await exchange(http, "GET", "http://x.test/", max_bytes=100)
        with pytest.raises(NoResponse, match="more than 100 bytes"):
            await exchange(http, "GET", "http://x.test/", max_bytes=100)

    assert (answer.status, len(answer.body), answer.object()) == (302, 100, None)
    assert ["cookie" in request.headers for request in seen] == [False, False]


class Busy(Exception):
    """An error that may name the time of the next try."""

    def __init__(self, retry_after: timedelta | None) -> None:
        self.retry_after = retry_after
        super().__init__("busy")


@pytest.mark.parametrize(
    ("asked", "worth", "calls"),
    [(timedelta(seconds=3), True, 3), (timedelta(seconds=4), True, 1), (None, False, 1)],
)
async def test_short_waits_are_waited_for_and_long_ones_are_the_jobs(
    asked: timedelta | None, worth: bool, calls: int
) -> None:
    """A call is repeated after short waits only.

    A longer wait is left to the job, so that no slot is blocked.
    """
    sleep, call = AsyncMock(), AsyncMock(side_effect=Busy(asked))

    with pytest.raises(Busy):
        await retrying(lambda _: worth, attempts=3, sleep=sleep)(call)

    assert call.await_count == calls == sleep.await_count + 1
    assert all(waits.args[0] >= 3 for waits in sleep.await_args_list)


@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
def test_json_in_another_charset_is_read(charset: str) -> None:
    headers = httpx.Headers({"content-type": f"application/json; charset={charset}"})

    assert HttpResponse(200, headers, '{"name": "Zoë"}'.encode(charset)).object() == {"name": "Zoë"}
