"""Any endpoint that speaks OpenAI's audio transcriptions: one client per process.

Repeats only what left no answer behind; all longer waiting is the job's, not the call's.
"""

from __future__ import annotations

import asyncio
import io
import json
import wave
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import tenacity

from shared.ai.errors import (
    AnswerUnusable,
    CutShort,
    InputRefused,
    LanguageModelError,
    NotAuthorised,
    OutOfCredit,
    RateLimited,
    Unreachable,
)
from shared.ai.openai_compatible import SHORT_WAIT_SECONDS
from shared.ai.speech import SAMPLES_PER_SECOND, OnHeard, Segment, Transcript, check_sound
from shared.queue.lean_httpx import httpx
from shared.retry_after import retry_after

CONNECT_SECONDS: Final = 5.0
MAX_ANSWER_BYTES: Final = 2_000_000
MOST_SEGMENTS: Final = 2_000


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
        http: httpx.AsyncClient | None = None,
        answer_seconds: float = 120.0,
        attempts: int = 3,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = f"{url.rstrip('/')}/audio/transcriptions"
        self._model = model
        self._attempts = attempts
        self._sleep = sleep
        self._headers = {"accept": "application/json", "user-agent": "Minutehand"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._timeout = httpx.Timeout(answer_seconds, connect=min(CONNECT_SECONDS, answer_seconds))
        self._is_own = http is None
        # a proxy of the environment is meant for the world outside
        local = urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}
        self._http = http or httpx.AsyncClient(trust_env=not local, follow_redirects=False)
        # newer models know no segments and refuse to be asked for them
        self._format = "verbose_json"

    @property
    def name(self) -> str:
        """The model, as the endpoint knows it."""
        return self._model

    async def transcribe(self, sound: bytes, *, on_heard: OnHeard | None = None) -> Transcript:
        """Hear `sound`; see `SpeechToText.transcribe`.

        An endpoint that tells no segments gives one for the whole stretch.
        """
        seconds = check_sound(sound)
        file = wav(sound)
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_worth_repeating),
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=_wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            told: dict[str, Any] = await retrying(self._send, file)
        except InputRefused as error:
            if self._format == "json" or "response_format" not in str(error):
                raise
            self._format = "json"
            told = await retrying(self._send, file)
        if on_heard is not None:
            on_heard(1.0)
        return Transcript(self._segments(told, seconds), self._model, offline=False)

    async def aclose(self) -> None:
        """Close the connections, unless they are somebody else's."""
        if self._is_own:
            await self._http.aclose()

    async def _send(self, file: bytes) -> dict[str, Any]:
        fields = {"model": self._model, "response_format": self._format}
        if self._format == "verbose_json":
            fields["timestamp_granularities[]"] = "segment"
        try:
            async with self._http.stream(
                "POST",
                self._url,
                data=fields,
                files={"file": ("sound.wav", file, "audio/wav")},
                headers=self._headers,
                timeout=self._timeout,
            ) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise AnswerUnusable("The transcription does not come to an end")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unreachable(
                f"Speech to text could not be reached ({type(error).__name__})", repeatable=True
            ) from error
        except httpx.TimeoutException as error:
            # silence may hide an answer that is charged for
            raise Unreachable(f"Speech to text fell silent ({type(error).__name__})") from error
        except httpx.HTTPError as error:
            raise CutShort(f"Speech to text broke off ({type(error).__name__})") from error
        told = _object(bytes(body))
        if response.status_code != 200:
            raise _refusal(response.status_code, response.headers, told or {})
        if told is None or not isinstance(told.get("text"), str):
            raise AnswerUnusable(f"The answer of {self._model} is no transcription")
        return told

    def _segments(self, told: Mapping[str, Any], seconds: float) -> tuple[Segment, ...]:
        listed = told.get("segments")
        if not isinstance(listed, list):
            text = told["text"].strip()
            return (Segment(0.0, seconds, text),) if text else ()
        found = []
        for each in listed[:MOST_SEGMENTS]:
            try:
                start, end, text = float(each["start"]), float(each["end"]), str(each["text"])
            except (KeyError, TypeError, ValueError) as error:
                raise AnswerUnusable(f"A segment of {self._model} is not as documented") from error
            if not start <= end:  # also when one is no number
                raise AnswerUnusable(f"A segment of {self._model} ends before it begins")
            if text.strip():
                start, end = (round(min(max(at, 0.0), seconds), 3) for at in (start, end))
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


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _refusal(status: int, headers: httpx.Headers, told: Mapping[str, Any]) -> LanguageModelError:
    error = told.get("error")
    said, code = (error.get("message"), error.get("code")) if isinstance(error, dict) else ("", "")
    said = said[:500] if isinstance(said, str) and said else f"status {status}"
    wait = retry_after(headers.get("retry-after"), now=datetime.now(UTC))
    if status in {401, 403}:
        return NotAuthorised("Speech to text refused the key", status=status)
    if status == 402 or code == "insufficient_quota":
        return OutOfCredit("The account for speech to text has no credit left", status=status)
    if status == 429:
        return RateLimited(
            "The rate limit of speech to text is reached",
            status=status,
            retry_after=wait,
            repeatable=wait is not None,
        )
    if status in {408, 409} or status >= 500:
        return Unreachable(
            f"Speech to text failed: {said}", status=status, retry_after=wait, repeatable=True
        )
    return InputRefused(f"Speech to text refused the request: {said}", status=status)


def _worth_repeating(error: BaseException) -> bool:
    if not isinstance(error, LanguageModelError) or not error.repeatable:
        return False
    return error.retry_after is None or error.retry_after.total_seconds() <= SHORT_WAIT_SECONDS


_backing_off = tenacity.wait_random_exponential(multiplier=0.2, max=2.0)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, LanguageModelError) else None
    return max(asked.total_seconds() if asked else 0.0, _backing_off(state))
