"""The form of migrations that no linter holds: functions of 80 lines, lines of 120 characters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FUNCTION_LINES = 80
LINE_CHARACTERS = 120
FILES = sorted(
    [
        *ROOT.glob("supabase/migrations/*.sql"),
        *ROOT.glob("shared/minutehand_apps/*/migrations/*.sql"),
    ]
)
_FUNCTION = re.compile(
    r"^create (?:or replace )?function ([\w.]+).*?(?:^\$\$;$|^end;$|\$\$;$)",
    re.DOTALL | re.MULTILINE,
)
#: What the Data API publishes is text: it is as long as it is.
_COMMENT = re.compile(r"^comment on .*?;$", re.DOTALL | re.MULTILINE)


def too_long(sql: str) -> dict[str, int]:
    """Functions above the limit, by name, with their lines."""
    lengths = {found[1]: found[0].count("\n") + 1 for found in _FUNCTION.finditer(sql)}
    return {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES}


def too_wide(sql: str) -> list[str]:
    """Lines above the limit, comments on objects left out."""
    return [line for line in _COMMENT.sub("", sql).splitlines() if len(line) > LINE_CHARACTERS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_functions_and_lines_are_short(path: Path) -> None:
    """What does not fit a screen is not reviewed."""
    sql = path.read_text("utf-8")

    assert too_long(sql) == {}
    assert too_wide(sql) == []


def test_the_limits_are_counted() -> None:
    """The check's own check."""
    body = "\n".join(["  null;"] * 90)
    sql = f"create function queue.long() returns void as $$\nbegin\n{body}\nend;\n$$;\n" + "x" * 121

    assert set(too_long(sql)) == {"queue.long"}
    assert too_wide(sql) == ["x" * 121]


def test_each_migration_is_in_the_table_of_where_rules_are_held() -> None:
    """Once, and the files beside it are there."""
    readme = (ROOT / "tests" / "README.md").read_text("utf-8")
    table = readme.partition("| Migration | Held by")[2].partition("\n\n")[0]
    cells = [row.split("|")[1:3] for row in table.splitlines()[2:]]
    migrations, files = (
        re.findall(r"`(\w+)`", " ".join(column)) for column in zip(*cells, strict=True)
    )

    ours = (ROOT / "supabase" / "migrations").glob("*.sql")
    assert sorted(migrations) == sorted(path.stem.partition("_")[2] for path in ours)
    assert all((ROOT / "tests" / "sql" / f"{name}.py").is_file() for name in files)
