"""The present text of the engine and the apps, cut into the statements that make each object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minutehand.install.catalog import ENGINE
from supabase_local.statements import split_statements

#: What a statement makes or says something of, by its first words.
_NAME = r'(?P<name>"[^"]+"|[\w.]+)'
_ON = r'(?P<name>"[^"]+"|\w+)\b.*? on (?P<on>[\w.]+)'
_FORMS = tuple(
    (kind, re.compile(form, re.DOTALL))
    for kind, form in (
        ("function", rf"create (?:or replace )?function {_NAME}"),
        ("function", rf"comment on function {_NAME}"),
        ("function", rf"(?:revoke|grant) execute on function {_NAME}[\s(]"),
        ("function", rf"select queue\.allow\('[^']*', '{_NAME}'\)"),
        ("view", rf"create (?:or replace )?view {_NAME}"),
        ("type", rf"create type {_NAME}"),
        ("trigger", rf"create (?:constraint )?trigger {_ON}"),
        ("index", rf"create (?:unique )?index {_ON}"),
        ("table", rf"create (?:unlogged )?table (?:if not exists )?{_NAME}"),
        ("table", rf"alter table {_NAME} enable row level security"),
        ("table", rf"revoke all on {_NAME} from"),
        ("sequence", rf"create (?:unlogged )?sequence {_NAME}"),
        ("schema", rf"create schema (?:if not exists )?{_NAME}"),
        ("schema", rf"(?:revoke|grant) \w+ on schema {_NAME}"),
        ("comment", r"comment on (?P<name>(?!function)\w+ [\w.]+)"),
        ("rows", rf"insert into {_NAME} \("),
    )
)


@dataclass(frozen=True)
class Part:
    """What has a migration of its own: the engine, or an app with tables."""

    name: str
    home: Path

    @property
    def schemas(self) -> list[Path]:
        """Its present text, in the order in which it is read and applied."""
        return sorted((self.home / "schemas").glob("*.sql"))

    @property
    def migrations(self) -> list[Path]:
        """What its releases wrote, the oldest first."""
        return sorted((self.home / "migrations").glob("*.sql"))

    def steps(self, release: str) -> Path:
        """What a person writes for a release: the statements that no text of the present has."""
        return self.home / "steps" / f"{release}.sql"


def parts_of(root: Path) -> list[Part]:
    """List what a release installs: the engine, then the package's own apps."""
    return [Part(ENGINE, root / "supabase"), *_apps_in(root / "shared" / "minutehand")]


def apps_of(root: Path) -> list[Part]:
    """List the apps that no release installs."""
    return _apps_in(root / "shared" / "minutehand_apps")


def _apps_in(folder: Path) -> list[Part]:
    return [Part(path.parent.name, path.parent) for path in sorted(folder.glob("*/schemas"))]


@dataclass(frozen=True)
class Piece:
    """One statement, and the object that it makes; an object is `kind name`."""

    object: str
    text: str

    @property
    def is_creation(self) -> bool:
        """Whether it makes the object, rather than saying something of it."""
        return without_comments(self.text).startswith("create ")


def pieces_of(part: Part) -> list[Piece]:
    """Cut a part's present text; what makes no object, as a `do` block, is left out."""
    return [piece for path in part.schemas for piece in _pieces(path.read_text("utf-8"))]


def _pieces(text: str) -> Iterator[Piece]:
    for statement in split_statements(text):
        code = without_comments(statement)
        for kind, form in _FORMS:
            if found := form.match(code):
                name = found["name"]
                if "on" in found.groupdict():
                    name = f"{name} on {found['on']}"
                yield Piece(f"{kind} {name}", f"{statement};")
                break


def without_comments(statement: str) -> str:
    """Drop the lines of comment above a statement."""
    return re.sub(r"\A(?:\s*--[^\n]*\n)+", "", statement).lstrip()
