"""What people read is plain English in the field's terms, see CONTRIBUTING's word list."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.lint

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
    r"\b(?:is|are|was|were) away\b": "is unavailable",
    r"\bis there already\b": "already exists",
    r"\b(?:fell silent|br(?:oke|oken) off|given up)\b": "did not answer, ended early, abandoned",
    r"\bround again\b": "again",
    r"\bas asked for\b": "in the requested form",
    r"\btells (?:which|who|whether|what|how)\b": "shows, reports",
    r"\b(?:has|have) not$": "is without",
    r"\b[Ee]xtra worker workers?\b": "extra workers",
    r"\b[Ll]ook into (?:its|the)\b": "see, check",
}
#: The same for pages, docstrings and comments, which may also say 'there is no …'.
DROPPED_IN_PROSE = {
    r"(?<![Tt]here )\b(?:is|are|was|were) no (?!longer|more\b|one\b|work\b)": "is not a …",
    r"\banew\b": "again",
    r"\b(?:Nobody|[Ss]omebody|[Aa]nybody|[Ee]verybody|[Ww]hoever|[Ww]hichever)\b": "no one, any …",
    r"\b(?:is|are|was|were) (?:away|heard|told)\b": "is unavailable, received, notified",
    r"\b(?:as it|it|rules|bounds|loop) stands?\b": "is",
    r"\bstands (?:for|still|in the way)\b": "means, is blocked, conflicts",
    r"\b(?:left out|given up|for ever)\b": "omitted, abandoned, permanently",
    r"\bfrom its top\b": "from the beginning",
    r"\b[Rr]ehearsals?\b": "test",
}
SHAPE = re.compile("|".join(DROPPED))
PROSE = re.compile("|".join(DROPPED_IN_PROSE))
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


Reader = Callable[[Path], Iterator[tuple[int, str]]]
READERS: dict[str, Reader] = {".py": _python, ".js": _script, ".mjs": _script, ".sql": _sql}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    return enumerate(path.read_text("utf-8").splitlines(), start=1)


def _comments(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings and comments of Python, line by line, without what a literal holds."""
    in_docstring = False
    for number, line in _lines(path):
        if in_docstring or '"""' in line or line.lstrip().startswith("#"):
            yield number, line
        in_docstring ^= line.count('"""') == 1


def _script_comments(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in _lines(path):
        if line.lstrip().startswith(("//", "*", "/*")):
            yield number, line


PROSE_READERS: dict[str, Reader] = {
    ".md": _lines,
    ".py": _comments,
    ".js": _script_comments,
    ".mjs": _script_comments,
    ".sql": _sql,
}


def _texts(readers: Mapping[str, Reader] = READERS) -> Iterator[tuple[Path, int, str]]:
    pages = [ROOT / "README.md", *(ROOT / ".github").rglob("*")]
    folders = ("shared", "functions", "infra", "supabase")
    for path in sorted({*pages, *(one for name in folders for one in (ROOT / name).rglob("*"))}):
        place = path.relative_to(ROOT).as_posix()
        if any(part in {"vendor", "node_modules", "__pycache__"} for part in path.parts):
            continue
        if path.suffix in readers and not any(part in f"/{place}" for part in LEFT_OUT):
            for line, text in readers[path.suffix](path):
                yield path.relative_to(ROOT), line, text


def test_texts_for_people_have_no_dropped_shape() -> None:
    """Messages, help, pages and refusals; the place and what to write are named."""
    found = [
        f"{path}:{line}: {match[0]!r} in {text.strip()[:100]!r}"
        for path, line, text in _texts()
        if (match := SHAPE.search(text))
    ]

    assert found == []


def test_pages_docstrings_and_comments_have_no_dropped_shape() -> None:
    """What a new engineer reads after the messages."""
    found = [
        f"{path}:{line}: {match[0]!r} in {text.strip()[:100]!r}"
        for path, line, text in _texts(PROSE_READERS)
        if (match := PROSE.search(text.replace("`nobody`", "")))
    ]

    assert found == []


@pytest.mark.parametrize(
    "text", ["jobTypes is no list", "Something else is in the way", "sign in anew", "Went to wait"]
)
def test_a_dropped_shape_is_found(text: str) -> None:
    """The expression itself: one that matches nothing would hold for any text."""
    assert SHAPE.search(text)


@pytest.mark.parametrize("text", ["a JWT is no key", "the loop stands still", "what was left out"])
def test_a_dropped_shape_is_found_in_prose(text: str) -> None:
    """As above, for pages and comments."""
    assert PROSE.search(text)


#: Words that names of tests do not use either, see the word list.
DROPPED_IN_NAMES = re.compile(
    r"_(?:told|tells?|nobody\w*|somebody\w*|whoever|anew|hears?|heard|stands|go(?:es)?_on|left_alone)(?:_|$)"
)


def test_the_names_of_tests_are_plain_too() -> None:
    """Read one after the other, the names in a file are its list of promises."""
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
        if DROPPED_IN_NAMES.search(name)
    ]

    assert found == []
