"""What a language model is to this project: a prompt in, a completion out.

openai_compatible.py asks one; engines.py makes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minutehand.ai.errors import AnswerUnusable


@dataclass(frozen=True, slots=True)
class Material:
    """A text that the model may draw on; strangers' words."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request.

    Attributes:
        name: What is asked for, in a word; the schema's name.
        instructions: How to do it; nothing a stranger wrote belongs in here.
        material: What to work on, the most important first.
        schema: JSON Schema of the answer; None asks for plain text.
        most_tokens: Most tokens of the answer.
    """

    name: str
    instructions: str
    material: Sequence[Material]
    schema: Mapping[str, Any] | None = None
    most_tokens: int = 2_000


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer.

    Attributes:
        cost_usd: What it cost; 0 without prices.
        whole: False when the model stopped at `most_tokens`.
    """

    text: str
    model: str
    cost_usd: float = 0.0
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
                f"The answer of {self.model} {why}", text=self.text, cost_usd=self.cost_usd
            ) from error


class LanguageModel(Protocol):
    """Writes answers. Cancelling a call's task ends the request itself."""

    @property
    def name(self) -> str:
        """The model, as outputs name it."""

    @property
    def offline(self) -> bool:
        """Whether there is none, and a script or nothing stands in."""

    async def complete(self, prompt: Prompt) -> Completion:
        """Answer `prompt`.

        Raises:
            LanguageModelError: By type, see errors.py.
        """

    async def aclose(self) -> None:
        """Close the connections."""
