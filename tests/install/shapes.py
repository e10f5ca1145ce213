"""The corpus of projects of different shapes, each in a file of `tests/fixtures/corpus`.

A file has comments of the form `-- @directive arguments`. The text below a comment belongs to it:

- `@install OPTIONS` has the options of `minutehand install`.
- `@job TABLE TENANT ASSIGNMENT` describes a job for each new row of TABLE. TENANT is an expression
  for the id of the row's tenant. The job changes the row by ASSIGNMENT, an SQL `set` clause.
- `@file NAME` is a migration of the project.
- `@repeat COUNT NAME` is COUNT migrations, which replace `{n}` in text and name by their number.
- `@extra PATH` is a file of the project that is not applied.
- `@seed` has statements that run before the install, and `@seed-after` after the install.
- `@insert` inserts a row into TABLE.
- `@remove` deletes this row if a plain delete cannot.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.engine import ACME, ADA, EVE, GLOBEX
from tests.support.paths import ROOT

CORPUS = ROOT / "tests" / "fixtures" / "corpus"
_PEOPLE = {"{ADA}": ADA, "{EVE}": EVE, "{ACME}": ACME, "{GLOBEX}": GLOBEX}
_SECTION = re.compile(r"^-- @(\w[\w-]*) ?(.*)\n", re.MULTILINE)
BREAKPOINT = "--> statement-breakpoint"


@dataclass(frozen=True)
class Shape:
    """A project's own files, as they are before an install."""

    name: str
    install: tuple[str, ...]
    table: str
    tenant: str
    sets: str
    #: The project's files by path, in the order in which they are applied.
    files: dict[str, str]
    extras: dict[str, str]
    rows: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of the corpus."""
        text = path.read_text("utf-8")
        for name, value in _PEOPLE.items():
            text = text.replace(name, value)
        sections: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for kind, argument, body in _sections(text):
            sections[kind].append((argument, body))
        # A table's name may be quoted and contain a blank.
        table, tenant, sets = re.match(
            r'((?:"[^"]*"|[\w.])+) ((?:"[^"]*"|\S)+) (.*)', sections["job"][0][0]
        ).groups()  # type: ignore[union-attr]
        files = {}
        for name, body in sections["file"]:
            files[name if "/" in name else f"supabase/migrations/{name}"] = body
        for argument, body in sections["repeat"]:
            count, _, pattern = argument.partition(" ")
            for n in range(len(files), len(files) + int(count)):
                files[pattern.replace("{n:04}", f"{n:04}")] = body.replace("{n}", str(n))
        rows = {kind: body for kind, parts in sections.items() for name, body in parts if not name}
        extras = dict(sections["extra"])
        options = _options(sections["install"][0][0])
        return cls(path.stem, options, table, tenant, sets, files, extras, rows)

    @property
    def schema(self) -> str:
        """The schema of the tables and functions that clients use."""
        options = dict(zip(self.install, self.install[1:], strict=False))
        return options.get("--schema", "minutehand")

    def write(self, project: Path) -> None:
        """Write the project's files into a folder."""
        for name, text in {**self.files, **self.extras}.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")


def shapes() -> list[Shape]:
    """Read all projects of the corpus, sorted by name."""
    return [Shape.read(path) for path in sorted(CORPUS.glob("*.sql"))]


def _sections(text: str) -> Iterator[tuple[str, str, str]]:
    marks = list(_SECTION.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        yield mark[1], mark[2], text[mark.end() : following.start() if following else len(text)]


def _options(line: str) -> tuple[str, ...]:
    # Quotes in the line belong to SQL names, and not to a shell.
    return tuple(shlex.split(line.replace('"', r"\""), posix=True))
