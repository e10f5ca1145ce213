"""Where research finds sources beside the bundled corpus: MediaWiki's search."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from minutehand.queue.foreign import Answer, NoAnswer, connect, exchange, repeating, timeouts
from minutehand.retry_after import retry_after
from minutehand_apps.chat.sources import Passage

ATTEMPTS: Final = 3
MOST_BYTES: Final = 2_000_000
_SECTION: Final = re.compile(r"^=+\s*(.*?)\s*=+$", re.MULTILINE)


class SearchFailed(Exception):
    """A search did not answer as it should.

    Attributes:
        later: Whether the same search may succeed at another time.
        retry_after: How long its server asks to wait; None when it says nothing.
    """

    def __init__(self, told: str, *, later: bool, retry_after: timedelta | None = None) -> None:
        self.later = later
        self.retry_after = retry_after
        super().__init__(told)


class MediaWikiSearch:
    """The search and the extracts of a wiki, Wikipedia for one.

    Args:
        url: Its `api.php`, e.g. https://en.wikipedia.org/w/api.php.
        sleep: Waits between attempts.

    References:
        https://www.mediawiki.org/wiki/API:Search, https://www.mediawiki.org/wiki/Extension:TextExtracts
    """

    def __init__(
        self,
        url: str,
        *,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        seconds: float = 10.0,
    ) -> None:
        self._url = url
        self._sleep = sleep
        self._http = connect(
            timeout=timeouts(seconds),
            headers={"user-agent": "Minutehand chat (https://github.com/minutehand/minutehand)"},
        )

    async def find(self, topic: str, *, limit: int = 5) -> list[Passage]:
        """Passages of the pages that fit `topic` best, of at most `limit` of them, best first.

        Raises:
            SearchFailed: The search did not answer.
        """
        retrying = repeating(
            lambda error: isinstance(error, SearchFailed) and error.later,
            attempts=ATTEMPTS,
            sleep=self._sleep,
        )
        found: list[Passage] = await retrying(self._find, topic, limit)
        return found

    async def _find(self, topic: str, limit: int) -> list[Passage]:
        query: dict[str, str | int] = {
            "action": "query", "format": "json", "formatversion": 2, "generator": "search",
            "gsrsearch": topic[:300], "gsrlimit": limit, "prop": "extracts|info", "inprop": "url",
            "explaintext": 1, "exsectionformat": "wiki", "exlimit": "max", "exintro": 1,
            "maxlag": 5,
        }  # fmt: skip
        try:
            answer = await exchange(
                self._http, "GET", self._url, most_bytes=MOST_BYTES, params=query
            )
        except NoAnswer as error:
            raise SearchFailed(f"The search {error}", later=error.kind != "long") from error
        if answer.status != 200:
            raise SearchFailed(
                f"The search answered {answer.status}",
                later=answer.status == 429 or answer.status >= 500,
                retry_after=retry_after(answer.headers.get("retry-after"), now=datetime.now(UTC)),
            )
        return _passages(answer)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _passages(answer: Answer) -> list[Passage]:
    told = answer.object()
    if told is None:
        raise SearchFailed("The search must answer with a JSON object", later=True)
    if "error" in told:
        code = told["error"].get("code") if isinstance(told["error"], dict) else None
        raise SearchFailed(f"The search refused: {code}", later=code in {"maxlag", "ratelimited"})
    pages = (told.get("query") or {}).get("pages") or []
    found = [page for page in pages if isinstance(page, dict) and page.get("extract")]
    found.sort(key=lambda page: page.get("index", 0))
    return [
        Passage(str(page["title"]), section, text, url=page.get("fullurl"), licence="CC BY-SA 4.0")
        for page in found
        for section, text in _sections(str(page["extract"]))
    ]


def _sections(extract: str) -> list[tuple[str, str]]:
    parts = _SECTION.split(extract)
    named = [("What it is", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    return [(name, text.strip()) for name, text in named if text.strip()]
