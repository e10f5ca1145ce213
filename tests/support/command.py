"""The command `minutehand` with the subcommands of the example apps."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import typer
from typer.testing import CliRunner, Result

from minutehand.cli.__main__ import app


@dataclass(frozen=True)
class Run:
    """Runs command lines with `env` added to the environment variables."""

    env: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, code: int = 0, **options: Any) -> Result:
        options["env"] = {**self.env, **options.get("env", {})}
        result = CliRunner().invoke(app, arguments, **options)
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result

    def json(self, *arguments: str, **options: Any) -> Any:
        return json.loads(self(*arguments, "--json", **options).stdout)

    def refused(self, *arguments: str, **options: Any) -> dict[str, Any]:
        failed = self(*arguments, "--json", **{"code": 1, **options})
        return json.loads(failed.stderr.splitlines()[-1])


@cache
def commands() -> dict[str, Any]:
    """Return all commands by name. The type is Any because Typer contains its own copy of Click."""
    group: Any = typer.main.get_command(app)
    return {name: group.get_command(None, name) for name in group.list_commands(None)}
