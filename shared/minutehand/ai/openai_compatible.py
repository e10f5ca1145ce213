"""Any endpoint that speaks OpenAI's chat completions: one client per process.

Repeats only what left no answer behind; all longer waiting is the job's, not the call's.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from minutehand.ai.endpoint import Endpoint, refusal
from minutehand.ai.errors import AnswerUnusable, CutShort, InputRefused, Unreachable
from minutehand.ai.language_model import Completion, OnText, Prompt, Usage, cost
from minutehand.queue.foreign import NoAnswer

MAX_ANSWER_BYTES: Final = 1_000_000
#: What reasoning models on servers of one's own say first.
_THOUGHT: Final = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
#: Keywords of JSON Schema that strict endpoints refuse, and no model needs.
_UNSAID: Final = frozenset({"title", "default", "maxLength", "minLength", "maxItems", "minItems"})
#: What an endpoint may not take; it is asked again without the first that it names.
_OPTIONAL: Final = ("response_format", "max_tokens")


class OpenAICompatible:
    """Speaks `POST {url}/chat/completions`.

    Args:
        url: Up to and with the version, as https://api.openai.com/v1.
        key: Sent as a bearer token; None for endpoints that ask for none.
        prices: US dollars per million tokens read and written.
        answer_seconds: Longest time for one answer, however lively it drips.
        attempts: Most requests for one call.
        sleep: Waits between them.

    References:
        https://platform.openai.com/docs/api-reference/chat/create
    """

    offline: Final = False

    def __init__(
        self,
        url: str,
        *,
        model: str,
        key: str | None = None,
        prices: tuple[float, float] | None = None,
        answer_seconds: float = 120.0,
        attempts: int = 2,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._model = model
        self._prices = prices
        self._within = answer_seconds
        self._endpoint = Endpoint(
            f"{url.rstrip('/')}/chat/completions",
            accept="application/json",
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
        completion = await self._endpoint.repeat(self._complete, prompt)
        if on_text is not None:
            on_text(completion.text)
        return completion

    async def aclose(self) -> None:
        """Close the connections."""
        await self._endpoint.aclose()

    async def _complete(self, prompt: Prompt) -> Completion:
        while True:
            try:
                return await self._ask(prompt)
            except InputRefused as error:
                # nothing was answered or charged: ask again in the endpoint's own dialect
                unknown = [
                    name
                    for name in _OPTIONAL
                    if error.status in {400, 422}
                    and name in str(error)
                    and name not in self._without
                ]
                if not unknown:
                    raise
                self._without.add(unknown[0])

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._model, "messages": _messages(prompt)}
        # newer models know it by its other name alone
        longest = "max_completion_tokens" if "max_tokens" in self._without else "max_tokens"
        body[longest] = prompt.most_tokens
        if prompt.schema is not None and "response_format" not in self._without:
            schema = {"name": prompt.name, "strict": True, "schema": _plain_schema(prompt.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def _ask(self, prompt: Prompt) -> Completion:
        try:
            answer = await self._endpoint.exchange(
                most_bytes=MAX_ANSWER_BYTES, within=self._within, json=self._body(prompt)
            )
        except NoAnswer as error:
            what = f"The language model {error}"
            if error.kind == "broken":
                raise CutShort(what, repeatable=True) from error
            # silence may hide an answer that is charged for: only what was never sent is safe
            raise Unreachable(what, repeatable=error.unsent) from error
        told = answer.object() or {}
        if answer.status != 200:
            raise refusal("The language model", answer.status, answer.headers, told)
        try:
            choice = told["choices"][0]
            said, finish = choice["message"], choice.get("finish_reason")
            text = said.get("content") or ""
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise AnswerUnusable(f"The answer of {self._model} is not as documented") from error
        usage = self._usage(told.get("usage") or {})
        if said.get("refusal") or finish == "content_filter":
            why = str(said.get("refusal") or "its content filter stopped it")[:300]
            raise InputRefused(f"{self._model} refused: {why}", usage=usage)
        if not text:
            raise AnswerUnusable(f"{self._model} returned an empty answer", usage=usage)
        return Completion(
            text=_THOUGHT.sub("", text, count=1),
            model=self._model,
            usage=usage,
            whole=finish != "length",
        )

    def _usage(self, told: Mapping[str, Any]) -> Usage:
        read, written = (
            value if isinstance(value := told.get(name), int) and 0 <= value < 10**7 else 0
            for name in ("prompt_tokens", "completion_tokens")
        )
        return Usage(read, written, cost(self._prices, read, written))


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
    """The schema as strict endpoints take it: every member named and none beside them."""
    if isinstance(schema, list):
        return [_plain_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key in {"properties", "$defs"}:
            plain[key] = {name: _plain_schema(each) for name, each in value.items()}
        elif key not in _UNSAID and not key.startswith("x-"):
            plain[key] = _plain_schema(value)
    if "properties" in plain:
        plain["required"] = list(plain["properties"])
        plain["additionalProperties"] = False
    return plain
