"""A transcript as subtitles: WebVTT and SubRip, both plain text with times."""

from __future__ import annotations

from collections.abc import Sequence

from minutehand_apps.training.models import SpokenSegment

#: A cue that ends where it begins is shown by no player.
LEAST_SECONDS = 0.1


def webvtt(segments: Sequence[SpokenSegment]) -> str:
    """A transcript as WebVTT; what was said stays text.

    References:
        https://www.w3.org/TR/webvtt1/
    """
    cues = [
        f"{_clock(s.start, '.')} --> {_clock(_end(s), '.')}\n{_escape(_line(s.text))}\n"
        for s in segments
    ]
    return "\n".join(["WEBVTT\n", *cues])


def subrip(segments: Sequence[SpokenSegment]) -> str:
    """A transcript as SubRip, numbered from 1."""
    return "\n".join(
        f"{number}\n{_clock(s.start, ',')} --> {_clock(_end(s), ',')}\n{_line(s.text)}\n"
        for number, s in enumerate(segments, 1)
    )


def _end(said: SpokenSegment) -> float:
    return max(said.end, said.start + LEAST_SECONDS)


def _clock(seconds: float, point: str) -> str:
    whole = round(seconds * 1000)
    hours, minutes = whole // 3_600_000, whole // 60_000 % 60
    return f"{hours:02}:{minutes:02}:{whole // 1000 % 60:02}{point}{whole % 1000:03}"


def _line(text: str) -> str:
    # an empty line would end the cue, an arrow would begin one
    return " ".join(text.split()).replace("-->", "->")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
