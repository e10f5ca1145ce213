"""The interface of speech to text: a chunk of sound in, a transcript with times out.

speech_endpoint.py and speech_offline.py implement it, and engines.py selects one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

#: Format of sound: one channel, 16,000 samples per second, 16 bits, little-endian.
SAMPLES_PER_SECOND: Final = 16_000
BYTES_PER_SECOND: Final = 2 * SAMPLES_PER_SECOND
#: Called with the share transcribed so far, 0 to 1. It may be called from another thread, and must
#: not raise.
OnShare = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Segment:
    """A few words that belong together, with times in seconds from the beginning."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of a sound.

    Attributes:
        engine: Name of the engine for outputs.
        offline: Whether it was the offline engine.
        language: The language in the engine's notation, or None if unknown.
    """

    segments: tuple[Segment, ...]
    engine: str
    offline: bool
    language: str | None = None


class SpeechToText(Protocol):
    """A speech engine. Cancelling the task of a call ends the work."""

    @property
    def name(self) -> str:
        """Name of the engine for outputs."""

    @property
    def offline(self) -> bool:
        """True if this is the offline engine."""

    async def transcribe(self, sound: bytes, *, on_share: OnShare | None = None) -> Transcript:
        """Transcribe `sound`, raw samples of up to some minutes. Silence has no segments.

        Raises:
            LanguageModelError: See errors.py.
            ConfigurationError: This deployment has no speech to text.
        """

    async def aclose(self) -> None:
        """Close the connections."""
