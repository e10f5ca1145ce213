"""Any endpoint that speaks OpenAI's chat completions: one client per process.

Repeats only what left no answer behind; all longer waiting is the job's, not the call's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from minutehand.ai.endpoint import Endpoint
from minutehand.ai.errors import AnswerCutOff, AnswerUnusable, InputRefused
from minutehand.ai.language_model import Completion, Prompt

#: What reasoning models on servers of one's own say first.
_THOUGHT: Final = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
#: Keywords of JSON Schema that strict endpoints refuse; the prompt has all that matter.
_UNSAID: Final = frozenset({"title", "default", "maxLength", "minLength", "maxItems", "minItems"})
#: What an endpoint may not take, by words of its refusal; it is asked again without it.
_OPTIONAL: Final = {"response_format": "response_format|json_schema", "max_tokens": "max_tokens"}
_CALLED: Final = "answered with a call of a tool; there are none, only its words can be used"


class OpenAICompatible(Endpoint):
    """Speaks `POST {url}/chat/completions`.

    Args:
        prices: US dollars per million tokens read and written.
        most_tokens: Of an answer that is asked for again because it was cut off.

    References:
        https://platform.openai.com/docs/api-reference/chat/create
    """

    def __init__(
        self,
        url: str,
        *,
        prices: tuple[float, float] | None = None,
        most_tokens: int = 16_000,
        **options: Any,
    ) -> None:
        super().__init__(url, "/chat/completions", title="The language model", **options)
        self.most_tokens = most_tokens
        self._prices = prices
        # what this endpoint turned out not to take
        self._without: set[str] = set()

    async def complete(self, prompt: Prompt) -> Completion:
        """Answer `prompt`; see `LanguageModel.complete`."""
        while True:
            sent_without = set(self._without)  # another call may find out meanwhile
            try:
                return await self._ask(prompt)
            except InputRefused as error:
                # nothing was answered or charged: ask again in the endpoint's own dialect
                named = [name for name, words in _OPTIONAL.items() if re.search(words, str(error))]
                if error.status not in {400, 422} or not set(named) - sent_without:
                    raise
                self._without.update(named)

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name, "messages": _messages(prompt)}
        # newer models know it by its other name alone
        longest = "max_completion_tokens" if "max_tokens" in self._without else "max_tokens"
        body[longest] = prompt.most_tokens
        if prompt.schema is not None and "response_format" not in self._without:
            schema = {"name": prompt.name, "strict": True, "schema": _plain_schema(prompt.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def _ask(self, prompt: Prompt) -> Completion:
        given = await self.post(json=self._body(prompt))
        usage = given.get("usage")
        cost = self._cost(usage if isinstance(usage, dict) else {})
        try:
            choice = given["choices"][0]
            said, finish = choice["message"], choice.get("finish_reason")
            text, refusal = _text(said.get("content")), said.get("refusal")
            is_call = bool(said.get("tool_calls") or said.get("function_call"))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            why = f"The answer of {self.name} is not as documented"
            raise AnswerUnusable(why, cost_usd=cost) from error
        if refusal or finish == "content_filter":
            why = str(refusal or "its content filter stopped it")[:300]
            raise InputRefused(f"{self.name} refused: {why}", cost_usd=cost)
        if finish == "length" and not text:
            why = f"{self.name} used up its {prompt.most_tokens} tokens before it answered"
            raise AnswerCutOff(why, cost_usd=cost)
        if not text:
            why = _CALLED if is_call else "returned an empty answer"
            raise AnswerUnusable(f"{self.name} {why}", cost_usd=cost)
        return Completion(
            text=_THOUGHT.sub("", text, count=1),
            model=self.name,
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


def _text(content: Any) -> str:
    """What a message says: a text, or the texts among its parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str | None):
        raise TypeError(f"content is a {type(content).__name__}")
    return content or ""


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    system = prompt.instructions
    if prompt.schema is not None:
        # said as well as set: not every endpoint obeys response_format
        schema = json.dumps(prompt.schema, ensure_ascii=False)
        system += f"\n\nAnswer with one JSON object of this schema and nothing else:\n{schema}"
    texts = [f"# {part.title}\n{part.text}" for part in prompt.material]
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n\n".join(texts)}]


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
