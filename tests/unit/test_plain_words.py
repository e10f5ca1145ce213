"""What people read is plain English in the field's terms, see CONTRIBUTING's word list."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Shapes that an engineer would neither write nor search for, each with what is written instead.
DROPPED = {
    r"(?<!re )\b(?:is|are) no (?!longer|more\b|one\b|request for work)": "'must be' or 'is not a'",
    r"\banew\b": "again",
    r"\b[Nn]obody\b(?! works on)(?=[ .,;:]\S*\w)|\w [Nn]obody\b": "no one",
    r"\b[Ss]omebody\b": "someone",
    r"\b[Ww]hoever\b": "anyone who, the caller",
    r"\b[Nn]o such thing\b": "Not found",
    r"\bSomething else is in the way\b": "Conflict",
    r"\bleave --\w+ away\b": "omit --option",
    r"\b[Ww]ent to wait\b": "Suspended",
    r"\bLooked for\b": "checked",
    r"\bgave out\b": "is not a valid …",
    r"\b(?:is|was) left alone\b": "is unchanged",
    r"\bgo(?:es)? on by itself\b": "continues",
    r"\b[Ll]apse[sd]?\b": "expire",
    r"\b[Rr]evived?\b": "retry",
    r"\b[Ss]iblings?\b": "extra workers",
    r"\b[Cc]hores?\b": "maintenance",
}
SHAPE = re.compile("|".join(DROPPED))
#: Texts that are data, or written by another rule: what a plan says, a model's prompts, demo talk.
LEFT_OUT = (
    "/planning/",
    "/offline/",
    "/examples/",
    "prompts.py",
    "/seeds/",
    "/realtime/",
    "demo.py",
)


def _python(path: Path) -> Iterator[tuple[int, str]]:
    """String literals that are not documentation: messages, help texts, descriptions."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in documentation:
            continue
        if isinstance(node.value, str):
            yield node.lineno, node.value


def _script(path: Path) -> Iterator[tuple[int, str]]:
    """Lines without their comments."""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.lstrip().startswith(("//", "*", "/*")):
            yield number, line.split(" // ")[0]


def _sql(path: Path) -> Iterator[tuple[int, str]]:
    """Every line: refusals, remarks, and the comments on objects, which the Data API publishes."""
    yield from enumerate(path.read_text("utf-8").splitlines(), start=1)


READERS = {".py": _python, ".js": _script, ".mjs": _script, ".sql": _sql}


def _texts() -> Iterator[tuple[Path, int, str]]:
    for folder in ("shared", "functions", "infra", "supabase"):
        for path in sorted((ROOT / folder).rglob("*")):
            place = path.relative_to(ROOT).as_posix()
            if any(part in {"vendor", "node_modules", "__pycache__"} for part in path.parts):
                continue
            if path.suffix in READERS and not any(part in f"/{place}" for part in LEFT_OUT):
                for line, text in READERS[path.suffix](path):
                    yield path.relative_to(ROOT), line, text


def test_texts_for_people_have_no_dropped_shape() -> None:
    """Messages, help, pages and refusals; the place and what to write are named."""
    found = [
        f"{path}:{line}: {match[0]!r} in {text.strip()[:100]!r}"
        for path, line, text in _texts()
        if (match := SHAPE.search(text))
    ]

    assert found == []


@pytest.mark.parametrize(
    "text", ["jobTypes is no list", "Something else is in the way", "sign in anew", "Went to wait"]
)
def test_a_dropped_shape_is_found(text: str) -> None:
    """The expression itself: one that matches nothing would hold for any text."""
    assert SHAPE.search(text)
