"""What the endpoints of models have in common: connections, repeating, what a failure means.

Requests and answers are left to openai_compatible.py and speech_endpoint.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from minutehand.ai.errors import AnswerUnusable, InputRefused, LanguageModelError
from minutehand.queue.foreign import Answer, NoAnswer, connect, exchange, repeating, timeouts
from minutehand.redaction import without_secrets
from minutehand.retry_after import retry_after

MAX_ANSWER_BYTES: Final = 2_000_000
#: Statuses of a service that is away or too busy, not of one that is broken.
_OVERLOADED: Final = frozenset({408, 502, 503, 504, 529})


class Endpoint:
    """A model behind an address that is posted to, and how its calls are repeated.

    Args:
        url: Up to and with the version, as https://api.openai.com/v1; `path` is appended.
        title: What begins the sentence of an error.
        model: Its name there.
        key: Sent as a bearer token; None for endpoints that ask for none.
        answer_seconds: Longest time for one answer, however lively it drips.
        attempts: Most requests for one call; `sleep` waits between them.
    """

    offline: Final = False

    def __init__(
        self,
        url: str,
        path: str,
        *,
        title: str,
        model: str,
        key: str | None = None,
        answer_seconds: float = 120.0,
        attempts: int = 2,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = model
        self._url = f"{url.rstrip('/')}{path}"
        self._title = title
        self._within = answer_seconds
        headers = {"accept": "application/json"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._http = connect(headers=headers, timeout=timeouts(answer_seconds))
        self._repeating = repeating(_worth_repeating, attempts=attempts, sleep=sleep)

    async def post(self, **content: Any) -> dict[str, Any]:
        """Post `content` (json, or data and files); the JSON object that was answered.

        Raises:
            LanguageModelError: By type; what is `repeatable` without a long wait was repeated.
        """
        given: dict[str, Any] = await self._repeating(self._post, content)
        return given

    async def _post(self, content: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = await exchange(
                self._http,
                "POST",
                self._url,
                most_bytes=MAX_ANSWER_BYTES,
                within=self._within,
                **content,
            )
        except NoAnswer as error:
            what = f"{self._title} {error}"
            if error.kind == "long":
                raise AnswerUnusable(what) from error
            kind = "cut_short" if error.kind == "broken" else "unreachable"
            # silence may hide an answer that is charged for
            again = error.kind in {"unsent", "broken"}
            raise LanguageModelError(what, code=kind, repeatable=again) from error
        given = answer.object()
        if answer.status != 200:
            raise self._refusal(answer, answer.status, given)
        if given is None:
            raise AnswerUnusable(f"{self._title} did not answer with a JSON object")
        if wrong := given.get("error"):  # some gateways answer 200 whatever happened behind them
            code = wrong.get("code") if isinstance(wrong, dict) else None
            status = code if isinstance(code, int) and 400 <= code < 600 else 500
            raise self._refusal(answer, status, given)
        return given

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _refusal(
        self, answer: Answer, status: int, given: Mapping[str, Any] | None
    ) -> LanguageModelError:
        name, error = self._title, (given or {}).get("error")
        error = error if isinstance(error, dict) else {"message": error}
        said = without_secrets(str(error.get("message") or f"status {status}"))[:500]
        wait = retry_after(answer.headers.get("retry-after"), now=datetime.now(UTC))
        how: dict[str, Any] = {"status": status, "retry_after": wait}
        if status in {401, 403}:
            what, code = f"{name} refused the key", "not_authorised"
            return LanguageModelError(what, code=code, hope="none", **how)
        if status == 402 or error.get("code") == "insufficient_quota":
            what, code = f"{name} has no credit left on its account", "out_of_credit"
            return LanguageModelError(what, code=code, hope="none", **how)
        if status == 429:
            what = f"{name} has reached its rate limit"
            again = wait is not None
            return LanguageModelError(what, code="rate_limited", repeatable=again, **how)
        if status in {408, 409} or status >= 500:
            # an error instead of an answer: nothing was written, so asking again is safe
            code = "failed" if wait is None and status not in _OVERLOADED else "unreachable"
            return LanguageModelError(f"{name} failed: {said}", code=code, repeatable=True, **how)
        return InputRefused(f"{name} refused the request: {said}", status=status)


def _worth_repeating(error: BaseException) -> bool:
    return isinstance(error, LanguageModelError) and error.repeatable
