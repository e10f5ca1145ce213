"""JSON on a terminal: control characters that a terminal obeys travel as escapes."""

from __future__ import annotations

import json

import pytest

from minutehand.terminal.output import Output


def test_json_holds_no_control_character_of_either_set(capsys: pytest.CaptureFixture[str]) -> None:
    """U+009B begins a command as ESC [ does; what is parsed stays the same."""
    value = {"error": "\x1b[2J \x7f \x9b2J \x80\x9f é"}

    Output(as_json=True).line(value)

    written = capsys.readouterr().out
    assert json.loads(written) == value
    assert not [c for c in written[:-1] if ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F]
    assert "é" in written
