"""The offline ear: pocketsphinx with the English model of its own wheel, on this machine alone.

It knows American English read aloud with little noise; what it hears it hears the same each time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any, Final

from shared.ai.speech import BYTES_PER_SECOND, OnHeard, Segment, Transcript, check_sound
from shared.config import ConfigurationError

NAME: Final = "offline (pocketsphinx, English)"
#: Frames of the decoder in a second.
FRAMES: Final = 100
#: A pause this long ends a segment; so does this much talk.
PAUSE_SECONDS: Final = 0.3
MOST_SEGMENT_SECONDS: Final = 12.0
#: Fed to the decoder at once: how long a cancel waits.
STEP_BYTES: Final = BYTES_PER_SECOND // 4


class OfflineSpeechToText:
    """Hears with pocketsphinx, about ten times as fast as it is spoken, in a thread of its own."""

    name: Final = NAME
    offline: Final = True

    async def transcribe(self, sound: bytes, *, on_heard: OnHeard | None = None) -> Transcript:
        """Hear `sound`; see `SpeechToText.transcribe`."""
        check_sound(sound)
        stop = threading.Event()
        try:
            segments = await asyncio.to_thread(_hear, sound, on_heard, stop)
        finally:
            stop.set()  # cancelled: the thread ends at its next step
        return Transcript(tuple(segments), NAME, offline=True)

    async def aclose(self) -> None:
        """Nothing is open."""


def _hear(sound: bytes, on_heard: OnHeard | None, stop: threading.Event) -> list[Segment]:
    decoder = _decoder()
    decoder.start_utt()
    for start in range(0, len(sound), STEP_BYTES):
        if stop.is_set():
            return []
        decoder.process_raw(sound[start : start + STEP_BYTES])
        if on_heard is not None:
            on_heard(min(1.0, (start + STEP_BYTES) / len(sound)))
    decoder.end_utt()
    found = decoder.seg() or ()
    return join_words((part.word, part.start_frame, part.end_frame) for part in found)


def _decoder() -> Any:
    try:
        # 38 MB with its model: only who hears loads it, and not every deployment has it
        from pocketsphinx import Decoder
    except ImportError as error:
        raise ConfigurationError(
            "SPEECH_URL",
            "is not set, and pocketsphinx, which works offline, is not installed here",
            "https://api.openai.com/v1",
        ) from error
    return Decoder(samprate=16000, loglevel="FATAL")


def join_words(words: Iterable[tuple[str, int, int]]) -> list[Segment]:
    """Words with their first and last frames as segments, cut where the speaker pauses."""
    segments: list[Segment] = []
    said: list[str] = []
    begin = end = 0
    for word, first, last in words:
        if word.startswith(("<", "[", "+")):  # silence, noise, the ends of an utterance
            continue
        pauses = first - end >= PAUSE_SECONDS * FRAMES
        if said and (pauses or last - begin > MOST_SEGMENT_SECONDS * FRAMES):
            segments.append(Segment(begin / FRAMES, end / FRAMES, " ".join(said)))
            said = []
        if not said:
            begin = first
        said.append(word.partition("(")[0])  # other ways to say a word are numbered: read(2)
        end = last + 1
    if said:
        segments.append(Segment(begin / FRAMES, end / FRAMES, " ".join(said)))
    return segments
