"""What people read is plain English in the field's terms, see CONTRIBUTING's word list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.lint

ROOT = Path(__file__).parents[2]
#: Shapes that an engineer would neither write nor search for, each with what is written instead.
DROPPED = {
    r"\banew\b": "again",
    r"\b(?:[Nn]obody|[Ss]omebody|[Aa]nybody|[Ww]hoever|[Ww]hichever)\b": "no one, any …",
    r"\b[Ss]omething else is in the way\b": "conflict",
    r"\bleave --\w+ away\b": "omit --option",
    r"\b[Ll]apse[sd]?\b": "expire",
    r"\b[Ss]iblings?\b": "extra workers",
    r"\b[Cc]hores?\b": "maintenance",
    r"\b(?:is|are|was|were) (?:away|heard|told)\b": "is unavailable, received, notified",
    r"\bas asked for\b": "in the requested form",
    r"\bstands (?:for|still|in the way)\b": "means, is blocked, conflicts",
    r"\b(?:left out|given up|for ever)\b": "omitted, abandoned, permanently",
    r"\bfrom its top\b": "from the beginning",
    r"\b[Rr]ehearsals?\b": "test",
}
SHAPE = re.compile("|".join(DROPPED))
#: Names that the product's own data or a protocol has.
NAMES = re.compile(r"`nobody`|USER nobody|[\"']nobody[\"']")
SUFFIXES = {".py", ".js", ".mjs", ".sql", ".md", ".html"}
SKIPPED = {"vendor", "node_modules", "__pycache__", "examples", "seeds", ".github"}


def lines() -> Iterator[tuple[str, str]]:
    pages = [ROOT / "README.md"]
    folders = ("shared", "functions", "infra", "supabase")
    for path in sorted({*pages, *(one for name in folders for one in (ROOT / name).rglob("*"))}):
        if path.suffix in SUFFIXES and not SKIPPED & set(path.parts):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
                yield f"{path.relative_to(ROOT)}:{number}", NAMES.sub("", line)


def test_what_is_read_has_no_dropped_shape() -> None:
    """Messages, help, pages, docstrings and comments; the place and the words are named."""
    found = [f"{at}: {match[0]!r}" for at, line in lines() if (match := SHAPE.search(line))]

    assert found == []
