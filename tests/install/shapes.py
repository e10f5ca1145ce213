"""The corpus of projects of different shapes, each in a file of `tests/fixtures/corpus`.

A file has comments of the form `-- @directive arguments`. The text below a comment belongs to it:

- `@install OPTIONS` has the options of `minutehand install`.
- `@job TABLE TENANT ASSIGNMENT` describes a job for each new row of TABLE. TENANT is an expression
  for the id of the row's tenant. The job changes the row by ASSIGNMENT, an SQL `set` clause.
- `@file NAME` is a migration of the project.
- `@extra PATH` is a file of the project that is not applied.
- `@seed` has statements that run before the install, and `@seed-after` after the install.
- `@insert` inserts a row into TABLE.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.engine import ACME, ADA, EVE, GLOBEX
from tests.support.paths import ROOT

CORPUS = ROOT / "tests" / "fixtures" / "corpus"
_PEOPLE = {"{ADA}": ADA, "{EVE}": EVE, "{ACME}": ACME, "{GLOBEX}": GLOBEX}
_SECTION = re.compile(r"^-- @(\w[\w-]*) ?(.*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Shape:
    """A project's own files, as they are before an install."""

    name: str
    install: tuple[str, ...]
    table: str
    tenant: str
    sets: str
    #: The project's files by path.
    files: dict[str, str]
    rows: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of the corpus."""
        text = path.read_text()
        for name, value in _PEOPLE.items():
            text = text.replace(name, value)
        sections: dict[str, list[tuple[str, str]]] = defaultdict(list)
        _, *parts = _SECTION.split(text)
        for kind, argument, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            sections[kind].append((argument, body))
        table, tenant, sets = sections["job"][0][0].split(" ", 2)
        files = {f"supabase/migrations/{name}": body for name, body in sections["file"]}
        files |= dict(sections.get("extra", ()))
        rows = {kind: body for kind, [(name, body), *_] in sections.items() if not name}
        options = tuple(sections["install"][0][0].split())
        return cls(path.stem, options, table, tenant, sets, files, rows)

    @property
    def schema(self) -> str:
        """The schema of the tables and functions that clients use."""
        options = dict(zip(self.install, self.install[1:], strict=False))
        return options.get("--schema", "minutehand")
