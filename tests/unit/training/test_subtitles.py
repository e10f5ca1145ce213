"""Transcripts as subtitles: the two formats' own rules, whatever was said."""

from __future__ import annotations

from minutehand_apps.training.models import SpokenSegment
from minutehand_apps.training.subtitles import subrip, webvtt

SAID = [
    SpokenSegment(start=0.0, end=1.5, text="turn it off"),
    SpokenSegment(start=3661.25, end=3661.25, text="a <b> & --> c\n\nd"),
]


def test_webvtt_has_its_head_and_escapes_markup() -> None:
    """An arrow or an empty line inside a cue would end it."""
    assert webvtt(SAID) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nturn it off\n\n"
        "01:01:01.250 --> 01:01:01.350\na &lt;b&gt; &amp; -&gt; c d\n"
    )
    assert webvtt([]) == "WEBVTT\n"


def test_subrip_is_numbered_and_has_commas() -> None:
    """As players expect it."""
    assert subrip(SAID).splitlines()[:3] == ["1", "00:00:00,000 --> 00:00:01,500", "turn it off"]
    assert subrip(SAID).splitlines()[4:6] == ["2", "01:01:01,250 --> 01:01:01,350"]
