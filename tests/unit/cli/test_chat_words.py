"""A text that is being written, out of overlapping pieces, and a question at a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from infra.cli.chat_follow import grown, prompted
from infra.cli.output import Output


def test_a_text_is_joined_from_pieces_of_which_some_are_missed() -> None:
    """Counted in characters, as the worker counts; what is no text changes nothing."""
    known = (0, "")
    for stage, message in (
        ("text:0", "The röof 🏠"),
        ("thinking", "a moment"),
        ("text:9", "is mended"),
        ("text:2", "e röof is mended."),
    ):
        known = grown(known, {"stage": stage, "message": message})
    assert known == (0, "The röof is mended.")
    assert grown(known, {"stage": "text:400", "message": "late"}) == (400, "late")
    assert grown(known, {}) == known


def test_a_question_is_answered_by_an_option_or_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until it is one; where there are no options any text that says something will do."""
    output = Output()
    shown = io.StringIO()
    monkeypatch.setattr(output, "out", Console(file=shown))
    monkeypatch.setattr(output, "err", Console(file=shown))
    given = iter(["0", "4", "two", "", "2", "The city", " ", "1"])

    def ask(*_: object, **__: object) -> str:
        return next(given)

    item = {
        "title": "Draft",
        "question": "For whom?\x1b[2J",
        "question_options": ["The city", "The museum"],
    }
    assert prompted(output, item, ask) == "The museum"
    assert prompted(output, item, ask) == "The city"
    assert prompted(output, {**item, "question_options": None}, ask) == "1"
    assert "\x1b" not in shown.getvalue()
    assert "Draft: For whom?" in shown.getvalue()
    assert "2  The museum" in shown.getvalue()
