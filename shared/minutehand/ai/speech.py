"""The interface of speech engines: a chunk of audio in, a transcript with times out.

speech_endpoint.py and speech_offline.py implement it, and engines.py selects one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

#: Audio format: one channel, 16,000 samples per second, 16 bits, little-endian.
SAMPLES_PER_SECOND: Final = 16_000
BYTES_PER_SECOND: Final = 2 * SAMPLES_PER_SECOND
#: Callback that gets the transcribed share of the audio, 0 to 1. Another thread may call the
#: callback, which must not raise.
OnShare = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Segment:
    """A few words that belong together, with times in seconds from the audio's beginning."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of a chunk of audio.

    Attributes:
        engine: Name of the engine, which results include.
        offline: True if the offline engine made the transcript.
        language: The language as the engine names it, or None if unknown.
    """

    segments: tuple[Segment, ...]
    engine: str
    offline: bool
    language: str | None = None


class SpeechToText(Protocol):
    """A speech engine. To stop a transcription, cancel the task that waits for it."""

    @property
    def name(self) -> str:
        """Name of the engine, which results include."""

    @property
    def offline(self) -> bool:
        """True if this is the offline engine."""

    async def transcribe(self, audio: bytes, *, on_share: OnShare | None = None) -> Transcript:
        """Transcribe `audio`, up to a few minutes of raw samples. Silence has no segments.

        Raises:
            LanguageModelError: See errors.py.
            ConfigurationError: No speech engine is configured or installed.
        """

    async def aclose(self) -> None:
        """Close the connections."""
