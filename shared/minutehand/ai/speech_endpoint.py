"""Any endpoint that speaks OpenAI's audio transcriptions: one client per process.

Repeats only what left no answer behind; all longer waiting is the job's, not the call's.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping
from typing import Any, Final

from minutehand.ai.endpoint import Endpoint
from minutehand.ai.errors import AnswerUnusable, InputRefused
from minutehand.ai.speech import BYTES_PER_SECOND, SAMPLES_PER_SECOND, OnShare, Segment, Transcript

MOST_SEGMENTS: Final = 2_000


class TranscriptionEndpoint(Endpoint):
    """Speaks `POST {url}/audio/transcriptions`.

    References:
        https://platform.openai.com/docs/api-reference/audio/createTranscription
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, "/audio/transcriptions", title="Speech to text", **options)
        # newer models know no segments and refuse to be asked for them
        self._format = "verbose_json"

    async def transcribe(self, sound: bytes, *, on_share: OnShare | None = None) -> Transcript:
        """Transcribe `sound`; see `SpeechToText.transcribe`.

        An endpoint without segments returns one for the whole chunk.
        """
        seconds = len(sound) / BYTES_PER_SECOND
        file = wav(sound)
        try:
            said = await self._send(file)
        except InputRefused as error:
            if self._format == "json" or "response_format" not in str(error):
                raise
            self._format = "json"
            said = await self._send(file)
        if on_share is not None:
            on_share(1.0)
        language = said.get("language")
        return Transcript(
            self._segments(said, seconds),
            self.name,
            offline=False,
            language=language[:40] if isinstance(language, str) and language else None,
        )

    async def _send(self, file: bytes) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": self.name, "response_format": self._format}
        if self._format == "verbose_json":
            fields["timestamp_granularities[]"] = ["segment"]
        said = await self.post(data=fields, files={"file": ("sound.wav", file, "audio/wav")})
        if not isinstance(said.get("text"), str):
            raise AnswerUnusable(f"The answer of {self.name} is not a transcription")
        return said

    def _segments(self, said: Mapping[str, Any], seconds: float) -> tuple[Segment, ...]:
        listed = said.get("segments")
        if not isinstance(listed, list):
            text = said["text"].strip()
            return (Segment(0.0, seconds, text),) if text else ()
        found = []
        for each in listed[:MOST_SEGMENTS]:
            try:
                start, end, text = float(each["start"]), float(each["end"]), str(each["text"])
            except (KeyError, TypeError, ValueError) as error:
                raise AnswerUnusable(f"A segment of {self.name} is not as documented") from error
            if start != start or end != end:
                raise AnswerUnusable(f"The times of {self.name} must be numbers")
            if text.strip():
                start = round(min(max(start, 0.0), seconds), 3)
                # Whisper's sometimes end before they begin
                end = max(start, round(min(end, seconds), 3))
                found.append(Segment(start, end, text.strip()))
        return tuple(found)


def wav(sound: bytes) -> bytes:
    """Raw samples as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLES_PER_SECOND)
        writer.writeframes(sound)
    return file.getvalue()
