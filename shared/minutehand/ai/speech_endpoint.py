"""Client of an endpoint with OpenAI's audio transcriptions API. One client serves a whole process.

The client retries only requests that were certainly not charged. If the endpoint requests a long
wait, the job is suspended.
"""

import io
import logging
import wave
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from minutehand.ai.endpoint import Endpoint
from minutehand.ai.errors import InputRefused
from minutehand.ai.speech import BYTES_PER_SECOND, SAMPLES_PER_SECOND, OnShare, Segment, Transcript
from minutehand.worker.serialization import has_text

logger = logging.getLogger(__name__)

MAX_SEGMENTS = 2_000


class TranscriptionEndpoint(Endpoint):
    """A speech engine behind `POST {url}/audio/transcriptions`.

    References:
        https://platform.openai.com/docs/api-reference/audio/createTranscription
    """

    _title = "Speech to text"
    _setting = "SPEECH_URL"

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, "/audio/transcriptions", **options)

    async def transcribe(self, audio: bytes, *, on_share: OnShare | None = None) -> Transcript:
        """Transcribe `audio`, see `SpeechToText.transcribe`.

        If the endpoint returns no segments, or invalid segments, the transcript has one segment for
        the whole audio, because the text is already paid for.
        """
        seconds = len(audio) / BYTES_PER_SECOND
        file = wav(audio)
        try:
            response = await self._send(file, "verbose_json")
        except InputRefused as error:
            # newer models reject the option that requests segments
            if "response_format" not in str(error):
                raise
            logger.warning(
                "The speech request is retried without segments, which the endpoint rejected",
                extra={"event": "speech.without", "reason": str(error)[:300]},
            )
            response = await self._send(file, "json")
        if on_share is not None:
            on_share(1.0)
        language = response.get("language")
        return Transcript(
            parse_segments(response, seconds),
            self.name,
            offline=False,
            language=language[:40] if isinstance(language, str) and language else None,
        )

    async def _send(self, file: bytes, form: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": self.name, "response_format": form}
        if form == "verbose_json":
            fields["timestamp_granularities[]"] = ["segment"]
        response = await self.post(data=fields, files={"file": ("sound.wav", file, "audio/wav")})
        if not isinstance(response.get("text"), str):
            raise self._output_error(f"The answer of {self.name} is not a transcription")
        return response


class _Row(BaseModel):
    start: FiniteFloat
    end: FiniteFloat
    text: str


_ROWS = TypeAdapter(list[_Row])


def parse_segments(response: Mapping[str, Any], seconds: float) -> tuple[Segment, ...]:
    """Return the segments of a transcript in order.

    No segment ends after the end of the audio (`seconds`).

    If a segment is invalid, return one segment with the whole text. The one segment contains all
    words, but the times of the other segments are lost.
    """
    try:
        rows = _ROWS.validate_python(response.get("segments"))
    except ValidationError:
        rows = []
    segments = []
    for row in rows[:MAX_SEGMENTS]:
        if has_text(row.text):
            start = round(min(max(row.start, 0.0), seconds), 3)
            # Whisper sometimes returns a segment whose end is before its start
            end = max(start, round(min(row.end, seconds), 3))
            segments.append(Segment(start, end, row.text.strip()))
    full_text = response["text"].strip()
    if has_text(full_text) and not segments:
        return (Segment(0.0, seconds, full_text),)
    return tuple(sorted(segments, key=lambda segment: segment.start))


def wav(audio: bytes) -> bytes:
    """Return raw samples in the format of a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLES_PER_SECOND)
        writer.writeframes(audio)
    return file.getvalue()
