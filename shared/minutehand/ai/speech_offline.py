"""Offline speech to text by pocketsphinx, with the English model that its package contains.

The model recognizes American English with little noise. The same audio always has the same result.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from minutehand.ai.errors import LanguageModelError
from minutehand.ai.speech import BYTES_PER_SECOND, OnShare, Segment, Transcript
from minutehand.ai.subprocess_env import subprocess_environment
from minutehand.config import ConfigurationError

NAME = "offline (pocketsphinx, English)"
#: Frames of the decoder per second of audio.
FRAMES = 100
#: Seconds of a pause that ends a segment, and maximum seconds of a segment.
PAUSE_SECONDS = 0.3
MAX_SEGMENT_SECONDS = 12.0
#: Maximum CPU time for a chunk of audio, which is MIN_SECONDS, plus SECONDS_PER_SECOND for each
#: second of audio. The limit is CPU time, because wall time depends on other processes.
MIN_SECONDS = 60
SECONDS_PER_SECOND = 5
MAX_LINE_BYTES = 1_000_000


#: A recognized word, with the numbers of its first and last decoder frame.
Word = tuple[str, int, int]


class OfflineSpeechToText:
    """Transcribes audio in a tenth to a fifth of the audio's duration, with one process per chunk.

    A thread would block the whole worker, because pocketsphinx does not release Python's global
    lock. At most one process per CPU core runs at a time.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(os.cpu_count() or 1)

    async def transcribe(self, audio: bytes, *, on_share: OnShare | None = None) -> Transcript:
        """Transcribe `audio`, see `SpeechToText.transcribe`."""
        seconds = len(audio) / BYTES_PER_SECOND
        # check for the package, which is optional because pocketsphinx and its model have 38 MB
        if find_spec("pocketsphinx") is None:
            raise ConfigurationError(
                "SPEECH_URL",
                "is not set, and pocketsphinx, which works offline, is not installed here",
                "https://api.openai.com/v1",
            )
        async with self._free:
            words = await _recognised(
                audio, MIN_SECONDS + SECONDS_PER_SECOND * int(seconds), on_share
            )
        return Transcript(tuple(join_words(words)), NAME, offline=True, language="en")

    async def aclose(self) -> None:
        """Do nothing."""


async def _recognised(audio: bytes, seconds: int, on_share: OnShare | None) -> list[Word]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("speech_process.py")),
        str(os.getpid()),
        str(seconds),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=MAX_LINE_BYTES,
        env=subprocess_environment(),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    words: list[Word] | None = None
    try:
        with contextlib.suppress(ConnectionError):  # the process died, and its exit code shows why
            child.stdin.write(audio)
            await child.stdin.drain()
        child.stdin.close()
        async for line in child.stdout:
            message = json.loads(line)
            if "words" in message:
                words = message["words"]
            elif on_share is not None:
                on_share(message["done"])
        code = await child.wait()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())
    if words is None:
        text = f"Offline speech recognition ended with {code}"
        raise LanguageModelError(text, code="failed", vendor="Speech to text")
    return words


def join_words(words: Iterable[Word]) -> list[Segment]:
    """Join words to segments, which end at pauses."""
    segments: list[Segment] = []
    spoken: list[str] = []
    begin = end = 0
    for word, first, last in words:
        # a marker of silence, of noise, or of an end
        if word.startswith(("<", "[", "+")):
            continue
        pauses = first - end >= PAUSE_SECONDS * FRAMES
        if spoken and (pauses or last - begin > MAX_SEGMENT_SECONDS * FRAMES):
            segments.append(Segment(begin / FRAMES, end / FRAMES, " ".join(spoken)))
            spoken = []
        if not spoken:
            begin = first
        end = last + 1
        # pocketsphinx appends a number to a word's second and later pronunciations, as in read(2)
        spoken.append(word.partition("(")[0])
    if spoken:
        segments.append(Segment(begin / FRAMES, end / FRAMES, " ".join(spoken)))
    return segments
