"""Splits the SQL sources of the engine and of the apps into statements, with their objects."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minutehand.install.catalog import ENGINE
from supabase_local.statements import split_statements

# patterns that match an SQL statement and find the object that the statement creates or describes
_NAME = r'(?P<name>"[^"]+"|[\w.]+)'
_ON = r'(?P<name>"[^"]+"|\w+)\b.*? on (?P<on>[\w.]+)'
_FORMS = tuple(
    (kind, re.compile(form, re.DOTALL))
    for kind, form in (
        ("function", rf"create (?:or replace )?function {_NAME}"),
        ("function", rf"comment on function {_NAME}"),
        ("function", rf"(?:revoke|grant) execute on function {_NAME}[\s(]"),
        ("function", rf"select queue\.allow\('[^']*', '{_NAME}'\)"),
        ("functions", rf"revoke execute on all functions in schema {_NAME}"),
        ("tables", rf"select {_NAME}\.close_tables\(\)"),
        ("view", rf"create (?:or replace )?view {_NAME}"),
        ("type", rf"create type {_NAME}"),
        ("trigger", rf"create (?:constraint )?trigger {_ON}"),
        ("table", rf"create (?:unlogged )?table (?:if not exists )?{_NAME}"),
        ("table", rf"alter table {_NAME} enable row level security"),
        ("table", rf"revoke all on {_NAME} from"),
        ("sequence", rf"create (?:unlogged )?sequence {_NAME}"),
    )
)


@dataclass(frozen=True)
class Part:
    """The engine, or an app with tables. Each such part of a release has its own migrations."""

    name: str
    home: Path

    @property
    def schemas(self) -> list[Path]:
        """Files of the current sources, in the order of their execution."""
        return sorted((self.home / "schemas").glob("*.sql"))

    @property
    def migrations(self) -> list[Path]:
        """Migrations of the part's releases, the oldest release first."""
        return sorted((self.home / "migrations").glob("*.sql"))

    def steps(self, release: str) -> Path:
        """Return the path of the file with the statements that a person wrote for a release."""
        return self.home / "steps" / f"{release}.sql"


def parts_of(root: Path) -> list[Part]:
    """List the parts that a release contains: the engine, then Minutehand's own apps."""
    return [Part(ENGINE, root / "supabase"), *_apps_in(root / "shared" / "minutehand")]


def apps_of(root: Path) -> list[Part]:
    """List the apps whose migrations are not part of a release."""
    return _apps_in(root / "shared" / "minutehand_apps")


def _apps_in(folder: Path) -> list[Part]:
    return [Part(path.parent.name, path.parent) for path in sorted(folder.glob("*/schemas"))]


@dataclass(frozen=True)
class Piece:
    """An SQL statement, with the object that the statement creates or describes as `kind name`."""

    object: str
    text: str

    @property
    def is_creation(self) -> bool:
        """True if the statement creates its object."""
        return without_comments(self.text).startswith("create ")


def pieces_of(part: Part) -> Iterator[Piece]:
    """Split a part's SQL sources into statements.

    Statements of other kinds than in `_FORMS` are omitted.
    """
    texts = (path.read_text() for path in part.schemas)
    for statement in itertools.chain.from_iterable(map(split_statements, texts)):
        code = without_comments(statement)
        for kind, form in _FORMS:
            if match := form.match(code):
                name = match["name"]
                if "on" in match.groupdict():
                    name = f"{name} on {match['on']}"
                yield Piece(f"{kind} {name}", f"{statement};")
                break


def without_comments(statement: str) -> str:
    """Return an SQL statement without the comment lines above the statement."""
    return re.sub(r"\A(?:\s*--[^\n]*\n)+", "", statement).lstrip()
