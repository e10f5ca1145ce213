"""An answer for an agent fits its window, whatever a job holds, and says what is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minutehand.cli.bounded import MOST_BYTES, PIECE, bounded, leading, piece, short, size_of

DEEP: Any = "end"
for _ in range(100):
    DEEP = {"next": DEEP, "beside": ["x" * 50] * 3}
HUGE = [
    "ü" * 300_000,
    {f"{n}{'k' * 300}": "v" * 90 for n in range(300)},
    [{f"field {n}": {"text": "“" * 80} for n in range(40)} for _ in range(30)],
    DEEP,
    [[[["\x00" * 300] * 8] * 8] * 8],
]


@pytest.mark.parametrize("value", HUGE, ids=["text", "object", "table", "deep", "nested"])
def test_whatever_a_job_holds_the_answer_fits(value: Any) -> None:
    """As a whole, as one row of many, and as a piece of it."""
    whole, rows = bounded({"payload": value}), leading([value] * 3)

    assert size_of(whole) <= MOST_BYTES
    assert "(truncated: " in json.dumps(whole)
    assert rows
    assert size_of({"rows": rows, "next_cursor": 10**9}) <= MOST_BYTES
    assert size_of({"part": "payload", **piece(value, 0)}) <= MOST_BYTES


def test_pieces_are_the_whole_and_hold_no_secret() -> None:
    """Cut anywhere, put together again."""
    value = {"n": list(range(3_000)), "password": "correct horse", "small": None}
    text, offset = "", 0
    while offset is not None:
        part = piece(value, offset)
        text, offset = text + part["json"], part["next_offset"]

    assert len(text) > 2 * PIECE
    assert json.loads(text) == {**value, "password": "[hidden]"}
    assert piece("x" * (PIECE - len('""')), 0)["next_offset"] is None, "no empty piece follows"


def test_a_rows_text_is_short_and_holds_no_secret() -> None:
    """An error's message is what a vendor answered."""
    text = short("postgresql://ada:hunter2@db.test/app refused " + "x" * 400)

    assert text is not None
    assert "hunter2" not in text
    assert text.endswith("characters)")
    assert short(None) is None


def test_what_fits_is_left_as_it_is() -> None:
    """No word of a small answer is lost."""
    value = {"a": ["x", 1, None, {"b": True}], "text": "ß" * 1_000}

    assert bounded(value) == value
