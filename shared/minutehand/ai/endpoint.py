"""What the endpoints of models have in common: connections, repeating, what a refusal means.

Requests and answers are left to openai_compatible.py and speech_endpoint.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import tenacity

from minutehand.ai.errors import (
    InputRefused,
    LanguageModelError,
    NotAuthorised,
    OutOfCredit,
    RateLimited,
    Unreachable,
)
from minutehand.queue.lean_httpx import httpx
from minutehand.retry_after import retry_after

CONNECT_SECONDS: Final = 5.0
#: A wait asked for that is at most this long is waited for within the call.
SHORT_WAIT_SECONDS: Final = 3.0

T = TypeVar("T")


class Endpoint:
    """One address that is posted to, its connections, and how its calls are repeated.

    Args:
        accept: The media type of its answers.
        key: Sent as a bearer token; None for endpoints that ask for none.
        answer_seconds: Patience between two pieces of an answer.
        attempts: Most requests for one call.
        sleep: Waits between them.
    """

    def __init__(
        self,
        url: str,
        *,
        accept: str,
        key: str | None,
        answer_seconds: float,
        attempts: int,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._url = url
        self._attempts = attempts
        self._sleep = sleep
        self._headers = {"accept": accept, "user-agent": "Minutehand"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._timeout = httpx.Timeout(answer_seconds, connect=min(CONNECT_SECONDS, answer_seconds))
        # a proxy of the environment is meant for the world outside
        local = urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}
        self._http = httpx.AsyncClient(trust_env=not local, follow_redirects=False)

    def post(self, **content: Any) -> AbstractAsyncContextManager[httpx.Response]:
        """Post `content` (json, or data and files) and read the answer as it comes."""
        return self._http.stream(
            "POST", self._url, headers=self._headers, timeout=self._timeout, **content
        )

    async def repeat(self, call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Make a call, and again what is `repeatable` without a long wait."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_worth_repeating),
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=_wait,
            sleep=self._sleep,
            reraise=True,
        )
        answer: T = await retrying(call, *arguments)
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def refusal(
    name: str, status: int, headers: httpx.Headers, told: Mapping[str, Any]
) -> LanguageModelError:
    """The error that an answer other than 200 stands for; `name` begins its sentence."""
    error = told.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    said = sentence(told)[:500] or f"status {status}"
    wait = retry_after(headers.get("retry-after"), now=datetime.now(UTC))
    if status in {401, 403}:
        return NotAuthorised(f"{name} refused the key", status=status)
    if status == 402 or code == "insufficient_quota":
        return OutOfCredit(f"{name} has no credit left on its account", status=status)
    if status == 429:
        return RateLimited(
            f"{name} has reached its rate limit",
            status=status,
            retry_after=wait,
            repeatable=wait is not None,
        )
    if status in {408, 409} or status >= 500:
        # an error instead of an answer: nothing was written, so asking again is safe
        return Unreachable(
            f"{name} failed: {said}", status=status, retry_after=wait, repeatable=True
        )
    return InputRefused(f"{name} refused the request: {said}", status=status)


def sentence(told: Mapping[str, Any]) -> str:
    """What an answer says went wrong; empty when it says nothing."""
    error = told.get("error")
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else ""


def _worth_repeating(error: BaseException) -> bool:
    if not isinstance(error, LanguageModelError) or not error.repeatable:
        return False
    return error.retry_after is None or error.retry_after.total_seconds() <= SHORT_WAIT_SECONDS


_backing_off = tenacity.wait_random_exponential(multiplier=0.2, max=2.0)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, LanguageModelError) else None
    return max(asked.total_seconds() if asked else 0.0, _backing_off(state))
