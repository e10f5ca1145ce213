"""Any endpoint that speaks OpenAI's chat completions, streamed: one client per process.

Repeats only what left no answer behind; all longer waiting is the job's, not the call's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from minutehand.ai.endpoint import Endpoint, refusal, sentence
from minutehand.ai.errors import (
    CutShort,
    InputRefused,
    LanguageModelError,
    Unreachable,
)
from minutehand.ai.event_stream import EventStreamParser, EventStreamTooLong
from minutehand.ai.language_model import (
    HINT,
    Completion,
    OnText,
    Prompt,
    Usage,
    cost,
    count_tokens,
)
from minutehand.queue.foreign import NoAnswer
from minutehand.queue.lean_httpx import httpx

MAX_ANSWER_CHARACTERS: Final = 400_000
MAX_ERROR_BYTES: Final = 64_000
#: More tokens than this cannot be the count of one request, and would not fit the column.
MOST_COUNTED: Final = 10_000_000
#: Keywords of JSON Schema that strict endpoints refuse, and no model needs.
_UNSAID: Final = frozenset({HINT, "title", "default", "maxLength", "minLength", "maxItems"})


class OpenAICompatible:
    """Speaks `POST {url}/chat/completions` with `stream: true`.

    Args:
        url: Up to and with the version, as https://api.openai.com/v1.
        key: Sent as a bearer token; None for endpoints that ask for none.
        prices: US dollars per million tokens read and written.
        answer_seconds: Patience between two pieces of an answer.
        attempts: Most requests for one call.
        sleep: Waits between them.

    References:
        https://platform.openai.com/docs/api-reference/chat/create,
        https://platform.openai.com/docs/api-reference/chat-streaming
    """

    offline: Final = False

    def __init__(
        self,
        url: str,
        *,
        model: str,
        key: str | None = None,
        prices: tuple[float, float] | None = None,
        answer_seconds: float = 60.0,
        attempts: int = 3,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._model = model
        self._prices = prices
        self._endpoint = Endpoint(
            f"{url.rstrip('/')}/chat/completions",
            accept="text/event-stream",
            key=key,
            answer_seconds=answer_seconds,
            attempts=attempts,
            sleep=sleep,
        )
        # what this endpoint turned out not to take
        self._without: set[str] = set()

    @property
    def name(self) -> str:
        """The model, as the endpoint knows it."""
        return self._model

    async def complete(self, prompt: Prompt, *, on_text: OnText | None = None) -> Completion:
        """Answer `prompt`; see `LanguageModel.complete`."""
        return await self._endpoint.repeat(self._complete, prompt, on_text)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._endpoint.aclose()

    async def _complete(self, prompt: Prompt, on_text: OnText | None) -> Completion:
        for _ in range(3):
            try:
                return await self._stream(prompt, on_text)
            except InputRefused as error:
                # nothing was answered or charged: ask again in the endpoint's own dialect
                unknown = self._unknown_field(error)
                if unknown is None:
                    raise
                self._without.add(unknown)
        return await self._stream(prompt, on_text)

    def _unknown_field(self, error: InputRefused) -> str | None:
        if error.status not in {400, 422}:
            return None
        fields = ("response_format", "stream_options", "max_tokens", "seed")
        named = [name for name in fields if name in str(error) and name not in self._without]
        return named[0] if named else None

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": _messages(prompt),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": prompt.most_tokens,
            "seed": prompt.seed,
        }
        if prompt.schema is not None:
            schema = {"name": prompt.name, "strict": True, "schema": _plain_schema(prompt.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if "max_tokens" in self._without:  # newer models know it by its other name alone
            body["max_completion_tokens"] = prompt.most_tokens
        return {name: value for name, value in body.items() if name not in self._without}

    async def _stream(self, prompt: Prompt, on_text: OnText | None) -> Completion:
        answer = _Answer(on_text)
        try:
            async with self._endpoint.post(json=self._body(prompt)) as response:
                if response.status_code != 200:
                    told = await _read(response)
                    raise refusal(
                        "The language model", response.status_code, response.headers, told
                    )
                async for chunk in response.aiter_bytes():
                    answer.take(chunk)
                    if answer.done:
                        break
        except (httpx.HTTPError, EventStreamTooLong) as error:
            answer.fail(error)
        return self._completion(prompt, answer)

    def _completion(self, prompt: Prompt, answer: _Answer) -> Completion:
        text = answer.text
        usage = self._usage(prompt, answer)
        if answer.finish is None:
            if not text:
                raise Unreachable(f"{self._model} returned an empty answer")
            raise CutShort(f"{self._model} did not finish its answer", text=text, usage=usage)
        if answer.refusal or answer.finish == "content_filter":
            said = answer.refusal or "its content filter stopped it"
            raise InputRefused(f"{self._model} refused: {said[:300]}", text=text, usage=usage)
        return Completion(
            text=text, model=self._model, usage=usage, whole=answer.finish != "length"
        )

    def _usage(self, prompt: Prompt, answer: _Answer) -> Usage:
        said = answer.usage
        if said is None:
            asked = "".join(message["content"] for message in _messages(prompt))
            read, written = count_tokens(asked), count_tokens(answer.text)
        else:
            read, written = said
        return Usage(read, written, cost(self._prices, read, written), estimated=said is None)


class _Answer:
    """An answer as it grows."""

    def __init__(self, on_text: OnText | None) -> None:
        self._parser = EventStreamParser()
        self._on_text = on_text
        self._pieces: list[str] = []
        self._size = 0
        #: The answer so far, while it may be a thought; None once it is not.
        self._opening: str | None = ""
        self.finish: str | None = None
        self.refusal = ""
        self.usage: tuple[int, int] | None = None
        self.done = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, chunk: bytes) -> None:
        for event in self._parser.feed(chunk):
            if event.data == "[DONE]":
                self.done = True
                return
            try:
                told = json.loads(event.data)
            except (ValueError, RecursionError) as error:
                raise self._broken("sent invalid JSON") from error
            if isinstance(told, dict):
                self._take(told)

    def _take(self, told: Mapping[str, Any]) -> None:
        if told.get("error"):
            raise self._broken(f"reported an error: {sentence(told)[:300]}")
        usage = told.get("usage")
        if isinstance(usage, dict):
            self.usage = (_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
        for choice in told.get("choices") or []:  # some send null with the usage
            delta = choice.get("delta") or {}
            if isinstance(delta.get("refusal"), str):
                self.refusal += delta["refusal"]
            if isinstance(delta.get("content"), str) and delta["content"]:
                self._write(delta["content"])
            if isinstance(choice.get("finish_reason"), str):
                self.finish = choice["finish_reason"]

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._size > MAX_ANSWER_CHARACTERS:
            raise self._broken("does not end")
        if shown := self._without_thought(text):
            self._pieces.append(shown)
            if self._on_text is not None:
                self._on_text(shown)

    def _without_thought(self, text: str) -> str:
        """Leave out what reasoning models on servers of one's own say first, in `<think>`."""
        if self._opening is None:
            return text
        self._opening += text
        begun = self._opening.lstrip()
        if begun.startswith("<think>"):
            text = begun.partition("</think>")[2].lstrip()
        else:
            text = "" if "<think>".startswith(begun) else self._opening
        if text:
            self._opening = None
        return text

    def fail(self, error: Exception) -> None:
        """Turn a broken connection into what it means for the answer, unless all of it came."""
        if self.finish is not None:
            return
        none = NoAnswer.of(error)
        raise self._broken(str(none), repeat=none.unsent) from error

    def _broken(self, what: str, *, repeat: bool = False) -> LanguageModelError:
        if self._pieces:
            return CutShort(f"The language model {what}", text=self.text)
        # silence may hide an answer that is charged for: only what was never sent is safe
        return Unreachable(f"The language model {what}", repeatable=repeat)


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    system = prompt.instructions
    if prompt.schema is not None:
        # said as well as set: not every endpoint obeys response_format
        system += "\n\nAnswer with one JSON object of this schema and nothing else:\n" + json.dumps(
            _plain_schema(prompt.schema), ensure_ascii=False
        )
    texts = [f"# {part.title}\n{part.text}" for part in prompt.material]
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": "\n\n".join(texts)},
    ]


def _plain_schema(schema: Any) -> Any:
    """The schema without what only the offline model or pydantic reads; names stay."""
    if isinstance(schema, list):
        return [_plain_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key in {"properties", "$defs"}:
            plain[key] = {name: _plain_schema(each) for name, each in value.items()}
        elif key not in _UNSAID:
            plain[key] = _plain_schema(value)
    if "properties" in plain:  # strict endpoints refuse one that may be left out
        plain["required"] = list(plain["properties"])
    return plain


async def _read(response: httpx.Response) -> dict[str, Any]:
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_ERROR_BYTES:
                break
        told = json.loads(bytes(body))
    except (httpx.HTTPError, ValueError, RecursionError):
        return {}  # the status says enough
    return told if isinstance(told, dict) else {}


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return min(value, MOST_COUNTED) if isinstance(value, int) and value >= 0 else 0
