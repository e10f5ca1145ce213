"""The interface of speech engines, which return a transcript with times for a chunk of audio.

speech_endpoint.py and speech_offline.py implement the interface. engines.py selects an engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

#: Audio format: one channel, 16,000 samples per second, 16 bits, little-endian.
SAMPLES_PER_SECOND: Final = 16_000
BYTES_PER_SECOND: Final = 2 * SAMPLES_PER_SECOND
#: Function that gets the share of the audio that is transcribed, from 0 to 1. Another thread may
#: call the function, which must not raise an error.
OnShare = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Segment:
    """Some words that belong together, with times in seconds from the beginning of the audio."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of a chunk of audio.

    Attributes:
        engine: Name of the engine, which results contain.
        offline: True if the offline engine made the transcript.
        language: Name of the language in the words of the engine. `language` is None if the
            engine does not recognize it.
    """

    segments: tuple[Segment, ...]
    engine: str
    offline: bool
    language: str | None = None


class SpeechToText(Protocol):
    """A speech engine. To stop a transcription, cancel the task that waits for it."""

    @property
    def name(self) -> str:
        """Name of the engine, which results contain."""

    @property
    def offline(self) -> bool:
        """True if the engine recognizes speech offline, without a call of a service."""

    async def transcribe(self, audio: bytes, *, on_share: OnShare | None = None) -> Transcript:
        """Transcribe `audio`: up to some minutes of raw samples.

        Silence produces no segments of the transcript.

        Raises:
            LanguageModelError: See errors.py.
            ConfigurationError: No speech engine is configured or installed.
        """

    async def aclose(self) -> None:
        """Close the connections."""
