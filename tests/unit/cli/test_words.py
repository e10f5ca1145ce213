"""What documents, runbooks and fixes have people type is something that can be typed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minutehand.docs import PAGES
from tests.support.command import commands
from tests.support.paths import ROOT

COMMAND = re.compile(r"minutehand ((?:[a-z]+)(?: [^`\"'\n;|)]*)?)")
#: The command's name in running text, followed by a word that is no verb.
PROSE = "on else and is in with the talks reads command deploy. import"

#: The folders whose pages and messages name commands; those of apps do it for theirs.
PARTS = ("cli", "deploy", "local", "terminal")


def lines_to_type() -> Iterator[tuple[Path, str]]:
    """Every command that a document, a runbook, a fix or the database's advice names."""
    files = [
        ROOT / "README.md",
        *(ROOT / "supabase" / "schemas").glob("*.sql"),
        *(page.file for page in PAGES if page.path.startswith(("shared/minutehand/", "supabase"))),
        *(
            path
            for ext in ("md", "cjs", "yml", "py")
            for folder in ("infra", *(f"shared/minutehand/{name}" for name in PARTS))
            for path in (ROOT / folder).rglob(f"*.{ext}")
        ),
    ]
    for path in files:
        if "node_modules" not in path.parts:
            for match in COMMAND.finditer(path.read_text("utf-8")):
                yield path, match[1].strip()


def options_of(command: Any, words: list[str]) -> set[str]:
    """The options a command takes, of its subcommand when one is named."""
    for word in words:
        if word in getattr(command, "commands", {}):
            return options_of(command.commands[word], [])
    return {option for parameter in command.params for option in parameter.opts}


def test_every_command_that_is_named_exists_with_its_options() -> None:
    """A runbook with a misspelt option costs minutes at three in the morning."""
    known = commands()
    wrong = []
    seen = 0
    for path, line in lines_to_type():
        verb, *words = line.split()
        if verb in PROSE.split():
            continue
        seen += 1
        if verb not in known:
            wrong.append(f"{path.relative_to(ROOT)}: minutehand {line}")
            continue
        given = {word.split("=")[0].rstrip(".,:") for word in words if word.startswith("-")}
        if unknown := given - options_of(known[verb], words) - {"--help"}:
            wrong.append(f"{path.relative_to(ROOT)}: minutehand {line} ({', '.join(unknown)})")

    assert seen > 20
    assert wrong == []


def test_the_readme_names_every_verb() -> None:
    """The table is the command's contents page."""
    table = (ROOT / "shared" / "minutehand" / "cli" / "README.md").read_text("utf-8")

    assert [name for name in commands() if f"`{name}" not in table] == []
