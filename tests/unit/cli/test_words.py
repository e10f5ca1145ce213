"""Every `minutehand` command that documents, runbooks and fixes name exists."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minutehand.docs import PAGES
from tests.support.command import commands
from tests.support.paths import ROOT

COMMAND = re.compile(r"minutehand ((?:[a-z]+(?:-[a-z]+)*)(?: [^`\"'\n;|)]*)?)")
#: Words that follow the command's name in running text and are no commands.
PROSE = "on else and is in with the talks reads command deploy. import"

#: The folders whose pages and messages name commands.
PARTS = ("cli", "deploy", "local", "terminal")


def lines_to_type() -> Iterator[tuple[Path, str]]:
    """Yield each command line in documents, runbooks, fixes and the database's advice."""
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
            for match in COMMAND.finditer(path.read_text()):
                yield path, match[1].strip()


def options_of(command: Any, words: list[str]) -> set[str]:
    """Return the options of a command, or of the subcommand that the words name."""
    for word in words:
        if word in getattr(command, "commands", {}):
            return options_of(command.commands[word], [])
    return {option for parameter in command.params for option in parameter.opts}


def test_every_command_that_is_named_exists_with_its_options() -> None:
    """Each command line in a document or message names an existing command and existing options."""
    known = commands()
    wrong = []
    count = 0
    for path, line in lines_to_type():
        command, *words = line.split()
        if command in PROSE.split():
            continue
        count += 1
        if command not in known:
            wrong.append(f"{path.relative_to(ROOT)}: minutehand {line}")
            continue
        options = {word.split("=")[0].rstrip(".,:") for word in words if word.startswith("-")}
        if unknown := options - options_of(known[command], words) - {"--help"}:
            wrong.append(f"{path.relative_to(ROOT)}: minutehand {line} ({', '.join(unknown)})")

    assert count > 20
    assert wrong == []


def test_the_readme_names_every_command() -> None:
    """The README's table names each command, and each command has a help text."""
    table = (ROOT / "shared" / "minutehand" / "cli" / "README.md").read_text()

    assert [name for name in commands() if f"`{name}" not in table] == []
    assert all(command.help for command in commands().values())
