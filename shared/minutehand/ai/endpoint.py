"""Base class of model endpoints, with connections, retries and classification of failures.

openai_compatible.py and speech_endpoint.py build requests and parse responses.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from minutehand.ai.errors import InputRefused, LanguageModelError, UnusableOutput
from minutehand.ai.sse import SseParser
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
from minutehand.worker.vendor import Failure, classify_no_response, classify_status

E = TypeVar("E", bound=LanguageModelError)
MAX_RESPONSE_BYTES = 2_000_000
#: Maximum bytes of a streamed response. Each chunk has about 300 bytes in addition to its text.
MAX_STREAM_BYTES = 60_000_000
#: HTTP statuses with which an endpoint may reject a prompt. Any other 4xx status means that the URL
#: or the model's name is wrong.
_PROMPT_STATUSES = frozenset({400, 413, 422, 451})
#: Words that an endpoint's error contains if the account has no credit. Some endpoints report an
#: account without credit with status 400 or 429.
_NO_CREDIT = re.compile("insufficient_quota|exceeded_current_quota|billing|credit balance")
#: Possible first bytes of a JSON body. A server-sent event begins with none of these bytes.
_JSON_START = b'{["<'


class Endpoint:
    """A client of one model endpoint. The client retries failed requests.

    Args:
        url: Base URL with the API's version, such as https://api.openai.com/v1. The client appends
            `path`.
        model: Name of the model at the endpoint.
        key: Bearer token. `key` is None if the endpoint needs no authentication.
        response_seconds: Maximum seconds for which the endpoint may send no data, before the
            response or between its chunks.
        sleep: Function that waits before a request is retried.
    """

    offline = False
    #: Name of the service, with which each error message begins.
    _title: str
    #: Environment variable with the URL of the endpoint.
    _setting: str

    def __init__(
        self,
        url: str,
        path: str,
        *,
        model: str,
        key: str | None = None,
        response_seconds: float = 120.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = model
        self.url = f"{url.rstrip('/')}{path}"
        self._key = key
        self._max_silence = response_seconds
        headers = {"accept": "application/json, text/event-stream"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._http = connect(headers=headers, timeout=timeouts(response_seconds))
        self._retryer = retrying(_is_repeatable, attempts=2, sleep=sleep)

    async def objects(self, **content: Any) -> AsyncGenerator[dict[str, Any]]:
        """Post `content` (json, or data and files), and yield the JSON objects of the response.

        An endpoint that does not stream sends one object. For the marker `[DONE]`, which ends a
        stream, the generator yields an empty object. The caller closes the generator to close the
        connection.

        Raises:
            LanguageModelError: See errors.py. The client has already retried a request whose error
                is `repeatable`, unless the endpoint requested a long wait.
        """
        try:
            async with self._open_response(content) as response:
                chunks = response.chunks(max_bytes=MAX_STREAM_BYTES)
                async with aclosing(chunks), aclosing(self._objects(response, chunks)) as objects:
                    async for value in objects:
                        yield value
        except NoResponse as error:
            raise self._located(self._failure(error)) from error
        except LanguageModelError as error:
            self._located(error)
            raise

    async def post(self, **content: Any) -> dict[str, Any]:
        """Post `content`, and return the first JSON object of the response, see `objects`."""
        async with aclosing(self.objects(**content)) as objects:
            return await anext(objects)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @asynccontextmanager
    async def _open_response(self, content: Mapping[str, Any]) -> AsyncIterator[StreamResponse]:
        """Send the request. Yield the successful response before its body is read."""
        async with AsyncExitStack() as stack:

            async def send() -> StreamResponse:
                try:
                    response = await stack.enter_async_context(
                        opened(
                            self._http, "POST", self.url, max_silence=self._max_silence, **content
                        )
                    )
                    if response.status == 204 or not 200 <= response.status < 300:
                        body = await response.read(max_bytes=MAX_RESPONSE_BYTES)
                        raise self._rejection(body, body.status, body.object())
                except NoResponse as error:
                    raise self._failure(error) from error
                return response

            response: StreamResponse = await self._retryer(send)
            yield response

    async def _objects(
        self, response: StreamResponse, chunks: AsyncGenerator[bytes]
    ) -> AsyncGenerator[dict[str, Any]]:
        body, parser = b"", SseParser()
        is_json = has_body = has_event = False
        async for chunk in chunks:
            if not (is_json or has_body):
                body = (body + chunk).lstrip(b" \t\r\n\xef\xbb\xbf")
                is_json, has_body = body[:1] in _JSON_START if body else False, bool(body)
                chunk = body
            elif is_json:
                body += chunk
            if is_json and len(body) > MAX_RESPONSE_BYTES:
                raise NoResponse(f"answered more than {MAX_RESPONSE_BYTES} bytes", "long")
            if has_body and not is_json:
                for event_type, data in parser.add(chunk):
                    response.received()
                    has_event = True
                    yield self._event(response, event_type, data)
        if is_json or not has_body:
            complete = HttpResponse(response.status, response.headers, body)
            yield self._checked(complete, complete.object())
            return
        for event_type, data in parser.end():
            # if the connection ended within this event, the answer is cut off, and not unusable
            with suppress(UnusableOutput):
                yield self._event(response, event_type, data)
                has_event = True
        if not has_event:
            self._checked(HttpResponse(response.status, response.headers, b""), None)

    def _event(self, response: StreamResponse, event_type: str, data: str) -> dict[str, Any]:
        if data.strip() == "[DONE]":
            return {}
        complete = HttpResponse(response.status, response.headers, data.encode())
        value = complete.object()
        if event_type == "error":
            value = {"error": data if value is None else value.get("error", value)}
        return self._checked(complete, value)

    def _checked(self, response: HttpResponse, value: dict[str, Any] | None) -> dict[str, Any]:
        if value is None:
            raise self._output_error(f"{self._title} did not respond with a JSON object")
        if details := value.get("error"):  # some gateways return every error with status 200
            code = str(details.get("code")) if isinstance(details, dict) else ""
            status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else None
            error = self._rejection(response, status or 500, value)
            if status is None:
                # the endpoint may have charged for an answer that it produced before the error
                error.charged, error.repeatable = True, False
            raise error
        return value

    def _output_error(self, text: str, **options: Any) -> UnusableOutput:
        return self._located(UnusableOutput(text, vendor=self._title, **options))

    def _located(self, error: E) -> E:
        error.url = self.url
        return error

    def _failure(self, error: NoResponse) -> LanguageModelError:
        text, failure = f"{self._title} {error}", classify_no_response(error)
        if error.kind == "long":
            return self._output_error(text)
        return LanguageModelError(
            text, **failure._asdict(), vendor=self._title, repeatable=not failure.charged
        )

    def _rejection(
        self, response: HttpResponse, status: int, body: Mapping[str, Any] | None
    ) -> LanguageModelError:
        # some endpoints return the members of the error without an object around them
        error = body.get("error", body) if body else None
        error = error if isinstance(error, dict) else {"message": error}
        message = self._redact(str(error.get("message") or "no message"))
        text = f"{self._title} answered {status}: {message}"
        wait = requested_wait(response.headers, now=datetime.now(UTC))
        # search the message for words about credit only if the status is 400, because a message
        # about a rate limit may mention billing
        description = f"{error.get('code')} {error.get('type')} {message if status == 400 else ''}"
        is_empty = status in {400, 403, 429} and _NO_CREDIT.search(description)
        failure = classify_status(402 if is_empty else status)
        if status < 400 or (failure.code == "refused" and status not in _PROMPT_STATUSES):
            failure = Failure("misconfigured", "none")
            location = response.headers.get("location")
            text += f" ({self._redact(location)})" if location else ""
            text += f"; {self._setting} may be wrong"
        elif failure.code == "refused":
            is_long = status == 413 or error.get("code") == "context_length_exceeded"
            code = "too_long" if is_long else "input_refused"
            return InputRefused(text, code=code, status=status, vendor=self._title)
        elif failure.code == "failed" and wait is not None:
            failure = Failure("unreachable", "later")
        is_limit = failure.code == "rate_limited"
        is_short_wait = wait is not None or not is_limit
        can_retry = failure.hope == "later" and not failure.charged and is_short_wait
        return LanguageModelError(
            text,
            **failure._asdict(),
            status=status,
            retry_after=wait,
            repeatable=can_retry,
            vendor=self._title,
        )

    def _redact(self, text: str) -> str:
        """Return the beginning of a vendor's text, without the key that the text may quote."""
        text = text.replace(self._key, HIDDEN) if self._key else text
        return without_secrets(text)[:500]


def _is_repeatable(error: BaseException) -> bool:
    return isinstance(error, LanguageModelError) and error.repeatable
