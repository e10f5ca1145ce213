"""ffmpeg on strangers' files: what is let in, how long it may take, and what stays behind."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.ai.speech import BYTES_PER_SECOND
from minutehand.config import ConfigurationError
from minutehand_apps.training.errors import StageError
from minutehand_apps.training.media import (
    STILL_BYTES,
    Ffmpeg,
    cut,
    find_ffmpeg,
    read_description,
    unplayable,
)
from minutehand_apps.training.settings import TrainingSettings

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "shared/minutehand_apps/training/console/sample.mp4"
SETTINGS = TrainingSettings()
#: Of a recording of three stretches.
THRICE = ("-stream_loop", "3", "-i", str(SAMPLE), "-c", "copy")


@pytest.fixture(scope="module")
def path() -> str:
    """The wheel's ffmpeg."""
    return find_ffmpeg(SETTINGS)


def make(into: Path, *arguments: str) -> Path:
    """Have ffmpeg make a file for a test."""
    command = [find_ffmpeg(SETTINGS), "-v", "error", "-y", *arguments, str(into)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return into


async def test_a_video_is_looked_at_and_listened_to(path: str, tmp_path: Path) -> None:
    """Size, codecs and length; its sound as samples, with the pauses between the sentences."""
    ffmpeg = Ffmpeg(path)

    media = await ffmpeg.look(SAMPLE)
    reached: list[float] = []
    sound = await ffmpeg.listen(
        SAMPLE, tmp_path / "sound", seconds=60, most_seconds=60, on_second=reached.append
    )

    assert (media.video, media.audio, media.width, media.height) == ("h264", "aac", 352, 198)
    assert media.seconds == pytest.approx(19.1, abs=0.3)
    assert sound.seconds == pytest.approx(19.1, abs=0.3)
    assert (tmp_path / "sound").stat().st_size == round(sound.seconds * BYTES_PER_SECOND)
    assert len(sound.pauses) >= 4
    assert not sound.silent
    assert reached == sorted(reached)
    assert reached[-1] == pytest.approx(sound.seconds, abs=0.5)  # of decoding, not of pauses


async def test_a_picture_of_a_time_is_taken_where_there_is_one(path: str, tmp_path: Path) -> None:
    """As a JPEG; behind the end there is none."""
    into = tmp_path / "still"

    taken = await Ffmpeg(path).take_still(SAMPLE, into, at_seconds=7.25)
    picture = into.read_bytes()
    behind = await Ffmpeg(path).take_still(SAMPLE, tmp_path / "none", at_seconds=60)

    assert (taken, behind) == (True, False)
    assert picture.startswith(b"\xff\xd8\xff")
    assert len(picture) < STILL_BYTES


async def test_what_is_no_video_is_refused(path: str, tmp_path: Path) -> None:
    """By what it is, whatever it is called: nothing, text, a picture, a playlist."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(SAMPLE.read_bytes())
    files = {
        "empty": b"",
        "noise": os.urandom(5_000),
        "text": b"Turn the power off.\n" * 500,
        "playlist": f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n".encode(),
        "concat": f"ffconcat version 1.0\nfile '{secret}'\n".encode(),
        "cut": SAMPLE.read_bytes()[:3_000],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    make(tmp_path / "picture.png", "-f", "lavfi", "-i", "testsrc", "-frames:v", "1")

    for name in (*files, "picture.png"):
        with pytest.raises(StageError) as caught:
            await Ffmpeg(path).look(tmp_path / name)
        assert caught.value.code == "not_a_video", name


async def test_a_video_may_have_no_sound_or_only_silence(path: str, tmp_path: Path) -> None:
    """Two different reasons why nothing can be written down."""
    picture = ("-f", "lavfi", "-i", "testsrc=s=64x64:r=5")
    mute = make(tmp_path / "mute.mp4", *picture, "-t", "2")
    hushed = make(tmp_path / "hushed.mkv", *picture, "-f", "lavfi", "-i", "anullsrc", "-t", "2")
    ffmpeg = Ffmpeg(path)

    assert (await ffmpeg.look(mute)).audio is None
    assert (await ffmpeg.look(hushed)).audio is not None
    sound = await ffmpeg.listen(hushed, tmp_path / "sound", seconds=60, most_seconds=60)
    assert sound.silent
    with pytest.raises(StageError) as caught:
        await ffmpeg.listen(hushed, tmp_path / "sound", seconds=60, most_seconds=1)
    assert caught.value.code == "video_too_long"


async def test_time_and_memory_are_bounded(path: str, tmp_path: Path) -> None:
    """A run that takes too long is killed; one that wants too much memory gets none."""
    with pytest.raises(StageError) as caught:
        await Ffmpeg(path).listen(SAMPLE, tmp_path / "sound", seconds=0, most_seconds=60)
    assert caught.value.code == "took_too_long"

    with pytest.raises(StageError):
        await Ffmpeg(path, memory_bytes=200 * 1024**2).look(SAMPLE)


async def test_a_picture_of_gigabytes_is_not_decoded(path: str, tmp_path: Path) -> None:
    """A few kilobytes may unpack to more than the whole worker has; 8K is the most."""
    size = ("-f", "lavfi", "-i", "color=s=8000x4400:r=1", "-f", "lavfi", "-i", "sine")
    large = make(tmp_path / "x.mov", *size, "-frames:v", "1", "-pix_fmt", "gray", "-c:v", "png")

    assert large.stat().st_size < 200_000
    with pytest.raises(StageError) as caught:
        await Ffmpeg(path).look(large)
    assert caught.value.code == "not_a_video"


async def test_a_full_disk_is_no_fault_of_the_video(path: str) -> None:
    """Another worker, or the same one later, has room for its sound."""
    with pytest.raises(StageError) as caught:
        await Ffmpeg(path).listen(SAMPLE, Path("/dev/full"), seconds=60, most_seconds=60)

    assert (caught.value.code, caught.value.later) == ("no_room", True)


async def test_what_is_not_ffmpeg_is_reported_with_its_setting(tmp_path: Path) -> None:
    """A wrong path is the deployment's fault and not the video's."""
    for name, content in (("gone", None), ("data", b"no program")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigurationError, match="FFMPEG_PATH"):
            await Ffmpeg(str(tmp_path / name)).look(SAMPLE)


def test_a_missing_ffmpeg_names_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions' zips come without it."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)

    with pytest.raises(ConfigurationError, match="FFMPEG_PATH is not set"):
        find_ffmpeg(SETTINGS)
    given_path = SETTINGS.model_copy(update={"ffmpeg_path": "/opt/bin/ffmpeg"})
    assert find_ffmpeg(given_path) == "/opt/bin/ffmpeg"


def test_what_ffmpeg_says_is_read() -> None:
    """A recording of a browser's has no length; a song's picture is no video."""
    media = read_description([
        "Input #0, matroska,webm, from 'file:x':",
        "  Duration: N/A, start: 0.000000, bitrate: N/A",
        "  Stream #0:0(eng): Video: vp8, yuv420p, 640x480, 30 fps",
        "  Stream #0:1(eng): Audio: opus, 48000 Hz, mono, fltp",
    ])  # fmt: skip
    song = read_description([
        "Input #0, mov,mp4, from 'file:x':",
        "  Duration: 01:02:03.50, start: 0.000000, bitrate: 1 kb/s",
        "  Stream #0:0: Audio: aac (LC), 44100 Hz",
        "  Stream #0:1: Video: png, rgb24, 500x500, 90k tbr (attached pic)",
    ])  # fmt: skip

    assert media is not None
    assert (media.seconds, media.video, media.audio, media.width) == (None, "vp8", "opus", 640)
    assert song is not None
    assert (song.seconds, song.video, song.audio) == (3723.5, None, "aac")
    assert read_description(["x: Invalid data found when processing input"]) is None


@given(
    length=st.floats(0.1, 5_000),
    pauses=st.lists(st.tuples(st.floats(0, 5_000), st.floats(0, 5)), max_size=60),
)
def test_a_sound_is_cut_without_gaps(length: float, pauses: list[tuple[float, float]]) -> None:
    """Whatever the pauses: stretches follow each other, none is too long, and all is there."""
    stretches = cut(length, [(start, start + more) for start, more in pauses])

    assert stretches[0][0] == 0
    assert stretches[-1][1] == round(length, 3)
    assert all(one[1] == two[0] for one, two in itertools.pairwise(stretches))
    assert all(0 < end - start <= 45.001 for start, end in stretches)


def test_a_sound_is_cut_where_no_one_speaks() -> None:
    """The pause nearest to half a minute; without any, at half a minute."""
    assert cut(80.0, [(10, 11), (27, 28), (33.5, 34.5), (60, 62)]) == [
        (0.0, 27.5), (27.5, 61.0), (61.0, 80.0),
    ]  # fmt: skip
    assert cut(80.0, []) == [(0.0, 30.0), (30.0, 60.0), (60.0, 80.0)]


async def test_a_recording_without_pictures_is_taken(path: str, tmp_path: Path) -> None:
    """A transcript needs no pictures; browsers play what is common."""
    for name, sound in (("song.m4a", "aac"), ("song.mp3", "mp3"), ("song.wav", "pcm_s16le")):
        make(tmp_path / name, "-f", "lavfi", "-i", "sine", "-t", "1")
        media = await Ffmpeg(path).look(tmp_path / name)
        assert (media.video, media.audio, unplayable(media)) == (None, sound, None), name


async def test_what_browsers_do_not_play_is_reported(path: str, tmp_path: Path) -> None:
    """With a way out; the length of a file that does not say it is measured."""
    picture = ("-f", "lavfi", "-i", "testsrc=s=64x64:r=5", "-f", "lavfi", "-i", "sine")
    make(tmp_path / "old.avi", *picture, "-c:v", "mpeg4", "-t", "2")
    make(tmp_path / "new.mp4", *picture, "-pix_fmt", "yuv420p", "-t", "2")
    make(tmp_path / "live.ts", *picture, "-c:v", "mpeg2video", "-t", "2")

    old = await Ffmpeg(path).look(tmp_path / "old.avi")
    new = await Ffmpeg(path).look(tmp_path / "new.mp4")

    told = unplayable(old)
    assert told is not None
    assert told.startswith("Browsers do not play mpeg4 and")
    assert "in avi" in told
    assert "MP4 with H.264" in told
    assert unplayable(new) is None
    assert await Ffmpeg(path).measure(tmp_path / "live.ts") == pytest.approx(2, abs=0.3)
