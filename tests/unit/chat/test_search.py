"""A wiki's search against its documented answers, errors included."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from minutehand_apps.chat.search import MediaWikiSearch, SearchFailed

PAGES = {
    "query": {
        "pages": [
            {"pageid": 2, "title": "Tide mill", "index": 2, "extract": "A mill.",
             "fullurl": "https://wiki.test/wiki/Tide_mill"},
            {"pageid": 1, "title": "Tide", "index": 1,
             "extract": "Tides rise and fall.\n\n== Causes ==\nThe moon pulls.",
             "fullurl": "https://wiki.test/wiki/Tide"},
            {"pageid": 3, "title": "Empty", "index": 3, "extract": ""},
        ]
    }
}  # fmt: skip


class Wiki:
    """Answers in turn; the last answer stays."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.waited: list[float] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        """Note how long is waited between attempts."""
        self.waited.append(seconds)

    @asynccontextmanager
    async def search(self) -> AsyncIterator[MediaWikiSearch]:
        """A client of this wiki."""
        made = MediaWikiSearch("https://wiki.test/w/api.php", sleep=self.sleep)
        await made._http.aclose()
        made._http = httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
        yield made
        await made.aclose()


async def test_pages_become_passages_by_section() -> None:
    """Best first, each with where it can be read and under which licence."""
    wiki = Wiki(httpx.Response(200, json=PAGES))
    async with wiki.search() as search:
        found = await search.find("tides", limit=3)

    assert [(each.source, each.section) for each in found] == [
        ("Tide", "What it is"), ("Tide", "Causes"), ("Tide mill", "What it is"),
    ]  # fmt: skip
    assert found[1].text == "The moon pulls."
    assert found[0].url == "https://wiki.test/wiki/Tide"
    assert found[0].licence == "CC BY-SA 4.0"
    asked: dict[str, Any] = dict(wiki.asked[0].url.params)
    assert (asked["generator"], asked["gsrsearch"], asked["gsrlimit"]) == ("search", "tides", "3")


async def test_nothing_found_is_no_error() -> None:
    """A wiki then leaves `query` out."""
    async with Wiki(httpx.Response(200, json={"batchcomplete": True})).search() as search:
        assert await search.find("quantum knitting") == []


@pytest.mark.parametrize(
    "first",
    [
        httpx.Response(429, headers={"Retry-After": "2"}),
        httpx.Response(503),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"error": {"code": "maxlag"}}),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut off"),
    ],
)
async def test_what_may_pass_is_tried_again(first: httpx.Response | Exception) -> None:
    """After the time that is asked for."""
    wiki = Wiki(first, httpx.Response(200, json=PAGES))
    async with wiki.search() as search:
        assert len(await search.find("tides")) == 3
    [waited] = wiki.waited
    asked_to_wait = isinstance(first, httpx.Response) and first.status_code == 429
    assert waited >= (2 if asked_to_wait else 0)


@pytest.mark.parametrize(
    ("answer", "attempts", "later"),
    [
        (httpx.Response(503), 3, True),
        (httpx.Response(429, headers={"Retry-After": "600"}), 1, True),
        (httpx.Response(403), 1, False),
        (httpx.Response(200, json=[]), 3, True),
        (httpx.Response(200, json={"error": {"code": "badvalue"}}), 1, False),
    ],
)
async def test_what_does_not_pass_is_reported(
    answer: httpx.Response, attempts: int, later: bool
) -> None:
    """And whether another time may help."""
    wiki = Wiki(answer)
    async with wiki.search() as search:
        with pytest.raises(SearchFailed) as failed:
            await search.find("tides")
    assert (len(wiki.asked), failed.value.later) == (attempts, later)
