"""The command `minutehand` with the verbs of this project's apps."""

from collections.abc import Callable
from typing import Any

import typer
from typer.testing import Result

from minutehand.cli.__main__ import ALIASES, app

__all__ = ["Run", "app", "verbs"]

#: Runs a command line; fails unless it ends with `code`, 0 when it is not given.
Run = Callable[..., Result]


def verbs() -> dict[str, Any]:
    """Every verb as its command; Typer brings a click of its own."""
    group: Any = typer.main.get_command(app)
    names = [*group.list_commands(None), *ALIASES]
    return {name: group.get_command(None, name) for name in names}
