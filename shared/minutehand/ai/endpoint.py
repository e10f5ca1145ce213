"""What the endpoints of models have in common: connections, repeating, what a failure means.

Requests and answers are left to openai_compatible.py and speech_endpoint.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from minutehand.ai.errors import AnswerUnusable, InputRefused, LanguageModelError
from minutehand.ai.sse import ServerSent
from minutehand.queue.outbound_http import (
    HttpResponse,
    NoResponse,
    StreamResponse,
    connect,
    opened,
    retrying,
    timeouts,
)
from minutehand.redaction import HIDDEN, without_secrets
from minutehand.retry_after import requested_wait
from minutehand.worker.vendor import Verdict, no_answer, verdict

MAX_ANSWER_BYTES: Final = 2_000_000
#: Of an answer in pieces, each of which comes in some 300 bytes of its own.
MAX_STREAM_BYTES: Final = 60_000_000
#: Statuses that another prompt may change; for the others the address or the model is wrong.
_OF_PROMPT: Final = frozenset({400, 413, 422, 451})
#: How endpoints say that an account is empty, some of them by 400 or 429.
_NO_CREDIT: Final = re.compile("insufficient_quota|exceeded_current_quota|billing|credit balance")
#: What a whole answer begins with, and no server-sent event.
_WHOLE: Final = b'{["<'


class Endpoint:
    """A model behind an address that is posted to, and how its calls are repeated.

    Args:
        url: Up to and with the version, as https://api.openai.com/v1; `path` is appended.
        title: What begins the sentence of an error.
        setting: The variable that holds `url`.
        model: Its name there.
        key: Sent as a bearer token; None for endpoints that ask for none.
        answer_seconds: Longest silence: until an answer that comes whole, or until and between the
            pieces of one that is streamed.
        attempts: Most requests for one call; `sleep` waits between them.
    """

    offline: Final = False

    def __init__(
        self,
        url: str,
        path: str,
        *,
        title: str,
        setting: str,
        model: str,
        key: str | None = None,
        answer_seconds: float = 120.0,
        attempts: int = 2,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = model
        self._url = f"{url.rstrip('/')}{path}"
        self._title = title
        self._setting = setting
        self._key = key
        self._within = answer_seconds
        headers = {"accept": "application/json, text/event-stream"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._http = connect(headers=headers, timeout=timeouts(answer_seconds))
        self._repeating = retrying(_worth_repeating, attempts=attempts, sleep=sleep)

    async def objects(self, **content: Any) -> AsyncGenerator[dict[str, Any]]:
        """Post `content` (json, or data and files); the JSON objects of the answer as they come.

        There is one where the endpoint does not stream. The mark of a stream's end, `[DONE]`, is an
        empty one. Closing the generator closes the connection.

        Raises:
            LanguageModelError: By type; what is `repeatable` without a long wait was repeated.
        """
        try:
            async with self._answered(content) as answer:
                pieces = answer.chunks(max_bytes=MAX_STREAM_BYTES)
                async with aclosing(pieces), aclosing(self._objects(answer, pieces)) as given:
                    async for each in given:
                        yield each
        except NoResponse as error:
            raise self._failure(error) from error

    async def post(self, **content: Any) -> dict[str, Any]:
        """Post `content`; the JSON object that was answered, see `objects`."""
        async with aclosing(self.objects(**content)) as given:
            return await anext(given)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @asynccontextmanager
    async def _answered(self, content: Mapping[str, Any]) -> AsyncIterator[StreamResponse]:
        """An answer that is no refusal, open to be read."""
        async with AsyncExitStack() as stack:

            async def ask() -> StreamResponse:
                try:
                    answer = await stack.enter_async_context(
                        opened(self._http, "POST", self._url, within=self._within, **content)
                    )
                    if answer.status == 204 or not 200 <= answer.status < 300:
                        whole = await answer.read(max_bytes=MAX_ANSWER_BYTES)
                        raise self._refusal(whole, whole.status, whole.object())
                except NoResponse as error:
                    raise self._failure(error) from error
                return answer

            given: StreamResponse = await self._repeating(ask)
            yield given

    async def _objects(
        self, answer: StreamResponse, pieces: AsyncGenerator[bytes]
    ) -> AsyncGenerator[dict[str, Any]]:
        body, events = b"", ServerSent()
        is_whole = came = has_said = False
        async for piece in pieces:
            if not (is_whole or came):
                body = (body + piece).lstrip(b" \t\r\n\xef\xbb\xbf")
                is_whole, came = body[:1] in _WHOLE if body else False, bool(body)
                piece = body
            elif is_whole:
                body += piece
            if is_whole and len(body) > MAX_ANSWER_BYTES:
                raise NoResponse(f"answered more than {MAX_ANSWER_BYTES} bytes", "long")
            if came and not is_whole:
                for kind, data in events.received(piece):
                    answer.received()
                    has_said = True
                    yield self._event(answer, kind, data)
        if is_whole or not came:
            whole = HttpResponse(answer.status, answer.headers, body)
            yield self._checked(whole, whole.object())
            return
        for kind, data in events.ended():
            has_said = True
            yield self._event(answer, kind, data)
        if not has_said:
            self._checked(HttpResponse(answer.status, answer.headers, b""), None)

    def _event(self, answer: StreamResponse, kind: str, data: str) -> dict[str, Any]:
        if data.strip() == "[DONE]":
            return {}
        whole = HttpResponse(answer.status, answer.headers, data.encode())
        given = whole.object()
        if kind == "error" and given is not None:
            given = {"error": given.get("error", given)}
        return self._checked(whole, given)

    def _checked(self, answer: HttpResponse, given: dict[str, Any] | None) -> dict[str, Any]:
        if given is None:
            raise self._unusable(f"{self._title} did not answer with a JSON object")
        if wrong := given.get("error"):  # some gateways answer 200 whatever happened behind them
            code = str(wrong.get("code")) if isinstance(wrong, dict) else ""
            status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else None
            error = self._refusal(answer, status or 500, given)
            if status is None:
                # nothing says that it came instead of an answer, and not behind one
                error.charged, error.repeatable = True, False
            raise error
        return given

    def _unusable(self, what: str, **more: Any) -> AnswerUnusable:
        return AnswerUnusable(what, vendor=self._title, **more)

    def _failure(self, error: NoResponse) -> LanguageModelError:
        what, found = f"{self._title} {error}", no_answer(error)
        if error.kind == "long":
            return self._unusable(what)
        return LanguageModelError(
            what, **found._asdict(), vendor=self._title, repeatable=not found.charged
        )

    def _refusal(
        self, answer: HttpResponse, status: int, given: Mapping[str, Any] | None
    ) -> LanguageModelError:
        error = (given or {}).get("error")
        error = error if isinstance(error, dict) else {"message": error}
        said = self._hidden(str(error.get("message") or "it says no more"))
        what = f"{self._title} answered {status}: {said}"
        wait = requested_wait(answer.headers, now=datetime.now(UTC))
        # not all of what it says: a limit's words may lead to where one pays
        named = f"{error.get('code')} {error.get('type')} {said if status == 400 else ''}"
        is_empty = status in {400, 403, 429} and _NO_CREDIT.search(named)
        found = verdict(402 if is_empty else status)
        if status < 400 or (found.code == "refused" and status not in _OF_PROMPT):
            found = Verdict("misconfigured", "none")
            where = answer.headers.get("location")
            what += f" ({self._hidden(where)})" if where else ""
            what += f"; {self._setting} may be wrong"
        elif found.code == "refused":
            is_long = status == 413 or error.get("code") == "context_length_exceeded"
            code = "too_long" if is_long else "input_refused"
            return InputRefused(what, code=code, status=status, vendor=self._title)
        elif found.code == "failed" and wait is not None:
            found = Verdict("unreachable", "later")
        is_limit = found.code == "rate_limited"
        again = found.hope == "later" and not found.charged and (wait is not None or not is_limit)
        return LanguageModelError(
            what,
            **found._asdict(),
            status=status,
            retry_after=wait,
            repeatable=again,
            vendor=self._title,
        )

    def _hidden(self, said: str) -> str:
        """A vendor's words without its key, should they repeat it."""
        said = said.replace(self._key, HIDDEN) if self._key else said
        return without_secrets(said)[:500]


def _worth_repeating(error: BaseException) -> bool:
    return isinstance(error, LanguageModelError) and error.repeatable
