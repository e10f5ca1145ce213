"""The corpus: shapes of projects, each a file of `tests/fixtures/corpus`.

A file begins with `-- @install` (the options of `minutehand install`) and `-- @job` (its table, the
tenant of a new row, what the job sets there). Then come the project's own files: `@file` of its
migrations, `@repeat` for many, `@extra` for what is not applied; `@seed` and `@insert` are rows,
`@remove` undoes the insert where a plain delete does not.
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
    """One project's own part, before an install."""

    name: str
    install: tuple[str, ...]
    table: str
    tenant: str
    sets: str
    #: Applied in this order, by path in the project.
    files: dict[str, str]
    extras: dict[str, str]
    rows: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read one of the corpus."""
        text = path.read_text("utf-8")
        for name, value in _PEOPLE.items():
            text = text.replace(name, value)
        named: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for kind, said, body in _sections(text):
            named[kind].append((said, body))
        # a name may be quoted and hold a blank
        table, tenant, sets = re.match(
            r'((?:"[^"]*"|[\w.])+) ((?:"[^"]*"|\S)+) (.*)', named["job"][0][0]
        ).groups()  # type: ignore[union-attr]
        files = {}
        for said, body in named["file"]:
            files[said if "/" in said else f"supabase/migrations/{said}"] = body
        for said, body in named["repeat"]:
            count, _, pattern = said.partition(" ")
            for n in range(len(files), len(files) + int(count)):
                files[pattern.replace("{n:04}", f"{n:04}")] = body.replace("{n}", str(n))
        rows = {kind: body for kind in named for said, body in named[kind] if not said}
        extras = dict(named["extra"])
        options = _options(named["install"][0][0])
        return cls(path.stem, options, table, tenant, sets, files, extras, rows)

    @property
    def schema(self) -> str:
        """Where clients see jobs."""
        given = dict(zip(self.install, self.install[1:], strict=False))
        return given.get("--schema", "minutehand")

    def write(self, project: Path) -> None:
        """The files as the project has them."""
        for name, text in {**self.files, **self.extras}.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")


def shapes() -> list[Shape]:
    """All of them, by name."""
    return [Shape.read(path) for path in sorted(CORPUS.glob("*.sql"))]


def _sections(text: str) -> Iterator[tuple[str, str, str]]:
    marks = list(_SECTION.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        yield mark[1], mark[2], text[mark.end() : following.start() if following else len(text)]


def _options(line: str) -> tuple[str, ...]:
    # quotes are of SQL's names here, and not a shell's
    return tuple(shlex.split(line.replace('"', r"\""), posix=True))
