"""Offline speech to text: pocketsphinx with the English model of its wheel, on this machine alone.

It knows American English read aloud with little noise; the same sound gives the same text each
time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from minutehand.ai.errors import LanguageModelError
from minutehand.ai.speech import BYTES_PER_SECOND, OnShare, Segment, Transcript
from minutehand.ai.subprocess_env import own_environment
from minutehand.config import ConfigurationError

NAME: Final = "offline (pocketsphinx, English)"
#: Frames of the decoder in a second.
FRAMES: Final = 100
#: A pause this long ends a segment; so does this much talk.
PAUSE_SECONDS: Final = 0.3
MOST_SEGMENT_SECONDS: Final = 12.0
#: Processor time for a chunk: this, and this many times its length on a slow machine. The clock
#: says nothing: others run here too.
LEAST_SECONDS: Final = 60
SECONDS_EACH: Final = 5
MOST_LINE_BYTES: Final = 1_000_000


class Recognised(NamedTuple):
    """A word as the decoder gives it: its first and last frames."""

    word: str
    first: int
    last: int


class OfflineSpeechToText:
    """Transcribes five to ten times as fast as speech, in one process per chunk.

    A process, since pocketsphinx holds Python's lock while it works: in a thread it would make
    the whole worker wait. At most one for each core at a time.
    """

    name: Final = NAME
    offline: Final = True

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(os.cpu_count() or 1)

    async def transcribe(self, sound: bytes, *, on_share: OnShare | None = None) -> Transcript:
        """Transcribe `sound`; see `SpeechToText.transcribe`."""
        seconds = len(sound) / BYTES_PER_SECOND
        # 38 MB with its model: not every deployment has it
        if find_spec("pocketsphinx") is None:
            raise ConfigurationError(
                "SPEECH_URL",
                "is not set, and pocketsphinx, which works offline, is not installed here",
                "https://api.openai.com/v1",
            )
        async with self._free:
            words = await _recognised(sound, LEAST_SECONDS + SECONDS_EACH * int(seconds), on_share)
        return Transcript(tuple(join_words(words)), NAME, offline=True, language="en")

    async def aclose(self) -> None:
        """Nothing is open."""


async def _recognised(sound: bytes, seconds: int, on_share: OnShare | None) -> list[Recognised]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("speech_process.py")),
        str(os.getpid()),
        str(seconds),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=MOST_LINE_BYTES,
        env=own_environment(),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    words: list[Recognised] | None = None
    try:
        with contextlib.suppress(ConnectionError):  # it died: its end says more
            child.stdin.write(sound)
            await child.stdin.drain()
        child.stdin.close()
        async for line in child.stdout:
            given = json.loads(line)
            if "words" in given:
                words = [Recognised(*each) for each in given["words"]]
            elif on_share is not None:
                on_share(given["done"])
        code = await child.wait()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())
    if words is None:
        what = f"Offline speech recognition ended with {code}"
        raise LanguageModelError(what, code="failed", vendor="Speech to text")
    return words


def join_words(words: Iterable[Recognised]) -> list[Segment]:
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
        end = last + 1
        # other ways to say a word are numbered: read(2)
        said.append(word.partition("(")[0])
    if said:
        segments.append(Segment(begin / FRAMES, end / FRAMES, " ".join(said)))
    return segments
