"""What a language model is to this project: a prompt in, a completion out, whole or in pieces.

openai_compatible.py asks one; engines.py makes it; reading.py makes a shape of its words.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self


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

    @classmethod
    def of(cls, text: Prompt | str) -> Prompt:
        """The prompt; a text is what a person says to a model without instructions."""
        return text if isinstance(text, Prompt) else cls("text", "", [Material("", text)])


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


class Answering:
    """An answer as it comes: iterate over its pieces; to leave it early, close it.

    Cancelling the task that iterates, like closing, ends the request and its connection.
    """

    def __init__(self, pieces: AsyncGenerator[str], so_far: Callable[[], Completion]) -> None:
        self._pieces = pieces
        self._so_far = so_far

    def __aiter__(self) -> AsyncIterator[str]:
        return self._pieces

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the request, if it has not ended."""
        await self._pieces.aclose()

    @property
    def completion(self) -> Completion:
        """What came so far, and what it costs; `whole` once it has ended."""
        return self._so_far()


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

    def stream(self, prompt: Prompt | str) -> Answering:
        """Answer `prompt` in pieces, as they come; an endpoint that can't gives one.

        Raises:
            LanguageModelError: By type, where it is iterated over; its `text` is what came before.
        """

    def cost_of(self, prompt: Prompt, text: str = "") -> float:
        """About what a call costs whose figures did not come, as one that was cut off."""

    async def aclose(self) -> None:
        """Close the connections."""
