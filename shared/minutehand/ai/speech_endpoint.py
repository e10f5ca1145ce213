"""Any endpoint that speaks OpenAI's audio transcriptions: one client per process.

Repeats only what left no answer behind; all longer waiting is the job's, not the call's.
"""

from __future__ import annotations

import io
import logging
import wave
from collections.abc import Mapping
from typing import Any, Final

from minutehand.ai.endpoint import Endpoint
from minutehand.ai.errors import InputRefused
from minutehand.ai.speech import BYTES_PER_SECOND, SAMPLES_PER_SECOND, OnShare, Segment, Transcript
from minutehand.worker.serialization import says_something

logger = logging.getLogger(__name__)

MOST_SEGMENTS: Final = 2_000


class TranscriptionEndpoint(Endpoint):
    """Speaks `POST {url}/audio/transcriptions`.

    References:
        https://platform.openai.com/docs/api-reference/audio/createTranscription
    """

    def __init__(self, url: str, **options: Any) -> None:
        given = {"title": "Speech to text", "setting": "SPEECH_URL", **options}
        super().__init__(url, "/audio/transcriptions", **given)

    async def transcribe(self, sound: bytes, *, on_share: OnShare | None = None) -> Transcript:
        """Transcribe `sound`; see `SpeechToText.transcribe`.

        An endpoint without segments returns one for the whole chunk, as does one whose segments
        cannot be read: its words are paid for.
        """
        seconds = len(sound) / BYTES_PER_SECOND
        file = wav(sound)
        try:
            said = await self._send(file, "verbose_json")
        except InputRefused as error:
            # newer models know no segments and refuse to be asked for them
            if "response_format" not in str(error):
                raise
            logger.warning(
                "Speech to text is asked again without segments, which it refused",
                extra={"event": "speech.without", "reason": str(error)[:300]},
            )
            said = await self._send(file, "json")
        if on_share is not None:
            on_share(1.0)
        language = said.get("language")
        return Transcript(
            segments_of(said, seconds),
            self.name,
            offline=False,
            language=language[:40] if isinstance(language, str) and language else None,
        )

    async def _send(self, file: bytes, form: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": self.name, "response_format": form}
        if form == "verbose_json":
            fields["timestamp_granularities[]"] = ["segment"]
        said = await self.post(data=fields, files={"file": ("sound.wav", file, "audio/wav")})
        if not isinstance(said.get("text"), str):
            raise self._unusable(f"The answer of {self.name} is not a transcription")
        return said


def segments_of(said: Mapping[str, Any], seconds: float) -> tuple[Segment, ...]:
    """What was said, in order, inside a sound of so many seconds.

    Where a segment cannot be read, the text is one for the whole sound: times are lost, no words.
    """
    listed = said.get("segments")
    found, is_readable = [], True
    for each in (listed if isinstance(listed, list) else [])[:MOST_SEGMENTS]:
        try:
            start, end = float(each["start"]), float(each["end"])
            text = str.strip(each["text"])
        except (KeyError, TypeError, ValueError, OverflowError):
            is_readable = False
            continue
        if says_something(text) and start == start and end == end:
            start = round(min(max(start, 0.0), seconds), 3)
            # Whisper's sometimes end before they begin
            end = max(start, round(min(end, seconds), 3))
            found.append(Segment(start, end, text))
    whole = said["text"].strip()
    if says_something(whole) and not (found and is_readable):
        return (Segment(0.0, seconds, whole),)
    return tuple(sorted(found, key=lambda segment: segment.start))


def wav(sound: bytes) -> bytes:
    """Raw samples as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLES_PER_SECOND)
        writer.writeframes(sound)
    return file.getvalue()
