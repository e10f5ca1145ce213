"""Reading videos with ffmpeg: what is in a file, and its sound.

ffmpeg runs on strangers' bytes: as a child with bounded time, memory and output, without a shell,
without any protocol but local files, and only with the formats that videos come in.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minutehand.ai import BYTES_PER_SECOND, SAMPLES_PER_SECOND
from minutehand.config import ConfigurationError
from minutehand_apps.training.child import run_child
from minutehand_apps.training.errors import later, refused
from minutehand_apps.training.settings import TrainingSettings

#: Containers that are opened; playlists, pictures and texts, which ffmpeg reads too, are none.
FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,wav,mp3,flac,aac,aiff"
)
PROBE_SECONDS: Final = 60.0
#: Quieter than this is silence; shorter than this is not a pause.
SILENCE: Final = "silencedetect=noise=-45dB:d=0.25"
MOST_PAUSES: Final = 100_000
#: Largest picture that is decoded, 8K: a small file may claim to be a picture of gigabytes.
MOST_PIXELS: Final = 7680 * 4320

_DURATION = re.compile(r"^\s*Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_STREAM = re.compile(r"^\s*Stream #0:\d+.*?: (Video|Audio): (\w+)(.*)")
_OUT_TIME = re.compile(r"out_time_us=(\d+)")
#: What ffmpeg says of a file whose end is missing, though its index knows of it.
_BROKEN_OFF = re.compile("partial file|ended prematurely|Truncating packet")
_PAUSE = re.compile(r"silence_(start|end): (-?\d+(?:\.\d+)?)")


@dataclass(slots=True)
class Media:
    """What is in a file; `seconds` is None where the file does not say."""

    seconds: float | None = None
    video: str | None = None
    audio: str | None = None
    tracks: int = 0  # of sound


@dataclass(frozen=True, slots=True)
class Sound:
    """The sound of a video, written as raw samples, and where in it no one speaks.

    Attributes:
        broken_off: Whether the file ended before its sound did.
    """

    seconds: float
    pauses: tuple[tuple[float, float], ...]
    broken_off: bool = False

    @property
    def silent(self) -> bool:
        """Whether it is silent throughout."""
        return sum(end - start for start, end in self.pauses) >= self.seconds - 0.5


def find_ffmpeg(settings: TrainingSettings) -> str:
    """The ffmpeg to run.

    Raises:
        ConfigurationError: There is none.
    """
    if settings.ffmpeg_path is not None:
        return settings.ffmpeg_path
    try:
        # an ffmpeg of 170 MB: not every deployment has it
        import imageio_ffmpeg
    except ImportError as error:
        raise ConfigurationError(
            "FFMPEG_PATH", "is not set, and imageio-ffmpeg is not installed here", "/opt/bin/ffmpeg"
        ) from error
    path: str = imageio_ffmpeg.get_ffmpeg_exe()
    return path


class Ffmpeg:
    """Runs one ffmpeg."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def look(self, file: Path) -> Media:
        """Find out what is in `file`, and whether its pictures can be read.

        Raises:
            ProcessorError: `not_a_video`.
        """
        lines: deque[str] = deque(maxlen=400)
        await self._run(_input(file), lines.append, seconds=PROBE_SECONDS)  # 1: it has no output
        media = read_description(lines)
        if any("moov atom not found" in line for line in lines):
            raise refused("incomplete", "The file is incomplete: its index, at its end, is missing")
        if media is None or (media.video is None and media.audio is None):
            raise refused("not_a_video", "The file is not a video that can be read here")
        if media.video is None:
            return media
        said: deque[str] = deque(maxlen=20)
        check = [*_input(file), "-map", "0:v:0", "-t", "1", "-f", "null", "-"]
        if await self._run(check, said.append, seconds=PROBE_SECONDS) != 0:
            raise refused("not_a_video", f"The video's pictures cannot be read ({media.video})")
        return media

    async def listen(
        self,
        file: Path,
        into: Path,
        *,
        seconds: float,
        most_seconds: float,
        track: int = 0,
        on_second: Callable[[float], None] | None = None,
    ) -> Sound:
        """Write the sound of `file` as raw samples, as shared/minutehand/ai/speech.py takes them.

        Args:
            seconds: Time for it.
            most_seconds: Longest sound that is taken.
            track: Which of several sounds.
            on_second: Called with the second that is decoded.

        Raises:
            ProcessorError: `video_too_long`, or `unreadable_audio`.
        """
        pauses: list[list[float]] = []
        said: deque[str] = deque(maxlen=20)
        cut_off: deque[str] = deque(maxlen=1)

        def read(line: str) -> None:
            if (reached := _OUT_TIME.fullmatch(line)) is not None:
                if on_second is not None:
                    on_second(int(reached[1]) / 1_000_000)
                return
            cut_off.extend(_BROKEN_OFF.findall(line)[:1])
            found = _PAUSE.search(line)
            if found is None:
                said.append(line)
            elif found[1] == "start" and len(pauses) < MOST_PAUSES:
                pauses.append([max(0.0, float(found[2])), float("inf")])
            elif found[1] == "end" and pauses:
                pauses[-1][1] = float(found[2])

        most_bytes = int((most_seconds + 1) * BYTES_PER_SECOND)
        # samples begin where the video does, however late the sound sets in
        chain = f"aresample={SAMPLES_PER_SECOND}:async=1:first_pts=0,{SILENCE}"
        code = await self._run(
            [
                *(*_input(file), "-map", f"0:a:{track}", "-vn", "-sn", "-dn", "-ac", "1"),
                *("-af", chain, "-t", f"{most_seconds + 1:.3f}", "-progress", "pipe:2"),
                *("-f", "s16le", "-y", f"file:{into}"),
            ],
            read,
            seconds=seconds,
            most_bytes=most_bytes,
        )
        length = _size(into) / BYTES_PER_SECOND
        if code != 0 and any("No space left on device" in line for line in said):
            raise later("no_room", "The worker's disk has no room for the sound")
        if length > most_seconds:
            raise refused("video_too_long", f"A video has at most {most_seconds:.0f} s of sound")
        if code != 0 or length == 0:
            raise refused("unreadable_audio", "The video's sound cannot be read")
        found = tuple((start, min(end, length)) for start, end in pauses if start < length)
        return Sound(length, found, broken_off=bool(cut_off))

    async def _run(
        self,
        arguments: Sequence[str],
        on_line: Callable[[str], None],
        *,
        seconds: float,
        most_bytes: int = 0,
    ) -> int:
        """Run ffmpeg and give it what it says, line by line; its exit code."""
        try:
            return await run_child(
                [self._path, "-hide_banner", "-nostdin", "-nostats", "-threads", "1", *arguments],
                on_line,
                seconds=seconds,
                most_bytes=most_bytes,
            )
        except TimeoutError as error:
            raise refused(
                "took_too_long",
                f"Reading the video took longer than {seconds:.0f} s of the processor",
            ) from error
        except OSError as error:
            raise ConfigurationError(
                "FFMPEG_PATH", "names nothing that runs here", "/opt/bin/ffmpeg"
            ) from error


def _input(file: Path) -> list[str]:
    # as options of the input, so that nothing inside the file can open anything else
    return [
        *("-protocol_whitelist", "file", "-format_whitelist", FORMATS),
        *("-max_pixels", str(MOST_PIXELS), "-i", f"file:{file}"),
    ]


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def read_description(lines: Sequence[str] | deque[str]) -> Media | None:
    """What ffmpeg says about its input; None when it could not open it."""
    media = Media()
    opened = False
    for line in lines:
        opened = opened or line.startswith("Input #0, ")
        if not opened:
            continue
        if (match := _DURATION.match(line)) is not None:
            media.seconds = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        elif (match := _STREAM.match(line)) is not None and "attached pic" not in match[3]:
            # the cover picture of a song is not a video
            if match[1] == "Video":
                media.video = media.video or match[2]
            else:
                media.audio = media.audio or match[2]
                media.tracks += 1
    return media if opened else None


def cut(
    length: float,
    pauses: Sequence[tuple[float, float]],
    *,
    target: float = 30.0,
    least: float = 15.0,
    most: float = 45.0,
) -> list[tuple[float, float]]:
    """Cut a sound into chunks of about `target` seconds, in pauses wherever there are any."""
    middles = [(start + end) / 2 for start, end in pauses]
    chunks: list[tuple[float, float]] = []
    at = 0.0
    while length - at > most:
        near = [middle for middle in middles if at + least <= middle <= at + most]
        end = min(near, key=lambda middle: abs(middle - at - target)) if near else at + target
        end = round(end, 3)
        chunks.append((at, end))
        at = end
    chunks.append((at, round(length, 3)))
    return chunks
