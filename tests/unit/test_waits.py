"""No test passes by waiting: what a fallback would find in time is not what the test is about."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

#: Intervals of fallbacks, as they are named where a test sets them.
INTERVALS = {"check", "interval", "keep_alive", "lives", "look_again", "poll", "poll_seconds"}
#: In seconds: a wait's limit is from a few to 300; a fallback comes long before or long after it.
QUICK, NEVER = 5, 600


def intervals() -> Iterator[tuple[str, int, float]]:
    """Each interval that a test sets, with its file and line."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.keyword) and node.arg in INTERVALS):
                continue
            match node.value:
                case ast.Constant(value=int() | float() as seconds):
                    yield path.name, node.value.lineno, seconds


@pytest.mark.lint
def test_no_waits_limit_is_beyond_the_interval_of_a_fallback() -> None:
    """A test of readers that are woken waited half a minute until each had found out by itself."""
    found = list(intervals())

    assert len(found) > 10
    assert [each for each in found if QUICK <= each[2] < NEVER] == []
