"""What a language model is to this project: a prompt in, a completion out.

openai_compatible.py asks one; engines.py makes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

from minutehand.ai.errors import AnswerCutOff, AnswerUnusable

#: Where an object may begin in a text.
_OBJECT: Final = re.compile(r'\{(?=\s*["}])')
#: NaN and the infinities are no JSON: the field that has one says so.
_DECODER: Final = json.JSONDecoder(parse_constant=lambda _: None)


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
        """The JSON object of the answer, which may be in a fence or behind a sentence.

        Raises:
            AnswerCutOff: The answer ended at the most tokens allowed.
            AnswerUnusable: There is none in it.
        """
        for found in islice(_OBJECT.finditer(self.text), 20 if self.whole else 1):
            with suppress(ValueError, RecursionError):
                return _DECODER.raw_decode(self.text, found.start())[0]
        if not self.whole:
            raise AnswerCutOff(
                f"The answer of {self.model} was cut off at the most tokens allowed; "
                "LANGUAGE_MODEL_MOST_TOKENS is the limit",
                text=self.text,
            )
        raise AnswerUnusable(f"The answer of {self.model} holds no JSON object", text=self.text)


class LanguageModel(Protocol):
    """Writes answers. Cancelling a call's task ends the request itself."""

    @property
    def name(self) -> str:
        """The model, as outputs name it."""

    @property
    def offline(self) -> bool:
        """Whether there is none, and a script or nothing replaces it."""

    @property
    def most_tokens(self) -> int:
        """Most tokens of an answer that is asked for again because it was cut off."""

    async def complete(self, prompt: Prompt) -> Completion:
        """Answer `prompt`.

        Raises:
            LanguageModelError: By type, see errors.py.
        """

    async def aclose(self) -> None:
        """Close the connections."""
