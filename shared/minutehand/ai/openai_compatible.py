"""Client of an endpoint with OpenAI's chat completions API. One client serves a whole process.

The client retries only requests that were certainly not charged. If the endpoint requests a long
wait, the job is suspended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from minutehand.ai.endpoint import MAX_RESPONSE_BYTES, Endpoint
from minutehand.ai.errors import (
    EMPTY_MESSAGE,
    InputRefused,
    LanguageModelError,
    TruncatedOutput,
    UnusableOutput,
)
from minutehand.ai.language_model import Completion, CompletionStream, Prompt
from minutehand.worker.serialization import TextCleaner, clean_text

logger = logging.getLogger(__name__)

#: Tags around the reasoning that a self-hosted model may write before its answer.
_REASONING_START, _REASONING_END = "<think>", "</think>"
#: Keywords of JSON Schema that strict endpoints reject, so that `response_format` omits the
#: keywords. The schema in the prompt's text contains all keywords.
_UNSUPPORTED = frozenset({"title", "default", "maxLength", "minLength", "maxItems", "minItems"})
#: Options of a request that an endpoint may reject, each with a pattern of the error message. The
#: client repeats the request without a rejected option.
_OPTIONAL = {
    "response_format": "response_format|json_schema",
    "max_tokens": "max_tokens|context length",
    "max_completion_tokens": r"(?s)\A(?!.*\bmax_tokens).*max_completion_tokens"
    "|completion tokens|context length",
    "stream_options": "stream_options|include_usage",
    "stream": r"\bstream(?:ing)?\b",
}
_CALLED = "is a tool call, but no tools are offered; only text can be used"
#: Seconds for which requests omit an option of the API that the endpoint has rejected, if the retry
#: without the option succeeded.
REJECTED_SECONDS = 3600.0
#: Number of consecutive responses in an unknown format, after which the client considers the
#: endpoint's URL wrong.
MIN_UNKNOWN_FORMATS = 2
#: Message that asks the model for the rest of its answer.
_CONTINUE = (
    "Your answer was cut off there. Continue it exactly after its last character, and repeat"
    " nothing."
)
#: Maximum seconds from the end of an answer to the JSON object with its token counts.
AFTER_END_SECONDS = 1.0
#: Maximum seconds of a whole answer, or LIMIT_SILENCES times the maximum silence if this is longer.
MIN_LIMIT_SECONDS = 480.0
LIMIT_SILENCES = 4.0
#: Characters per token, by which the cost of an answer without token counts is estimated.
_CHARACTERS_PER_TOKEN = 4


class OpenAICompatible(Endpoint):
    """A model behind `POST {url}/chat/completions`.

    Args:
        prices: Price of a million input tokens and of a million output tokens, in US dollars.
        most_tokens: Maximum tokens of an answer.

    References:
        https://platform.openai.com/docs/api-reference/chat/create
    """

    _title = "The language model"
    _setting = "LANGUAGE_MODEL_URL"

    def __init__(
        self,
        url: str,
        *,
        prices: tuple[float, float] | None = None,
        most_tokens: int = 16_000,
        **options: Any,
    ) -> None:
        super().__init__(url, "/chat/completions", **options)
        self._most_tokens = most_tokens
        self._prices = prices
        self._rejected: frozenset[str] = frozenset()
        self._rejected_until = 0.0
        #: Number of responses in an unknown format since the last answer. After a single response
        #: in an unknown format, the client does not yet consider the URL wrong.
        self._unknown_formats = 0

    def stream(self, prompt: Prompt | str) -> CompletionStream:
        """Stream the answer to `prompt`, see `LanguageModel.stream`."""
        prompt = Prompt.of(prompt)
        state = _ResponseState(self, prompt)
        return CompletionStream(self._stream_text(prompt, state), state.completion)

    def cost_of(self, prompt: Prompt, text: str = "") -> float:
        """Estimate the cost of an answer without token counts, see `LanguageModel.cost_of`."""
        read = sum(len(message["content"]) for message in _messages(prompt))
        return self.priced(read / _CHARACTERS_PER_TOKEN, len(text) / _CHARACTERS_PER_TOKEN)

    def priced(self, input_tokens: float, output_tokens: float) -> float:
        """Return the price of input and output tokens in US dollars."""
        input_price, output_price = self._prices or (0.0, 0.0)
        return (input_tokens * input_price + output_tokens * output_price) / 1_000_000

    async def _stream_text(self, prompt: Prompt, state: _ResponseState) -> AsyncGenerator[str]:
        """Yield the chunks of an answer.

        Retry the request without options that the endpoint rejects.
        """
        now = time.monotonic()
        without = self._rejected if now < self._rejected_until else frozenset()
        while True:
            try:
                async with (
                    aclosing(self.objects(json=self._body(prompt, without))) as objects,
                    aclosing(self._until_end(objects, state)) as values,
                ):
                    async for value in values:
                        if chunk := state.add(value):
                            yield chunk
                if chunk := state.end():
                    yield chunk
                self._unknown_formats = 0
                if without != self._rejected or now >= self._rejected_until:
                    self._rejected, self._rejected_until = without, now + REJECTED_SECONDS
                return
            except InputRefused as error:
                self._located(error)
                # the request was not charged, so retry it without the rejected options
                rejected = {
                    name for name, words in _OPTIONAL.items() if re.search(words, str(error))
                }
                if error.status not in {400, 422} or not rejected - without:
                    raise
                without |= rejected
                logger.warning(
                    "The request to the language model is retried without the rejected options",
                    extra={"event": "model.without", "options": sorted(without)},
                )
            except LanguageModelError as error:
                self._located(error)
                is_other = isinstance(error, UnusableOutput) and not state.has_choice
                self._unknown_formats += is_other
                if is_other and self._unknown_formats >= MIN_UNKNOWN_FORMATS:
                    # the endpoint's URL belongs to another API. A repeated request would be charged
                    # again, and fail too.
                    reason: Any = {"code": "misconfigured", "hope": "none", "charged": True}
                    text = f"{error}; {self._setting} must be the URL of a chat completions API"
                    wrong = LanguageModelError(text, vendor=self._title, **reason)
                    raise self._located(wrong) from error
                if state.words.length:
                    # a part of the answer arrived before the error, so the request was charged
                    error.charged, error.text = True, error.text or state.words.text
                    error.cost_usd = error.cost_usd or state.cost_usd
                raise

    async def _until_end(
        self, objects: AsyncGenerator[dict[str, Any]], state: _ResponseState
    ) -> AsyncGenerator[dict[str, Any]]:
        """Yield the objects of a response.

        Stop after the answer, even while the connection is open.
        """
        loop, limit = (
            asyncio.get_running_loop(),
            max(MIN_LIMIT_SECONDS, LIMIT_SILENCES * self._max_silence),
        )
        until = loop.time() + limit
        try:
            while True:
                soon = loop.time() + AFTER_END_SECONDS if state.has_ended else until
                async with asyncio.timeout_at(min(soon, until)):
                    value = await anext(objects, None)
                if value is None:
                    return
                yield value
        except TimeoutError as error:
            if not state.has_ended:
                text = f"{self._title} took longer than {limit:g} s to answer"
                code: Any = {"code": "answer_too_long", "hope": "differently", "charged": True}
                raise LanguageModelError(text, vendor=self._title, **code) from error
        except LanguageModelError:
            if not state.has_ended:
                raise

    def _body(self, prompt: Prompt, without: frozenset[str]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name, "messages": _messages(prompt)}
        # newer models accept only `max_completion_tokens`. Some models reject a limit above their
        # own maximum.
        for limit in ("max_tokens", "max_completion_tokens"):
            if limit not in without:
                body[limit] = self._most_tokens
                break
        is_structured = prompt.schema is not None and not prompt.begun
        if is_structured and "response_format" not in without:
            schema = {"name": prompt.name, "strict": True, "schema": _plain_schema(prompt.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if "stream" not in without:
            body["stream"] = True
            if "stream_options" not in without:
                body["stream_options"] = {"include_usage": True}
        return body


class _ReasoningFilter:
    """Collects the chunks of a text, and removes a model's reasoning from its beginning."""

    def __init__(self) -> None:
        self._chunks: list[str] = []
        #: The tag that the filter searches for, or "" after the filter has found the end tag.
        self._tag = _REASONING_START
        #: Last characters of the text so far, which may be the beginning of `_tag`.
        self._tail = ""
        #: Position at which the text after the reasoning begins, or None during the reasoning.
        self._start: int | None = None
        self.length = 0

    @property
    def raw(self) -> str:
        """The whole text, including the reasoning."""
        return "".join(self._chunks)

    @property
    def text(self) -> str:
        """The text without the model's reasoning.

        If no tag ends the reasoning, the text includes all of it.
        """
        return self.raw[self._start :]

    def add(self, chunk: str, *, is_last: bool = False) -> str:
        """Add a chunk, and return the text that may be shown to users now."""
        self._chunks.append(chunk)
        self.length += len(chunk)
        if self._start is not None:
            return chunk
        # search only the last characters, because reasoning may have tens of thousands of chunks
        text, self._tail = self._tail + chunk, ""
        if self._tag == _REASONING_START:
            text = text.lstrip()
            if text.startswith(_REASONING_START):
                self._tag = _REASONING_END
            elif _REASONING_START.startswith(text) and not is_last:
                self._tail = text
                return ""
            else:
                self._start = 0
                return self.raw
        if self._tag == _REASONING_END:
            _, end, rest = text.partition(_REASONING_END)
            if not end:
                self._tail = text[1 - len(_REASONING_END) :]
                return ""
            text, self._tag = rest, ""
        text = text.lstrip()
        if not text and not is_last:
            return ""
        self._start = self.length - len(text)
        return text


class _ResponseState:
    """State of one response, which may be streamed."""

    def __init__(self, model: OpenAICompatible, prompt: Prompt) -> None:
        self._model = model
        self._prompt = prompt
        self.words = _ReasoningFilter()
        self._called = ""
        self._text = TextCleaner()
        self._refusal = ""
        self._finish: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self.has_ended = self.has_choice = False

    def add(self, value: Mapping[str, Any]) -> str:
        """Add an object of the response, and return the text that may be shown to users now."""
        if not value:
            self.has_ended = True
            return ""
        if isinstance(usage := value.get("usage"), Mapping):
            self._usage = usage
        try:
            parts = [
                self._add_choice(choice)
                for choice in value.get("choices") or ()
                if str(choice.get("index") or 0) == "0"
            ]
        except (TypeError, AttributeError, KeyError) as error:
            raise self._output_error("is not as documented") from error
        if self.words.length + len(self._called) > MAX_RESPONSE_BYTES:
            raise self._output_error(f"is longer than {MAX_RESPONSE_BYTES} characters")
        return self.words.add("".join(parts))

    def _add_choice(self, choice: Mapping[str, Any]) -> str:
        full_message = choice.get("message")
        message = full_message if full_message is not None else choice["delta"]
        self.has_choice = True
        self.has_ended |= full_message is not None
        if finish := choice.get("finish_reason"):
            self._finish, self.has_ended = str(finish), True
        if message is None:
            return ""
        self._refusal += str(message.get("refusal") or "")
        calls = message.get("tool_calls") or [{"function": message.get("function_call") or {}}]
        for call in calls:
            if call.get("index", 0) == 0:
                self._called += str((call.get("function") or {}).get("arguments") or "")
        return self._text.add(_text(message.get("content")))

    def end(self) -> str:
        """Return the rest of the text. Raise LanguageModelError if the answer cannot be used."""
        name, cost = self._model.name, self.cost_usd
        if not self.has_choice:
            raise self._output_error("is not as documented")
        if self._refusal or self._finish == "content_filter":
            reason = (self._refusal or "its content filter stopped it")[:300]
            raise InputRefused(f"{name} refused: {reason}", cost_usd=cost, charged=True)
        if not self.has_ended:
            text = f"{name} ended its answer early"
            raise LanguageModelError(text, code="cut_short", charged=True, cost_usd=cost)
        rest = self._text.end()
        if not (self.words.raw + rest).strip():
            if self._finish == "length":
                text = f"{name} used up its tokens before it answered"
                raise TruncatedOutput(text, cost_usd=cost)
            fields = (self._prompt.schema or {}).get("properties", ())
            if not any(f'"{name}"' in self._called for name in fields):
                is_call = bool(self._called) or self._finish in {"tool_calls", "function_call"}
                if is_call:
                    raise self._output_error(_CALLED)
                raise self._output_error("is empty", said=EMPTY_MESSAGE)
            # some models return an answer with a schema in the arguments of a tool call
            rest = clean_text(self._called)
        return self.words.add(rest, is_last=True)

    def completion(self) -> Completion:
        """Return the answer so far."""
        return Completion(
            text=self.words.text,
            model=self._model.name,
            cost_usd=self.cost_usd,
            whole=self.has_ended and self._finish != "length",
        )

    @property
    def cost_usd(self) -> float:
        """Cost of the answer by the endpoint's token counts, or estimated by the text's length."""
        if self._usage is None:
            return self._model.cost_of(self._prompt, self.words.raw)
        input_tokens, output_tokens = (
            value if isinstance(value := self._usage.get(name), int) and 0 <= value < 10**7 else 0
            for name in ("prompt_tokens", "completion_tokens")
        )
        return self._model.priced(input_tokens, output_tokens)

    def _output_error(self, message: str, said: str | None = None) -> UnusableOutput:
        text = f"The answer of {self._model.name} {message}"
        return UnusableOutput(text, said=said, cost_usd=self.cost_usd, text=self.words.text)


def _text(content: Any) -> str:
    """Return the text of a message.

    If the content of the message is a list, join the texts in the list.
    """
    if isinstance(content, list):
        return "".join(
            part if isinstance(part, str) else part["text"]
            for part in content
            if isinstance(part, str) or part.get("type") in {"text", "output_text"}
        )
    if not isinstance(content, str | None):
        raise TypeError(f"content is a {type(content).__name__}")
    return content or ""


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    system = prompt.instructions
    if prompt.schema is not None:
        # write the schema into the prompt too, because some endpoints ignore response_format
        schema = json.dumps(prompt.schema, ensure_ascii=False)
        system += f"\n\nAnswer with one JSON object of this schema and nothing else:\n{schema}"
    parts = [
        f"# {item.title}\n{item.text}" if item.title else item.text for item in prompt.material
    ]
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "\n\n".join(parts)})
    if prompt.begun:
        messages.append({"role": "assistant", "content": prompt.begun})
        messages.append({"role": "user", "content": _CONTINUE})
    return messages


def _plain_schema(schema: Any) -> Any:
    """Return a schema for strict endpoints, with all fields required and no others allowed."""
    if isinstance(schema, list):
        return [_plain_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key in {"properties", "$defs"}:
            plain[key] = {name: _plain_schema(member) for name, member in value.items()}
        elif key not in _UNSUPPORTED:
            plain[key] = _plain_schema(value)
    if "properties" in plain:
        plain["required"] = list(plain["properties"])
        plain["additionalProperties"] = False
    return plain
