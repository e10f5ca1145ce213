"""`minutehand`, also `python -m minutehand.cli`: every verb of the queue in a terminal.

A verb's module is imported when the verb is used: most need neither a database driver nor AWS.
"""

from __future__ import annotations

import ast
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from minutehand.app import App, find_apps
from minutehand.project import Project
from minutehand.version import VERSION

#: Group of the help → verb → where its function is, or its Typer group; in the order of the help.
GROUPS: dict[str, dict[str, str]] = {
    "Run": {
        "dev": "local:dev",
        "serve": "serve:serve",
        "mcp": "mcp:mcp",
        "enqueue": "jobs:enqueue",
    },
    "Look": {
        "ls": "jobs:ls",
        "show": "show:show",
        "watch": "watch:watch",
        "logs": "watch:logs",
        "explain": "show:explain",
        "types": "types:types",
        "stats": "stats:stats",
    },
    "Steer": {
        "cancel": "steer:cancel",
        "retry": "steer:retry",
        "replay": "steer:replay",
        "answer": "steer:answer",
        "pause": "steer:pause",
        "resume": "steer:resume",
        "schedules": "schedules:app",
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
    },
}
VERBS = {verb: path for group in GROUPS.values() for verb, path in group.items()}
#: Other words for a verb; the help does not list them.
ALIASES = {"up": "dev"}
HELP = "Durable background jobs: enqueue, follow, steer, deploy. Every command takes --json."


class Verbs(TyperGroup):
    """The verbs of the engine and a group per app, each imported on first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the verbs, the engine's first."""
        return [*VERBS, *(name for name in self._apps() if name not in VERBS)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs in their groups, those of apps in one of their own."""
        lines = {
            heading: {verb: _place(path) for verb, path in group.items()}
            for heading, group in GROUPS.items()
        }
        apps = self._apps().items()
        lines["Apps"] = {name: (app.folder / "verbs.py", "app") for name, app in apps}
        for heading, verbs in lines.items():
            if verbs:
                with formatter.section(heading):
                    formatter.write_dl([(verb, summary_of(*at)) for verb, at in verbs.items()])

    def main(self, *given: Any, **more: Any) -> Any:
        """Run a command line; with --json a wrong one is reported as JSON too, with exit code 2."""
        as_json = more.get("standalone_mode", True) and "--json" in sys.argv[1:]
        try:
            code = super().main(*given, **(more | ({"standalone_mode": False} if as_json else {})))
        except (typer.BadParameter.__base__, typer.Abort) as wrong:  # type: ignore[misc]
            if not as_json:
                raise
            words = wrong.format_message() if hasattr(wrong, "format_message") else "stopped"
            said = {"error": words, "code": "usage", "fix": "minutehand --help"}
            print(json.dumps(said), file=sys.stderr)
            sys.exit(getattr(wrong, "exit_code", 1))
        if as_json:
            sys.exit(code if isinstance(code, int) else 0)
        return code

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


def _place(path: str) -> tuple[Path, str]:
    """The file of a verb, and the name in it."""
    module, _, attribute = path.partition(":")
    return Path(__file__).parent / f"{module.replace('.', '/')}.py", attribute


def summary_of(file: Path, name: str) -> str:
    """The first sentence about a verb, read from its source: importing all of them takes a second.

    Args:
        name: A function, whose docstring is read, or a Typer group, whose `help` is.
    """
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            [value] = [w.value for w in getattr(node.value, "keywords", []) if w.arg == "help"]
            return str(ast.literal_eval(value))
    return ""


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
    """Take the options before a verb."""


def run() -> None:
    """Run the command, with the project's own packages importable."""
    Project.find().make_importable()
    sys.exit(app(prog_name="minutehand"))


if __name__ == "__main__":
    run()
