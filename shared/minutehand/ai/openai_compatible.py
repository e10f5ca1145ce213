"""Any endpoint that speaks OpenAI's chat completions: one client per process.

Repeats only what was certainly not charged; all longer waiting is the job's, not the call's.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final, Literal

from minutehand.ai.endpoint import MAX_ANSWER_BYTES, Endpoint
from minutehand.ai.errors import AnswerCutOff, AnswerUnusable, InputRefused, LanguageModelError
from minutehand.ai.language_model import Answering, Completion, Prompt
from minutehand.worker.serialization import clean_text

logger = logging.getLogger(__name__)

#: What reasoning models on servers of one's own say first.
_THINKS, _THOUGHT = "<think>", "</think>"
#: Keywords of JSON Schema that strict endpoints refuse; the prompt has all that matter.
_UNSAID: Final = frozenset({"title", "default", "maxLength", "minLength", "maxItems", "minItems"})
#: What an endpoint may not take, by words of its refusal; it is asked again without it.
_OPTIONAL: Final = {
    "response_format": "response_format|json_schema",
    "max_tokens": "max_tokens",
    "stream_options": "stream_options|include_usage",
    "stream": r"\bstream(?:ing)?\b",
}
_CALLED: Final = "is a call of a tool; there are none, only words can be used"
#: Characters of a token, where an answer was cut off before its figures came.
_CHARACTERS_A_TOKEN: Final = 4


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
        given = {"title": "The language model", "setting": "LANGUAGE_MODEL_URL", **options}
        super().__init__(url, "/chat/completions", **given)
        self.most_tokens = most_tokens
        self._prices = prices

    async def complete(self, prompt: Prompt) -> Completion:
        """Answer `prompt`; see `LanguageModel.complete`."""
        async with self.stream(prompt) as answering:
            async for _ in answering:
                pass
        return answering.completion

    def stream(self, prompt: Prompt | str) -> Answering:
        """Answer `prompt` piece by piece; see `LanguageModel.stream`."""
        prompt = Prompt.of(prompt)
        said = _Said(self, prompt)
        return Answering(self._pieces(prompt, said), said.completion)

    def cost_of(self, prompt: Prompt, text: str = "") -> float:
        """About what a call costs whose figures did not come; see `LanguageModel.cost_of`."""
        read = sum(len(each["content"]) for each in _messages(prompt))
        return self.priced(read / _CHARACTERS_A_TOKEN, len(text) / _CHARACTERS_A_TOKEN)

    def priced(self, read: float, written: float) -> float:
        """What so many tokens cost."""
        for_read, for_written = self._prices or (0.0, 0.0)
        return (read * for_read + written * for_written) / 1_000_000

    async def _pieces(self, prompt: Prompt, said: _Said) -> AsyncGenerator[str]:
        """The pieces of an answer, asked for in the endpoint's own dialect."""
        without: set[str] = set()
        while True:
            try:
                async with aclosing(self.objects(json=self._body(prompt, without))) as given:
                    async for each in given:
                        if piece := said.add(each):
                            yield piece
                if piece := said.end():
                    yield piece
                return
            except InputRefused as error:
                # nothing was answered or charged: ask again without what it does not take
                named = {name for name, words in _OPTIONAL.items() if re.search(words, str(error))}
                if error.status not in {400, 422} or not named - without:
                    raise
                without |= named
                logger.warning(
                    "The language model is asked again without options that it refused",
                    extra={"event": "model.without", "options": sorted(without)},
                )
            except LanguageModelError as error:
                if said.words.length:
                    # words came before it failed
                    error.charged, error.text = True, error.text or said.words.text
                    error.cost_usd = error.cost_usd or said.cost_usd
                raise

    def _body(self, prompt: Prompt, without: set[str]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name, "messages": _messages(prompt)}
        # newer models know it by its other name alone
        longest = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
        body[longest] = prompt.most_tokens
        if prompt.schema is not None and "response_format" not in without:
            schema = {"name": prompt.name, "strict": True, "schema": _plain_schema(prompt.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if "stream" not in without:
            body["stream"] = True
            if "stream_options" not in without:
                body["stream_options"] = {"include_usage": True}
        return body


class _Words:
    """Words as they come, without the thought that may be said before them."""

    def __init__(self) -> None:
        self._all: list[str] = []
        self._shown: list[str] = []
        #: What is not yet known to be a thought or not, or of a thought what may end it.
        self._held = ""
        self._state: Literal["begins", "thinks", "ends", "speaks"] = "begins"
        self.length = 0

    @property
    def raw(self) -> str:
        """All of it."""
        return "".join(self._all)

    @property
    def text(self) -> str:
        """What is no thought; all of it where a thought does not end, which may hold the answer."""
        return self.raw if self._state == "thinks" else "".join(self._shown)

    def add(self, piece: str, *, is_last: bool = False) -> str:
        """Add a piece; what can be shown now and could not before."""
        if piece:
            self._all.append(piece)
            self.length += len(piece)
        self._held += piece
        if self._state == "begins":
            begins = self._held.lstrip()
            if len(begins) < len(_THINKS) and _THINKS.startswith(begins) and not is_last:
                return ""
            self._state = "thinks" if begins.startswith(_THINKS) else "speaks"
        if self._state == "thinks":
            _, end, behind = self._held.partition(_THOUGHT)
            self._held = behind if end else self._held[-len(_THOUGHT) :]
            self._state = "ends" if end else "thinks"
        if self._state == "ends" and (behind := self._held.lstrip()):
            self._held, self._state = behind, "speaks"
        if self._state != "speaks":
            return ""
        new, self._held = self._held, ""
        self._shown.append(new)
        return new


class _Said:
    """What an endpoint has answered so far, whole or in pieces."""

    def __init__(self, model: OpenAICompatible, prompt: Prompt) -> None:
        self._model = model
        self._prompt = prompt
        self.words = _Words()
        self._called = ""
        self._refusal = ""
        self._finish: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._has_ended = self._has_choice = False

    def add(self, given: Mapping[str, Any]) -> str:
        """Take in an object of the answer; what it adds to the words that can be shown."""
        if not given:
            self._has_ended = True
            return ""
        if isinstance(usage := given.get("usage"), Mapping):
            self._usage = usage
        try:
            said = [
                self._add_choice(choice)
                for choice in given.get("choices") or ()
                if str(choice.get("index") or 0) == "0"
            ]
        except (TypeError, AttributeError, KeyError) as error:
            raise self._unusable("is not as documented") from error
        if self.words.length + len(self._called) > MAX_ANSWER_BYTES:
            raise self._unusable(f"is longer than {MAX_ANSWER_BYTES} letters")
        return self.words.add("".join(said))

    def _add_choice(self, choice: Mapping[str, Any]) -> str:
        whole = choice.get("message")
        said = whole if whole is not None else choice["delta"]
        self._has_choice = True
        self._has_ended |= whole is not None
        if finish := choice.get("finish_reason"):
            self._finish, self._has_ended = str(finish), True
        if said is None:
            return ""
        self._refusal += str(said.get("refusal") or "")
        calls = said.get("tool_calls") or [{"function": said.get("function_call") or {}}]
        for call in calls:
            if call.get("index", 0) == 0:
                self._called += str((call.get("function") or {}).get("arguments") or "")
        return clean_text(_text(said.get("content")))

    def end(self) -> str:
        """The rest of the words; LanguageModelError where there are none that can be used."""
        name, cost = self._model.name, self.cost_usd
        if not self._has_choice:
            raise self._unusable("is not as documented")
        if self._refusal or self._finish == "content_filter":
            why = (self._refusal or "its content filter stopped it")[:300]
            raise InputRefused(f"{name} refused: {why}", cost_usd=cost, charged=True)
        if not self._has_ended:
            what = f"{name} ended its answer early"
            raise LanguageModelError(what, code="cut_short", charged=True, cost_usd=cost)
        rest = ""
        if not self.words.raw.strip():
            if self._finish == "length":
                why = f"{name} used up its {self._prompt.most_tokens} tokens before it answered"
                raise AnswerCutOff(why, cost_usd=cost)
            if not self._called.lstrip().startswith("{"):
                is_call = bool(self._called) or self._finish in {"tool_calls", "function_call"}
                raise self._unusable(_CALLED if is_call else "is empty")
            # some models answer a schema as if it were a tool's
            rest = self._called
        return self.words.add(rest, is_last=True)

    def completion(self) -> Completion:
        """The answer as far as it came."""
        return Completion(
            text=self.words.text,
            model=self._model.name,
            cost_usd=self.cost_usd,
            whole=self._has_ended and self._finish != "length",
        )

    @property
    def cost_usd(self) -> float:
        """By the endpoint's figures; without them, by the length of what came."""
        if self._usage is None:
            return self._model.cost_of(self._prompt, self.words.raw)
        read, written = (
            value if isinstance(value := self._usage.get(name), int) and 0 <= value < 10**7 else 0
            for name in ("prompt_tokens", "completion_tokens")
        )
        return self._model.priced(read, written)

    def _unusable(self, how: str) -> AnswerUnusable:
        what = f"The answer of {self._model.name} {how}"
        return AnswerUnusable(what, cost_usd=self.cost_usd, text=self.words.text)


def _text(content: Any) -> str:
    """What a message says: a text, or the texts among its parts."""
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
        # said as well as set: not every endpoint obeys response_format
        schema = json.dumps(prompt.schema, ensure_ascii=False)
        system += f"\n\nAnswer with one JSON object of this schema and nothing else:\n{schema}"
    texts = [
        f"# {each.title}\n{each.text}" if each.title else each.text for each in prompt.material
    ]
    user = {"role": "user", "content": "\n\n".join(texts)}
    return [{"role": "system", "content": system}, user] if system else [user]


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
