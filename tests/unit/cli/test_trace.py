"""The waterfall in a terminal: what a trace's rows say, and what fits into a line."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from minutehand.cli.trace import Span, bar, draw, rows_of
from minutehand.terminal.output import Output


def at(second: float) -> str:
    """An instant of the test's minute."""
    return f"2026-11-21T10:00:{second:06.3f}+00:00"


def job(name: str, parent: str | None = None, **more: Any) -> dict[str, Any]:
    """A job as the API gives it in a trace."""
    empty: dict[str, Any] = {
        "finished_at": None,
        "error_message": None,
        "attempts": [],
        "steps": [],
    }
    empty |= {"next_retry_at": None, "scheduled_for": None}
    made = {"id": name, "parent_id": parent, "job_type": name, "status": "processing"}
    return {**made, "created_at": at(0), **empty, **more}


def run_of(attempt: int, start: float, end: float | None, outcome: str | None) -> dict[str, Any]:
    """An attempt of a trace."""
    error = "no rate" if outcome in {"retry", "failed"} else None
    ended = None if end is None else at(end)
    return {
        "attempt": attempt, "leased_at": at(start), "ended_at": ended, "outcome": outcome,
        "error_message": error,
    }  # fmt: skip


@pytest.fixture
def trace() -> dict[str, Any]:
    """A job that failed once, runs again, and has a child that has not begun."""
    step = {"name": "fetch", "kind": "step", "started_at": at(31), "ended_at": at(35)}
    whole = job(
        "whole", attempts=[run_of(1, 10, 20, "retry"), run_of(2, 30, None, None)], steps=[step]
    )
    part = job("part", "whole", status="pending", created_at=at(36), scheduled_for=at(50))
    return {"now": at(40), "more": False, "jobs": [whole, part]}


def test_time_is_divided_without_gaps(trace: dict[str, Any]) -> None:
    """Queued, run, the wait before the retry, and the run that is under way."""
    whole, *rest = rows_of(trace)

    assert [(span.kind, span.start, span.end) for span in whole.spans] == [
        ("queued", 0, 10_000),
        ("failed", 10_000, 20_000),
        ("backoff", 20_000, 30_000),
        ("run", 30_000, 40_000),
    ]
    assert [(row.level, row.name, row.state) for row in rest] == [
        (1, "attempt 1", "retry"),
        (1, "attempt 2", "running"),
        (1, "fetch", "done"),
        (1, "part", "scheduled"),
    ]


def test_what_is_shorter_than_a_character_is_still_seen() -> None:
    """And nothing is drawn beyond the end."""
    assert bar([Span("step", 99_999, 100_000)], 100_000, 20).plain == " " * 19 + "▬"
    assert bar([Span("run", 0, 50)], 100, 10).plain == "█" * 5 + " " * 5


@pytest.mark.parametrize("width", [40, 60, 200])
def test_every_line_fits_the_terminal(trace: dict[str, Any], width: int) -> None:
    """A narrow one shows the numbers without bars."""
    trace["jobs"][1]["job_type"] = "a_type_with_a_name_that_is_longer_than_most.of.them.are"
    output = Output()
    output.out = Console(file=io.StringIO(), width=width, soft_wrap=True, highlight=False)

    draw(output, trace)

    lines = output.out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 5
    assert max(map(len, lines)) <= max(width, 49)  # the numbers are never cut
    assert any("█" in line for line in lines) == (width > 40)
