"""Refused rows as they are handed back, for a spreadsheet to open."""

from __future__ import annotations

import csv
import io

import pytest

from minutehand.apps.enrichment.import_routes import _csv_line


@pytest.mark.parametrize(
    ("cell", "kept"),
    [
        ("plain, text; here", "plain, text; here"),
        ("=cmd()", "'=cmd()"),
        ("ok;=cmd()|x", "ok;'=cmd()|x"),
        ("ok,\t=cmd()", "ok,\t'=cmd()"),
        ("ok|@x;-1", "ok|'@x;'-1"),
        ("a\n+1", "a\n'+1"),
        ("\r=1", "'\r'=1"),
        ("2-1=1", "2-1=1"),
    ],
)
def test_no_cell_is_a_formula_whichever_separator_the_reader_takes(cell: str, kept: str) -> None:
    """A row of somebody's file is text, also where a list is cut at semicolons."""
    line = _csv_line([5, "", cell])

    assert next(csv.reader(io.StringIO(line, newline=""))) == ["5", "", kept]
