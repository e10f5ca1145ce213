"""Any endpoint that speaks OpenAI's chat completions: one client per process.

Repeats only what left no answer behind; all longer waiting is the job's, not the call's.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from minutehand.ai.endpoint import Endpoint
from minutehand.ai.errors import AnswerUnusable, InputRefused
from minutehand.ai.language_model import Completion, Prompt

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
        self._endpoint = Endpoint(
            f"{url.rstrip('/')}/chat/completions",
            name="The language model",
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

    async def complete(self, prompt: Prompt) -> Completion:
        """Answer `prompt`; see `LanguageModel.complete`."""
        while True:
            try:
                return await self._ask(prompt)
            except InputRefused as error:
                # nothing was answered or charged: ask again in the endpoint's own dialect
                named = [name for name in _OPTIONAL if name in str(error)]
                if error.status not in {400, 422} or not set(named) - self._without:
                    raise
                self._without.update(named)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._endpoint.aclose()

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
        told = await self._endpoint.post(json=self._body(prompt))
        try:
            choice = told["choices"][0]
            said, finish = choice["message"], choice.get("finish_reason")
            text = said.get("content") or ""
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise AnswerUnusable(f"The answer of {self._model} is not as documented") from error
        cost = self._cost(told.get("usage") or {})
        if said.get("refusal") or finish == "content_filter":
            why = str(said.get("refusal") or "its content filter stopped it")[:300]
            raise InputRefused(f"{self._model} refused: {why}", cost_usd=cost)
        if not text:
            raise AnswerUnusable(f"{self._model} returned an empty answer", cost_usd=cost)
        return Completion(
            text=_THOUGHT.sub("", text, count=1),
            model=self._model,
            cost_usd=cost,
            whole=finish != "length",
        )

    def _cost(self, usage: Mapping[str, Any]) -> float:
        read, written = (
            value if isinstance(value := usage.get(name), int) and 0 <= value < 10**7 else 0
            for name in ("prompt_tokens", "completion_tokens")
        )
        for_read, for_written = self._prices or (0.0, 0.0)
        return (read * for_read + written * for_written) / 1_000_000


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
        elif key not in _UNSAID:
            plain[key] = _plain_schema(value)
    if "properties" in plain:
        plain["required"] = list(plain["properties"])
        plain["additionalProperties"] = False
    return plain
