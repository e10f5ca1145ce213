"""Reads the description and the audio of a video by ffmpeg.

The files are untrusted. ffmpeg therefore runs as a child process, with limits on time, memory and
output, and without a shell. The module accepts only local files, and only video and audio formats.
"""

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minutehand.ai import BYTES_PER_SECOND, SAMPLES_PER_SECOND
from minutehand.config import ConfigurationError, read_text
from minutehand_apps.training.child import run_child
from minutehand_apps.training.errors import later, refused

#: Names of the accepted formats, as ffmpeg knows them. The list is needed, because ffmpeg also
#: reads playlists, pictures and texts.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,wav,mp3,flac,aac,aiff"
PROBE_SECONDS = 60.0
#: Maximum duration of a recording in seconds.
MAX_SECONDS = 4 * 3600.0
#: Filter that finds pauses, in which the sound is below this level for this time.
SILENCE = "silencedetect=noise=-45dB:d=0.25"
MAX_PAUSES = 100_000
#: Maximum pixels of a frame (8K), because a small file may claim to have a frame of gigabytes.
MAX_PIXELS = 7680 * 4320

_DURATION = re.compile(r"^\s*Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_STREAM = re.compile(r"^\s*Stream #0:\d+.*?: (Video|Audio): (\w+)(.*)")
_OUT_TIME = re.compile(r"out_time_us=(\d+)")
#: Pattern of ffmpeg's messages about a truncated file whose index is complete.
_BROKEN_OFF = re.compile("partial file|ended prematurely|Truncating packet")
_PAUSE = re.compile(r"silence_(start|end): (-?\d+(?:\.\d+)?)")


@dataclass
class Media:
    """Description of a file. `seconds` is None if the file does not contain its duration."""

    seconds: float | None = None
    video: str | None = None
    audio: str | None = None


@dataclass(frozen=True)
class Sound:
    """Audio of a video, which was written as raw samples, and the pauses in the audio.

    Attributes:
        broken_off: True if the file is truncated, so that the end of its audio is missing.
    """

    seconds: float
    pauses: tuple[tuple[float, float], ...]
    broken_off: bool = False

    @property
    def silent(self) -> bool:
        """True if the whole audio is silent."""
        return sum(end - start for start, end in self.pauses) >= self.seconds - 0.5


def find_ffmpeg(environ: Mapping[str, str]) -> str:
    """Return the path of the ffmpeg program to run.

    Raises:
        ConfigurationError: There is no ffmpeg on this machine.
    """
    if (path := read_text(environ, "FFMPEG_PATH")) is not None:
        return path
    try:
        # imported here, because this package of 170 MB is optional
        import imageio_ffmpeg
    except ImportError as error:
        raise ConfigurationError(
            "FFMPEG_PATH", "is not set, and imageio-ffmpeg is not installed", "/opt/bin/ffmpeg"
        ) from error
    packaged: str = imageio_ffmpeg.get_ffmpeg_exe()
    return packaged


class Ffmpeg:
    """Runs an ffmpeg program."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def look(self, file: Path) -> Media:
        """Read the description of a file, and check that the file's first frame can be decoded.

        Raises:
            ProcessorError: The code is `incomplete` or `not_a_video`.
        """
        lines: deque[str] = deque(maxlen=400)
        # ignore the exit code, which is always 1 because the command names no output
        await self._run(_input(file), lines.append, seconds=PROBE_SECONDS)
        media = read_description(lines)
        if any("moov atom not found" in line for line in lines):
            raise refused("incomplete", "The file is incomplete: the index at its end is missing")
        if media is None or (media.video is None and media.audio is None):
            raise refused("not_a_video", "The file is not a video in a supported format")
        if media.video is None:
            return media
        messages: deque[str] = deque(maxlen=20)
        check = [*_input(file), "-map", "0:v:0", "-t", "1", "-f", "null", "-"]
        if await self._run(check, messages.append, seconds=PROBE_SECONDS) != 0:
            raise refused("not_a_video", f"The video's frames cannot be read ({media.video})")
        return media

    async def listen(
        self, file: Path, into: Path, *, seconds: float, on_second: Callable[[float], None]
    ) -> Sound:
        """Write the audio of `file` as raw samples, in the format that `minutehand.ai` requires.

        Args:
            seconds: Maximum seconds of CPU time.
            on_second: Function that gets the number of seconds of audio that are decoded.

        Raises:
            ProcessorError: The code is, for example, `video_too_long` or `unreadable_audio`.
        """
        pauses: list[list[float]] = []
        messages: deque[str] = deque(maxlen=20)
        cut_off: deque[str] = deque(maxlen=1)

        def read(line: str) -> None:
            if (reached := _OUT_TIME.fullmatch(line)) is not None:
                on_second(int(reached[1]) / 1_000_000)
                return
            cut_off.extend(_BROKEN_OFF.findall(line)[:1])
            match = _PAUSE.search(line)
            if match is None:
                messages.append(line)
            elif match[1] == "start" and len(pauses) < MAX_PAUSES:
                pauses.append([max(0.0, float(match[2])), float("inf")])
            elif match[1] == "end" and pauses:
                pauses[-1][1] = float(match[2])

        # add silence at the start if the audio starts late, so that samples and video have the same
        # times
        chain = f"aresample={SAMPLES_PER_SECOND}:async=1:first_pts=0,{SILENCE}"
        code = await self._run(
            [
                *(*_input(file), "-map", "0:a:0", "-vn", "-sn", "-dn", "-ac", "1"),
                *("-af", chain, "-t", f"{MAX_SECONDS + 1:.3f}", "-progress", "pipe:2"),
                *("-f", "s16le", "-y", f"file:{into}"),
            ],
            read,
            seconds=seconds,
            max_bytes=int((MAX_SECONDS + 1) * BYTES_PER_SECOND),
        )
        length = _size(into) / BYTES_PER_SECOND
        if code != 0 and any("No space left on device" in line for line in messages):
            raise later("no_room", "The worker's disk has no room for the video's sound")
        if length > MAX_SECONDS:
            raise refused("video_too_long", f"A video has at most {MAX_SECONDS:.0f} s of sound")
        if code != 0 or length == 0:
            raise refused("unreadable_audio", "The video's sound cannot be read")
        bounded = tuple((start, min(end, length)) for start, end in pauses if start < length)
        return Sound(length, bounded, broken_off=bool(cut_off))

    async def _run(
        self,
        arguments: Sequence[str],
        on_line: Callable[[str], None],
        *,
        seconds: float,
        max_bytes: int = 0,
    ) -> int:
        """Run ffmpeg, pass on its messages line by line, and return its exit code."""
        try:
            return await run_child(
                [self._path, "-hide_banner", "-nostdin", "-nostats", "-threads", "1", *arguments],
                on_line,
                seconds=seconds,
                max_bytes=max_bytes,
            )
        except TimeoutError as error:
            raise refused(
                "took_too_long", f"Reading the video took more than {seconds:.0f} s of CPU time"
            ) from error
        except OSError as error:
            raise ConfigurationError(
                "FFMPEG_PATH", "does not name a program that runs here", "/opt/bin/ffmpeg"
            ) from error


def _input(file: Path) -> list[str]:
    # set options of the input, so that a file cannot make ffmpeg open another file
    return [
        *("-protocol_whitelist", "file", "-format_whitelist", FORMATS),
        *("-max_pixels", str(MAX_PIXELS), "-i", f"file:{file}"),
    ]


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def read_description(lines: Sequence[str] | deque[str]) -> Media | None:
    """Parse ffmpeg's description of its input. Return None if ffmpeg could not open the input."""
    media = Media()
    opened = False
    for line in lines:
        opened = opened or line.startswith("Input #0, ")
        if not opened:
            continue
        if (match := _DURATION.match(line)) is not None:
            media.seconds = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        elif (match := _STREAM.match(line)) is not None and "attached pic" not in match[3]:
            # ignore the cover picture of a song, which is not a video
            if match[1] == "Video":
                media.video = media.video or match[2]
            else:
                media.audio = media.audio or match[2]
    return media if opened else None


def cut(length: float, pauses: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Divide audio into chunks of 15 to 45 seconds. If possible, a chunk ends in a pause."""
    middles = [(start + end) / 2 for start, end in pauses]
    chunks: list[tuple[float, float]] = []
    at = 0.0
    while length - at > 45:
        near = [middle for middle in middles if at + 15 <= middle <= at + 45]
        end = min(near, key=lambda middle: abs(middle - at - 30)) if near else at + 30
        end = round(end, 3)
        chunks.append((at, end))
        at = end
    chunks.append((at, round(length, 3)))
    return chunks
