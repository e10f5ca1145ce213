"""The interface of language models: a prompt in, an answer out, whole or as a stream.

openai_compatible.py implements it, engines.py builds it, and parsing.py parses its output.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self


@dataclass(frozen=True, slots=True)
class Material:
    """Input text for the model. The input text may come from strangers and is not trusted."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request.

    Attributes:
        name: One word that names the request. This word is also the name of the schema.
        instructions: The instructions, which must not contain text of strangers.
        material: Input texts, the most important first.
        schema: JSON Schema of the answer. None for plain text.
        most_tokens: Maximum tokens of the answer. None selects the model's limit.
        begun: Beginning of the answer. The model continues it.
    """

    name: str
    instructions: str
    material: Sequence[Material]
    schema: Mapping[str, Any] | None = None
    most_tokens: int | None = None
    begun: str = ""

    @classmethod
    def of(cls, text: Prompt | str) -> Prompt:
        """Return a prompt. A string becomes the input of a prompt without instructions."""
        return text if isinstance(text, Prompt) else cls("text", "", [Material("", text)])


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer.

    Attributes:
        cost_usd: Cost of the call. 0 without prices.
        whole: False if the answer is incomplete, for example at the token limit.
    """

    text: str
    model: str
    cost_usd: float = 0.0
    whole: bool = True


class CompletionStream:
    """A streamed answer. Iterate over the chunks, and close the stream to end the answer early.

    Closing the stream, or cancelling the task that iterates, ends the request and its connection.
    """

    def __init__(self, stream: AsyncGenerator[str], snapshot: Callable[[], Completion]) -> None:
        self._stream = stream
        self._snapshot = snapshot

    def __aiter__(self) -> AsyncIterator[str]:
        return self._stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the request if it has not ended."""
        await self._stream.aclose()

    @property
    def completion(self) -> Completion:
        """The answer so far and its cost. `whole` is true once the answer is complete."""
        return self._snapshot()


class LanguageModel(Protocol):
    """A language model. To end a request, cancel the task that waits for it."""

    @property
    def name(self) -> str:
        """Name of the model, which results include."""

    @property
    def offline(self) -> bool:
        """True if no model is configured."""

    @property
    def most_tokens(self) -> int:
        """Maximum tokens of an answer."""

    async def complete(self, prompt: Prompt) -> Completion:
        """Return the answer to `prompt`.

        Raises:
            LanguageModelError: See errors.py.
        """

    def stream(self, prompt: Prompt | str) -> CompletionStream:
        """Stream the answer to `prompt`. An endpoint that cannot stream yields one chunk.

        Raises:
            LanguageModelError: During iteration. The error's `text` is the part of the answer that
                arrived.
        """

    def cost_of(self, prompt: Prompt, text: str = "") -> float:
        """Estimate the cost of a call that ended before the endpoint sent token counts."""

    async def aclose(self) -> None:
        """Close the connections."""
