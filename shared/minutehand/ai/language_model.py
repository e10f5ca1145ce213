"""The protocol of a language model: a prompt in, streamed text, a completion out.

openai_compatible.py and offline.py write them; engines.py picks one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from minutehand.ai.errors import AnswerUnusable

#: Schema keywords that speak to the offline model alone begin so.
HINT: Final = "x-offline"
#: Called with each piece of text as it is written; cheap, and never raises.
OnText = Callable[[str], None]


def hinted(**hint: Any) -> dict[str, Any]:
    """What a field's schema says so that the offline model can fill it, as `json_schema_extra`."""
    return {HINT: hint}


@dataclass(frozen=True, slots=True)
class Material:
    """A text the model may draw on.

    Attributes:
        derived: Whether an earlier answer said so, and not a person.
    """

    title: str
    text: str
    derived: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request.

    Attributes:
        name: What is asked for, in a word; the schema's name.
        instructions: How to do it; nothing a stranger wrote belongs in here.
        material: What to work on, the most important first; strangers' words.
        schema: JSON Schema of the answer; None asks for plain text.
        most_tokens: Most tokens of the answer.
        seed: The same seed and prompt give the same offline answer; online, a wish.
    """

    name: str
    instructions: str
    material: Sequence[Material]
    schema: Mapping[str, Any] | None = None
    most_tokens: int = 2_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took; `estimated` when the model did not say."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer.

    Attributes:
        offline: Whether no language model was asked at all; `model` then says the same.
        whole: False when the model stopped at `most_tokens`.
    """

    text: str
    model: str
    usage: Usage = field(default_factory=Usage)
    offline: bool = False
    whole: bool = True

    def data(self) -> Any:
        """The answer as JSON; a fence around it, as some models write, is taken off.

        Raises:
            AnswerUnusable: It is none, or was cut off.
        """
        text = self.text.strip()
        if text.startswith("```"):
            text = text.partition("\n")[2].rpartition("```")[0]
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            why = "is not valid JSON" if self.whole else "was cut off at the most tokens allowed"
            raise AnswerUnusable(
                f"The answer of {self.model} {why}", text=self.text, usage=self.usage
            ) from error


class LanguageModel(Protocol):
    """Writes answers. Cancelling a call's task ends the request itself."""

    @property
    def name(self) -> str:
        """The model, as outputs name it."""
        ...

    @property
    def offline(self) -> bool:
        """Whether this is the offline one."""
        ...

    async def complete(self, prompt: Prompt, *, on_text: OnText | None = None) -> Completion:
        """Answer `prompt`; `on_text` gets the text piece by piece while it is written.

        Raises:
            LanguageModelError: By type, see errors.py; `.text` keeps what had come.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def count_tokens(text: str) -> int:
    """About how many tokens a text has: four bytes each. Only the model knows exact counts."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def cost(prices: tuple[float, float] | None, read: int, written: int) -> float | None:
    """US dollars by `prices` per million tokens; None without prices."""
    if prices is None:
        return None
    return (read * prices[0] + written * prices[1]) / 1_000_000
