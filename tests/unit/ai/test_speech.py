"""Hearing: the real client before a local server in the documented format, and the offline ear."""

from __future__ import annotations

import asyncio
import sys
import wave
from collections.abc import AsyncIterator
from datetime import timedelta
from io import BytesIO
from typing import Any

import psutil
import pytest

from minutehand.ai.engines import make_speech_to_text
from minutehand.ai.errors import (
    AnswerUnusable,
    CutShort,
    InputRefused,
    LanguageModelError,
    NotAuthorised,
    OutOfCredit,
    RateLimited,
    Unreachable,
)
from minutehand.ai.speech import BYTES_PER_SECOND, Segment, Word
from minutehand.ai.speech_endpoint import TranscriptionEndpoint
from minutehand.ai.speech_offline import NAME, OfflineSpeechToText, Recognised, join_words
from minutehand.config import ConfigurationError, Settings
from tests.support.misbehaving import Fault
from tests.unit.ai.speech_server import KEY, SpeechServer

SECOND = b"\x01\x02" * 16_000


@pytest.fixture
async def server() -> AsyncIterator[SpeechServer]:
    """The endpoint."""
    async with SpeechServer() as running:
        yield running


async def no_wait(_: float) -> None:
    """Waits within a call are over at once."""


def endpoint(server: SpeechServer, **options: Any) -> TranscriptionEndpoint:
    return TranscriptionEndpoint(
        server.url, **{"model": "whisper-1", "key": KEY, "sleep": no_wait, **options}
    )


async def test_segments_come_with_their_times(server: SpeechServer) -> None:
    """Sent as a WAV file in a form; times beyond the sound's end are cut to it."""
    ear = endpoint(server)
    heard: list[float] = []

    found = await ear.transcribe(SECOND, on_heard=heard.append)
    await ear.aclose()

    assert found.segments == (Segment(0.0, 0.4, "Turn it off."), Segment(0.5, 1.0, "Wait."))
    assert (found.engine, found.offline, heard) == ("whisper-1", False, [1.0])
    [sent] = server.seen
    assert b'name="model"\r\n\r\nwhisper-1' in sent
    assert b'name="response_format"\r\n\r\nverbose_json' in sent
    file = sent[sent.index(b"RIFF") :]
    with wave.open(BytesIO(file)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16000, 1, 2)
        assert sound.readframes(16_000) == SECOND


async def test_a_model_without_segments_is_asked_in_its_own_way(server: SpeechServer) -> None:
    """Newer ones refuse `verbose_json`; then the whole stretch is one segment, ever after."""
    server.faults = [
        Fault(400, {"error": {"message": "response_format 'verbose_json' is not compatible"}})
    ]
    server.told = {"text": "Turn it off."}
    ear = endpoint(server)

    first = await ear.transcribe(SECOND)
    await ear.transcribe(SECOND)
    await ear.aclose()

    assert first.segments == (Segment(0.0, 1.0, "Turn it off."),)
    assert [b"verbose_json" in body for body in server.seen] == [True, False, False]


@pytest.mark.parametrize(
    ("faults", "kind", "requests"),
    [
        ([Fault(401, {"error": {"message": "no"}})], NotAuthorised, 1),
        ([Fault(402, {})], OutOfCredit, 1),
        ([Fault(429, {"error": {"code": "insufficient_quota"}})], OutOfCredit, 1),
        ([Fault(422, {"error": {"message": "bad audio"}})], InputRefused, 1),
        ([Fault(429, {}, {"retry-after": "30"})], RateLimited, 1),
        ([Fault(500, b"oops")] * 3, Unreachable, 3),
        ([Fault(hang=True)], Unreachable, 1),
        ([Fault(cut=True)], CutShort, 1),
        ([Fault(body=b"[]")], AnswerUnusable, 1),
        ([Fault(body={"text": "x", "segments": [{"start": 2}]})], AnswerUnusable, 1),
        ([Fault(body={"text": "x", "segments": [{"start": 2, "end": 1, "text": "x"}]})],
         AnswerUnusable, 1),
    ],
    ids=["401", "402", "quota", "422", "429", "500", "hang", "cut", "no object", "no end", "back"],
)  # fmt: skip
async def test_each_failure_is_reported_by_its_kind(
    server: SpeechServer, faults: list[Fault], kind: type[LanguageModelError], requests: int
) -> None:
    """What may be charged for is not repeated, and the key is in no message."""
    server.faults = list(faults)
    hangs = faults[0].hang
    ear = endpoint(server, answer_seconds=2.0 if hangs else 60.0)

    with pytest.raises(kind) as caught:
        await ear.transcribe(SECOND)
    await ear.aclose()

    assert len(server.seen) == requests
    assert KEY not in str(caught.value)
    if kind is RateLimited:
        assert caught.value.retry_after == timedelta(seconds=30)


async def test_a_short_wait_is_waited_for(server: SpeechServer) -> None:
    """A second asked for by the endpoint costs no attempt of the job's."""
    server.faults = [Fault(429, {}, {"retry-after": "1"}), Fault(503, {})]
    ear = endpoint(server)

    found = await ear.transcribe(SECOND)
    await ear.aclose()

    assert len(found.segments) == 2
    assert len(server.seen) == 3


async def test_an_unreachable_server_is_reported(server: SpeechServer) -> None:
    """A refused connection carried nothing and is repeated."""
    ear = TranscriptionEndpoint("http://127.0.0.1:9/v1", model="m", sleep=no_wait)

    with pytest.raises(Unreachable, match="could not be reached"):
        await ear.transcribe(SECOND)
    await ear.aclose()


async def test_silence_is_transcribed_as_nothing() -> None:
    """Offline; and too much sound at once is refused before anything is loaded."""
    ear = OfflineSpeechToText()

    found = await ear.transcribe(bytes(BYTES_PER_SECOND))

    assert (found.segments, found.engine, found.offline) == ((), NAME, True)
    with pytest.raises(ValueError, match="must be 16-bit samples"):
        await ear.transcribe(b"x")


def test_words_are_joined_and_cut_where_the_speaker_pauses() -> None:
    """Silence and noise are no words; other ways to say a word are that word."""
    words = [
        ("<s>", 0, 10, 1), ("turn", 11, 40, 0.9), ("off(2)", 41, 60, 0.3), ("<sil>", 61, 100, 1),
        ("[SPEECH]", 101, 110, 1), ("now", 120, 140, None), ("</s>", 141, 150, 1),
    ]  # fmt: skip

    assert join_words(Recognised(*each) for each in words) == [
        Segment(
            0.11, 0.61, "turn off", (Word(0.11, 0.41, "turn", 0.9), Word(0.41, 0.61, "off", 0.3))
        ),
        Segment(1.2, 1.41, "now", (Word(1.2, 1.41, "now"),)),
    ]
    long = join_words(Recognised("on", at * 100, at * 100 + 90) for at in range(30))
    assert all(segment.end - segment.start <= 12.5 for segment in long)
    assert len(long) == 3


async def test_an_ear_that_is_not_installed_names_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The functions' zips come without it."""
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)

    with pytest.raises(ConfigurationError, match="SPEECH_URL is not set, and pocketsphinx"):
        await OfflineSpeechToText().transcribe(SECOND)


def test_the_settings_pick_the_ear() -> None:
    """An address asks for the model's name; none is offline."""
    environ = {"SUPABASE_URL": "http://x.test", "SUPABASE_PUBLISHABLE_KEY": "k"}

    offline = make_speech_to_text(Settings.from_env(environ))
    online = make_speech_to_text(
        Settings.from_env({**environ, "SPEECH_URL": "http://127.0.0.1:9/v1", "SPEECH_MODEL": "m"})
    )

    assert (offline.offline, online.offline, online.name) == (True, False, "m")
    with pytest.raises(ConfigurationError, match="SPEECH_MODEL is not set"):
        make_speech_to_text(Settings.from_env({**environ, "SPEECH_URL": "http://127.0.0.1:9"}))


async def test_a_cancel_ends_the_ear() -> None:
    """Nothing listens on for a job that was stopped, and the next one is heard."""
    ear = OfflineSpeechToText()
    heard = asyncio.Event()
    running = asyncio.create_task(
        ear.transcribe(bytes(60 * BYTES_PER_SECOND), on_heard=lambda _: heard.set())
    )
    await heard.wait()
    before = {child.pid for child in psutil.Process().children()}

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert before - {child.pid for child in psutil.Process().children()}
    assert (await ear.transcribe(bytes(3_200))).segments == ()
