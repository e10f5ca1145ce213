"""`minutehand`, also `python -m minutehand.cli`: every verb of the queue in a terminal.

A verb's module is imported when the verb is used: most need neither a database driver nor AWS.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from minutehand.app import App, find_apps
from minutehand.project import Project
from minutehand.version import VERSION

#: Verb → where its function is, or its Typer group; in the order of the help.
VERBS = {
    "dev": "local:dev",
    "enqueue": "jobs:enqueue",
    "ls": "jobs:ls",
    "show": "jobs:show",
    "watch": "watch:watch",
    "logs": "watch:logs",
    "explain": "jobs:explain",
    "stats": "queues:stats",
    "cancel": "jobs:cancel",
    "retry": "jobs:retry",
    "answer": "jobs:answer",
    "redrive": "jobs:redrive",
    "pause": "queues:pause",
    "resume": "queues:resume",
    "schedules": "schedules:app",
    "workspaces": "workspaces:workspaces",
    "members": "workspaces:members",
    "doctor": "doctor.command:doctor",
    "token": "tokens:token",
    "rotate": "rotate:rotate",
    "install": "install:install",
    "upgrade": "install:upgrade",
    "uninstall": "install:uninstall",
    "init": "scaffold:init",
    "types": "types:types",
    "serve": "serve:serve",
    "package": "deploy:package",
    "deploy": "deploy:deploy",
}
#: Other words for a verb; the help does not list them.
ALIASES = {"up": "dev"}
HELP = "Durable background jobs: enqueue, follow, steer, deploy. Every command takes --json."


class Verbs(TyperGroup):
    """The verbs of the engine and a group per app, each imported on first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the verbs, the engine's first."""
        return [*VERBS, *(name for name in self._apps() if name not in VERBS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a verb; None where there is none of that name."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in self.commands:
            if (path := VERBS.get(name)) is not None:
                module, _, attribute = path.partition(":")
                made = getattr(import_module(f"minutehand.cli.{module}"), attribute)
            elif (app := self._apps().get(name)) is not None:
                made = _verbs_of(app)
            else:
                return None
            self.commands[name] = _command(name, made)
        return self.commands[name]

    def _apps(self) -> dict[str, App]:
        return {app.name: app for app in find_apps(Project.find().apps) if app.has("verbs")}


def _verbs_of(app: App) -> typer.Typer:
    from minutehand.terminal.connection import FIXES

    verbs = app.module("verbs")
    assert verbs is not None
    FIXES.update(getattr(verbs, "FIXES", {}))
    group: typer.Typer = verbs.app
    return group


def _command(name: str, made: Any) -> Any:
    """Build the command of a function, or of a group."""
    if isinstance(made, typer.Typer):
        command: Any = typer.main.get_group(made)
    else:
        single = typer.Typer(
            add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
        )
        single.command(name)(made)
        command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(
    cls=Verbs,
    name="minutehand",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        print(VERSION)
        raise typer.Exit


@app.callback(help=HELP)
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before a verb."""


def run() -> None:
    """Run the command, with the project's own packages importable."""
    Project.find().make_importable()
    sys.exit(app(prog_name="minutehand"))


if __name__ == "__main__":
    run()
