"""Speech to text: the client with a local server, and the offline engine."""

import sys
import wave
from collections.abc import AsyncIterator
from io import BytesIO

import pytest

from minutehand.ai.speech import Segment
from minutehand.ai.speech_endpoint import MAX_SEGMENTS, TranscriptionEndpoint, parse_segments
from minutehand.ai.speech_offline import OfflineSpeechToText, join_words
from minutehand.config import ConfigurationError
from tests.support.misbehaving import Fault
from tests.unit.ai.speech_server import KEY, SpeechServer

SECOND = b"\x01\x02" * 16_000


@pytest.fixture
async def server() -> AsyncIterator[SpeechServer]:
    """The running speech-to-text server."""
    async with SpeechServer() as running:
        yield running


@pytest.fixture
async def model(server: SpeechServer) -> AsyncIterator[TranscriptionEndpoint]:
    """A client of the server."""
    made = TranscriptionEndpoint(server.url, model="whisper-1", key=KEY)
    yield made
    await made.aclose()


async def test_segments_come_with_their_times(
    server: SpeechServer, model: TranscriptionEndpoint
) -> None:
    """The client sends the sound as a WAV file.

    The returned segments have ordered times within the sound.
    """
    found = await model.transcribe(SECOND)

    assert found.segments == (Segment(0.4, 0.4, "Turn it off."), Segment(0.5, 1.0, "Wait."))
    assert (found.engine, found.offline) == ("whisper-1", False)
    [sent] = server.seen
    with wave.open(BytesIO(sent[sent.index(b"RIFF") :])) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16000, 1, 2)
        assert sound.readframes(16_000) == SECOND


async def test_a_model_without_segments_is_asked_in_its_own_way(
    server: SpeechServer, model: TranscriptionEndpoint
) -> None:
    """If the model rejects `verbose_json`, the client asks again without it and gets one segment.

    Each call tries `verbose_json` first.
    """
    refusal = Fault(400, {"error": {"message": "response_format is not compatible"}})
    server.faults = [refusal, Fault(), refusal]
    server.said = {"text": "Turn it off."}
    first = await model.transcribe(SECOND)
    await model.transcribe(SECOND)

    assert first.segments == (Segment(0.0, 1.0, "Turn it off."),)
    assert [b"verbose_json" in body for body in server.seen] == [True, False, True, False]


@pytest.mark.parametrize("text", [None, 7, ["Turn"]])
def test_a_segment_whose_text_is_none_loses_its_time_and_no_word(text: object) -> None:
    """If a segment's text is invalid, the whole text becomes one segment."""
    listed = [{"start": 0, "end": 1, "text": "Turn it off."}, {"start": 1, "end": 2, "text": text}]
    found = parse_segments({"text": "Turn it off. Wait.", "segments": listed}, 2.0)
    assert found == (Segment(0.0, 2.0, "Turn it off. Wait."),)


def test_a_transcript_has_a_maximum_of_segments() -> None:
    listed = [{"start": at, "end": at, "text": "Stop."} for at in range(MAX_SEGMENTS + 1)]
    found = parse_segments({"text": "Stop.", "segments": listed}, 3600.0)
    assert len(found) == MAX_SEGMENTS


def test_words_are_joined_and_cut_where_the_speaker_pauses() -> None:
    """Recognized words are joined into segments, which end at pauses.

    Marks for silence and for pronunciations are removed.
    """
    words = [
        ("<s>", 0, 10),
        ("turn", 11, 40),
        ("off(2)", 41, 60),
        ("<sil>", 61, 100),
        ("now", 120, 140),
    ]
    assert join_words(words) == [Segment(0.11, 0.61, "turn off"), Segment(1.2, 1.41, "now")]


async def test_what_is_not_installed_names_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pocketsphinx, the offline engine fails with the name of the setting SPEECH_URL."""
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ConfigurationError, match="SPEECH_URL is not set, and pocketsphinx"):
        await OfflineSpeechToText().transcribe(SECOND)
