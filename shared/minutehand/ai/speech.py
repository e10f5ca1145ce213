"""The interface of speech engines, which return a transcript with times for a chunk of audio.

speech_endpoint.py and speech_offline.py implement the interface. engines.py selects an engine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

#: The audio has one channel and 16,000 samples per second, each of 16 bits, little-endian.
SAMPLES_PER_SECOND = 16_000
BYTES_PER_SECOND = 2 * SAMPLES_PER_SECOND
#: Callback with the share of the audio that is already transcribed, from 0 to 1. Any thread may
#: call the callback. The callback must not raise an error.
OnShare = Callable[[float], None]


@dataclass(frozen=True)
class Segment:
    """A part of a transcript. `start` and `end` are seconds from the beginning of the audio."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """The transcript of a chunk of audio.

    Attributes:
        engine: Name of the speech engine.
        offline: True if the offline engine made the transcript.
        language: The engine's own name of the spoken language. `language` is None if the engine
            does not recognize the language.
    """

    segments: tuple[Segment, ...]
    engine: str
    offline: bool
    language: str | None = None


class SpeechToText(Protocol):
    """A speech engine. To stop a transcription, cancel the task that waits for it."""

    async def transcribe(self, audio: bytes, *, on_share: OnShare | None = None) -> Transcript:
        """Transcribe `audio`, which contains up to some minutes of raw samples.

        Silence produces no segments of the transcript.

        Raises:
            LanguageModelError: See errors.py.
            ConfigurationError: No speech engine is configured or installed.
        """

    async def aclose(self) -> None:
        """Close the connections."""
