"""Tables on a narrow terminal: what goes, what is cut, and what is never lost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pytest
from rich.console import Console

from minutehand.terminal.output import Output

ROWS: list[dict[str, str | None]] = [
    {"id": "01a1fd64-6466-75a7-9288-1de50b0726a2", "job_type": "greet", "state": "completed",
     "ran": "1 min 20 s", "created_at": "2026-11-21T10:00:00+00:00", "error_message": None},
    {"id": "01a1fd63-ff11-7ec7-8f96-b7023ba48522", "job_type": "import_rates", "state": "failed",
     "ran": "1.2 s", "created_at": "2026-11-21T10:00:00+00:00", "error_message": "no rate for XAU"},
]  # fmt: skip
COLUMNS = {name: name.upper() for name in ROWS[0]}


def printed(
    rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], width: int, *spare: str
) -> list[str]:
    """The table's lines on a terminal of that width."""
    output, text = Output(), io.StringIO()
    output.out = Console(file=text, width=width, highlight=False)
    output.table(rows, columns, empty="none", spare=spare)
    return text.getvalue().splitlines()


def test_a_wide_terminal_shows_everything() -> None:
    """Ids whole, as scripts and people copy them."""
    lines = printed(ROWS, COLUMNS, 200, "ran", "created_at")

    assert "RAN" in lines[0]
    assert str(ROWS[0]["id"]) in lines[1]


@pytest.mark.parametrize(("width", "gone"), [(100, 0), (70, 1), (60, 2)])
def test_a_narrow_one_shortens_ids_then_goes_without_columns(width: int, gone: int) -> None:
    """In the order given; the error, of which one asks most, stays."""
    lines = printed(ROWS, COLUMNS, width, "ran", "created_at")

    assert all(len(line.rstrip()) <= width for line in lines)
    assert "no rate for XAU" in lines[2]
    assert lines[2].startswith("3ba48522 ")
    assert [name in lines[0] for name in ("RAN", "CREATED_AT")] == [gone < 1, gone < 2]
