"""What the endpoints of models have in common: connections, repeating, what a refusal means.

Requests and answers are left to openai_compatible.py and speech_endpoint.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from minutehand.ai.errors import (
    InputRefused,
    LanguageModelError,
    NotAuthorised,
    OutOfCredit,
    RateLimited,
    Unreachable,
)
from minutehand.queue.foreign import Answer, connect, exchange, repeating, timeouts
from minutehand.queue.lean_httpx import httpx
from minutehand.redaction import without_secrets
from minutehand.retry_after import retry_after

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
        headers = {"accept": accept}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._http = connect(headers=headers, timeout=timeouts(answer_seconds))

    async def exchange(self, *, most_bytes: int, **content: Any) -> Answer:
        """Post `content` and read the whole answer; see `minutehand.queue.foreign.exchange`."""
        return await exchange(self._http, "POST", self._url, most_bytes=most_bytes, **content)

    async def repeat(self, call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Make a call, and again what is `repeatable` without a long wait."""
        retrying = repeating(_worth_repeating, attempts=self._attempts, sleep=self._sleep)
        answer: T = await retrying(call, *arguments)
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def refusal(
    name: str, status: int, headers: httpx.Headers, told: Mapping[str, Any]
) -> LanguageModelError:
    """The error for an answer other than 200; `name` begins its sentence."""
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
    """What an answer says went wrong, without secrets; empty when it says nothing."""
    error = told.get("error")
    if isinstance(error, dict):
        error = error.get("message")
    return without_secrets(error) if isinstance(error, str) else ""


def _worth_repeating(error: BaseException) -> bool:
    return isinstance(error, LanguageModelError) and error.repeatable
