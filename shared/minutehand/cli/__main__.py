"""The program `minutehand`, also `python -m minutehand.cli`, with its commands.

`minutehand` imports the module of a command only when the command runs, because most commands need
neither a database driver nor AWS.
"""

import ast
import re
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from minutehand.app import App, find_apps
from minutehand.config import ConfigurationError
from minutehand.project import Project
from minutehand.version import VERSION

#: Module and function of each command, by the command's heading in the help text and its name.
GROUPS = {
    "Run": {
        "dev": "local:dev",
        "serve": "serve:serve",
        "mcp": "mcp:mcp",
        "enqueue": "jobs:enqueue",
    },
    "Inspect": {
        "ls": "jobs:ls",
        "show": "show:show",
        "watch": "watch:watch",
        "explain": "show:explain",
        "types": "overview:types",
        "failures": "overview:failures",
        "schedules": "lists:schedules",
        "webhooks": "lists:webhooks",
        "workers": "lists:workers",
        "logs": "lists:logs",
        "status": "overview:status",
    },
    "Control": {
        "cancel": "control:cancel",
        "retry": "control:retry",
        "replay": "control:replay",
        "answer": "control:answer",
        "pause": "control:pause",
        "resume": "control:resume",
        "export": "people:export",
        "erase": "people:erase",
        "move-workspace": "move:move_workspace",
    },
    "Project": {
        "init": "scaffold:init",
        "install": "install:install",
        "upgrade": "install:upgrade",
        "uninstall": "install:uninstall",
        "doctor": "doctor.command:doctor",
        "docs": "docs:docs",
        "token": "tokens:token",
        "package": "deploy:package",
        "deploy": "deploy:deploy",
        "undeploy": "undeploy:undeploy",
    },
}
COMMANDS = {command: path for group in GROUPS.values() for command, path in group.items()}
HELP = (
    "Durable background jobs. All commands accept --json, except dev, serve and mcp, "
    "which run until they are stopped."
)
#: Settings of the program, which each of its commands inherits.
SETTINGS = {"help_option_names": ["-h", "--help"]}


class CommandGroup(TyperGroup):
    """Contains the engine's commands, and a group of commands per app.

    The module of a command is imported at the command's first use.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """List the names of the commands. The engine's commands come before those of the apps."""
        return [*COMMANDS, *self._apps()]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the help text with the engine's commands under their headings, then the apps."""
        sections = {
            heading: [(command, summary(path)) for command, path in group.items()]
            for heading, group in GROUPS.items()
        }
        if apps := [(name, f"See minutehand {name} --help.") for name in self._apps()]:
            sections["Apps"] = apps
        for heading, lines in sections.items():
            with formatter.section(heading):
                formatter.write_dl(lines)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that a command line names.

        For an unknown command, suggest the command with the closest name.
        """
        if self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            ctx.fail(f"no command {args[0]!r}" + (f": did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command. Return None if no command has the name."""
        if cmd_name not in self.commands:
            if (path := COMMANDS.get(cmd_name)) is not None:
                module, _, attribute = path.partition(":")
                target = getattr(import_module(f"minutehand.cli.{module}"), attribute)
            elif (app := self._apps().get(cmd_name)) is not None:
                target = _app_group(app)
            else:
                return None
            self.commands[cmd_name] = _build_command(cmd_name, target)
        return self.commands[cmd_name]

    def _apps(self) -> dict[str, App]:
        return {app.name: app for app in find_apps(Project.find().apps) if app.has("verbs")}


def summary(path: str) -> str:
    """Return the first clause of a command's docstring without importing its module."""
    module, _, name = path.partition(":")
    file = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    functions = [
        node
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
    [docstring] = [ast.get_docstring(function) for function in functions if function.name == name]
    return re.split("[;.]", str(docstring))[0]


def _app_group(app: App) -> Any:
    from minutehand.terminal.connection import FIXES

    module = app.module("verbs")
    assert module is not None
    FIXES.update(getattr(module, "FIXES", {}))
    return module.app


def _build_command(name: str, target: Any) -> Any:
    """Build the Click command for a function, or for a Typer group of an app."""
    if isinstance(target, typer.Typer):
        command: Any = typer.main.get_group(target)
    else:
        single = typer.Typer(
            add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
        )
        single.command(name)(target)
        command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(
    cls=CommandGroup,
    name="minutehand",
    help=HELP,
    no_args_is_help=True,
    context_settings=SETTINGS,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(requested: bool) -> None:
    if requested:
        print(VERSION)
        raise typer.Exit


@app.callback(help=HELP)
def main(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Accept the options before a command's name."""


def run() -> None:
    """Run `minutehand` with the packages of the current project in Python's import path."""
    try:
        Project.find().make_importable()
    except ConfigurationError as error:
        from minutehand.terminal.output import Output

        Output(as_json="--json" in sys.argv).failure(str(error), code="bad_settings", fix=None)
        sys.exit(1)
    sys.exit(app(prog_name="minutehand"))


if __name__ == "__main__":
    run()
