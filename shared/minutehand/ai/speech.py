"""What speech to text is to this project: a chunk of sound in, what was said and when out.

speech_endpoint.py and speech_offline.py listen; engines.py picks one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

#: What every chunk of sound is: one channel, 16,000 samples a second, 16 bits, little-endian.
SAMPLES_PER_SECOND: Final = 16_000
BYTES_PER_SECOND: Final = 2 * SAMPLES_PER_SECOND
#: Called with the share transcribed so far, 0 to 1; may be called from another thread, and never
#: raises.
OnShare = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Segment:
    """A few words that belong together; seconds from the sound's beginning."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said, in order.

    Attributes:
        engine: What listened, as outputs name it.
        offline: Whether that was the offline one.
        language: What was spoken, as the engine names it; None when it does not say.
    """

    segments: tuple[Segment, ...]
    engine: str
    offline: bool
    language: str | None = None


class SpeechToText(Protocol):
    """Transcribes speech. Cancelling a call's task ends the work itself."""

    @property
    def name(self) -> str:
        """The engine, as outputs name it."""

    @property
    def offline(self) -> bool:
        """Whether this is the offline one."""

    async def transcribe(self, sound: bytes, *, on_share: OnShare | None = None) -> Transcript:
        """Transcribe `sound`, raw samples of some minutes at most; silence gives no segments.

        Raises:
            LanguageModelError: By type, see errors.py.
            ConfigurationError: This deployment has no speech to text.
        """

    async def aclose(self) -> None:
        """Close the connections."""
