"""The interface of language models, which return the answer to a prompt whole or as a stream.

openai_compatible.py implements the interface, engines.py creates the model, and parsing.py parses
the model's answers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self


@dataclass(frozen=True)
class Material:
    """Input text for the model. The text is not trusted, because strangers may have written it."""

    title: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """One request to a language model.

    Attributes:
        name: One word that names the kind of request and the answer's JSON Schema.
        instructions: Instructions for the model, without any text that strangers wrote.
        material: Input texts for the model, the most important text first.
        schema: JSON Schema of the answer. `schema` is None for plain text.
        begun: Beginning of an earlier answer, which the model is asked to continue.
    """

    name: str
    instructions: str
    material: Sequence[Material]
    schema: Mapping[str, Any] | None = None
    begun: str = ""

    @classmethod
    def of(cls, text: Prompt | str) -> Prompt:
        """Return a prompt. A string becomes the input text of a prompt without instructions."""
        return text if isinstance(text, Prompt) else cls("text", "", [Material("", text)])


@dataclass(frozen=True)
class Completion:
    """An answer of a language model.

    Attributes:
        cost_usd: Cost of the call in US dollars. The cost is 0 if the prices are unknown.
        whole: False if the answer is incomplete, for example because the answer reached the token
            limit.
    """

    text: str
    model: str
    cost_usd: float = 0.0
    whole: bool = True


class CompletionStream:
    """A streamed answer, as an iterator of text chunks. To end the answer early, close the stream.

    When the stream is closed, or the task that reads the stream is cancelled, the client ends the
    request and closes the connection.
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
        """End the request, unless it has ended."""
        await self._stream.aclose()

    @property
    def completion(self) -> Completion:
        """The answer so far, and its cost. `whole` is true when the answer is complete."""
        return self._snapshot()


class LanguageModel(Protocol):
    """A language model. To end a request, cancel the task that waits for it."""

    @property
    def name(self) -> str:
        """Name of the model, for the results that store it."""

    @property
    def offline(self) -> bool:
        """True if no model is configured."""

    def stream(self, prompt: Prompt | str) -> CompletionStream:
        """Stream the answer to `prompt`. If the endpoint cannot stream, the answer is one chunk.

        Raises:
            LanguageModelError: The call failed during the iteration. The error's `text` is the part
                of the answer that arrived.
        """

    def cost_of(self, prompt: Prompt, text: str = "") -> float:
        """Estimate the cost of a call that ended before the endpoint returned its token counts."""

    async def aclose(self) -> None:
        """Close the connections."""
