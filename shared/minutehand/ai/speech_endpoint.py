"""Any endpoint that speaks OpenAI's audio transcriptions: one client per process.

Repeats only what left no answer behind; all longer waiting is the job's, not the call's.
"""

from __future__ import annotations

import asyncio
import io
import math
import wave
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from minutehand.ai.endpoint import Endpoint, refusal
from minutehand.ai.errors import (
    AnswerUnusable,
    CutShort,
    InputRefused,
    Unreachable,
)
from minutehand.ai.speech import (
    SAMPLES_PER_SECOND,
    OnHeard,
    Segment,
    Transcript,
    Word,
    check_sound,
)
from minutehand.queue.foreign import NoAnswer

MAX_ANSWER_BYTES: Final = 2_000_000
MOST_SEGMENTS: Final = 2_000
MOST_WORDS: Final = 5_000


class TranscriptionEndpoint:
    """Speaks `POST {url}/audio/transcriptions`.

    Args:
        url: Up to and with the version, as https://api.openai.com/v1.
        key: Sent as a bearer token; None for endpoints that ask for none.
        answer_seconds: Patience with an answer; a minute of speech takes a few.
        attempts: Most requests for one call.
        sleep: Waits between them.

    References:
        https://platform.openai.com/docs/api-reference/audio/createTranscription
    """

    offline: Final = False

    def __init__(
        self,
        url: str,
        *,
        model: str,
        key: str | None = None,
        answer_seconds: float = 120.0,
        attempts: int = 3,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._model = model
        self._endpoint = Endpoint(
            f"{url.rstrip('/')}/audio/transcriptions",
            accept="application/json",
            key=key,
            answer_seconds=answer_seconds,
            attempts=attempts,
            sleep=sleep,
        )
        # newer models know no segments and refuse to be asked for them
        self._format = "verbose_json"

    @property
    def name(self) -> str:
        """The model, as the endpoint knows it."""
        return self._model

    async def transcribe(self, sound: bytes, *, on_heard: OnHeard | None = None) -> Transcript:
        """Hear `sound`; see `SpeechToText.transcribe`.

        An endpoint without segments returns one for the whole chunk.
        """
        seconds = check_sound(sound)
        file = wav(sound)
        try:
            told = await self._endpoint.repeat(self._send, file)
        except InputRefused as error:
            if self._format == "json" or "response_format" not in str(error):
                raise
            self._format = "json"
            told = await self._endpoint.repeat(self._send, file)
        if on_heard is not None:
            on_heard(1.0)
        language = told.get("language")
        return Transcript(
            self._segments(told, seconds),
            self._model,
            offline=False,
            language=language[:40] if isinstance(language, str) and language else None,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._endpoint.aclose()

    async def _send(self, file: bytes) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": self._model, "response_format": self._format}
        if self._format == "verbose_json":
            fields["timestamp_granularities[]"] = ["segment", "word"]
        try:
            answer = await self._endpoint.exchange(
                most_bytes=MAX_ANSWER_BYTES,
                data=fields,
                files={"file": ("sound.wav", file, "audio/wav")},
            )
        except NoAnswer as error:
            told_why = f"Speech to text {error}"
            if error.kind == "long":
                raise AnswerUnusable(told_why) from error
            if error.kind == "broken":
                raise CutShort(told_why) from error
            # silence may hide an answer that is charged for
            raise Unreachable(told_why, repeatable=error.unsent) from error
        told = answer.object()
        if answer.status != 200:
            raise refusal("Speech to text", answer.status, answer.headers, told or {})
        if told is None or not isinstance(told.get("text"), str):
            raise AnswerUnusable(f"The answer of {self._model} is not a transcription")
        return told

    def _segments(self, told: Mapping[str, Any], seconds: float) -> tuple[Segment, ...]:
        listed = told.get("segments")
        if not isinstance(listed, list):
            text = told["text"].strip()
            return (Segment(0.0, seconds, text),) if text else ()
        words = _words(told.get("words"), seconds)
        found = []
        for each in listed[:MOST_SEGMENTS]:
            try:
                start, end, text = float(each["start"]), float(each["end"]), str(each["text"])
            except (KeyError, TypeError, ValueError) as error:
                raise AnswerUnusable(f"A segment of {self._model} is not as documented") from error
            if not start <= end:  # also when one is not a number
                raise AnswerUnusable(f"A segment of {self._model} ends before it begins")
            if text.strip():
                start, end = (round(min(max(at, 0.0), seconds), 3) for at in (start, end))
                sure = _confidence(each)
                inside = tuple(
                    replace(word, confidence=sure) for word in words if start <= word.start < end
                )
                found.append(Segment(start, end, text.strip(), inside))
        return tuple(found)


def _confidence(segment: Mapping[str, Any]) -> float | None:
    """How sure the model is of a segment's words: by the mean of its logarithms, or of silence."""
    mean, silent = segment.get("avg_logprob"), segment.get("no_speech_prob")
    told = [each for each in (mean, silent) if isinstance(each, int | float)]
    if not told or not all(math.isfinite(each) for each in told):
        return None
    sure = min(1.0, math.exp(min(0.0, mean))) if isinstance(mean, int | float) else 1.0
    return round(min(sure, 1.0 - silent) if isinstance(silent, int | float) else sure, 3)


def _words(listed: Any, seconds: float) -> list[Word]:
    """The words that an endpoint timed; none where it times none, since segments do as well."""
    found = []
    for each in listed[:MOST_WORDS] if isinstance(listed, list) else ():
        try:
            start, end, text = float(each["start"]), float(each["end"]), str(each["word"])
        except (KeyError, TypeError, ValueError):
            return []
        start, end = (round(min(max(at, 0.0), seconds), 3) for at in (start, end))
        if start <= end and text.strip():
            found.append(Word(start, end, text.strip()))
    return found


def wav(sound: bytes) -> bytes:
    """Raw samples as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLES_PER_SECOND)
        writer.writeframes(sound)
    return file.getvalue()
