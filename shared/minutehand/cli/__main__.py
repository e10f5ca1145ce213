"""`minutehand`, also `python -m minutehand.cli`: every verb of the queue in a terminal.

A verb's module is imported when the verb is used: most need neither a database driver nor AWS.
"""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from minutehand.app import App, find_apps
from minutehand.project import Project
from minutehand.version import VERSION

#: Group of the help → verb → where its function or its Typer group is, and a line about it.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Run": {
        "dev": ("local:dev", "The local stack, with reload of processors, until Ctrl-C."),
        "serve": ("serve:serve", "API, console and worker without AWS."),
        "mcp": ("mcp:mcp", "The jobs as tools for an agent, as you."),
        "enqueue": ("jobs:enqueue", "Enqueue a job."),
    },
    "Look": {
        "ls": ("jobs:ls", "List jobs, newest first."),
        "show": ("show:show", "A job whole: why it waits, attempts, steps, log."),
        "watch": ("watch:watch", "Follow a job to its end, or a workspace."),
        "explain": ("show:explain", "Why a job is not running, and when it will."),
        "open": ("show:open_page", "A job, or the console, in the browser."),
        "types": ("overview:types", "Job types: schema, limits, who serves them."),
        "failures": ("overview:failures", "Failed jobs by what went wrong."),
        "status": ("overview:status", "What is wrong, and which types load it."),
    },
    "Steer": {
        "cancel": ("control:cancel", "Cancel a job, or all that match."),
        "retry": ("control:retry", "Run a failed job again, or all that match."),
        "replay": ("control:replay", "Run a job as a new one, from a finished step."),
        "answer": ("control:answer", "Answer the question a job waits with."),
        "pause": ("control:pause", "Let nothing of a type, queue or workspace start."),
        "resume": ("control:resume", "Undo a pause."),
        "export": ("people:export", "What names a person, as JSON."),
        "erase": ("people:erase", "Delete what names a person."),
    },
    "Project": {
        "init": ("scaffold:init", "Scaffold a processor and its test."),
        "install": ("install:install", "Put the engine into a project."),
        "upgrade": ("install:upgrade", "Add the migrations a project lacks."),
        "uninstall": ("install:uninstall", "Print the SQL that removes the engine."),
        "doctor": ("doctor.command:doctor", "What is misconfigured, and its fix."),
        "docs": ("docs:docs", "Print a page, or list the pages."),
        "token": ("tokens:token", "Print an access token, a worker's key, a secret."),
        "package": ("deploy:package", "Build what AWS gets, without an account."),
        "deploy": ("deploy:deploy", "Deploy a stage to AWS."),
        "undeploy": ("undeploy:undeploy", "Delete a stage from AWS, and say what stays."),
    },
}
VERBS = {verb: path for group in GROUPS.values() for verb, (path, _) in group.items()}
HELP = "Durable background jobs. Commands take --json, but dev, serve and mcp, which run on."
#: Of every verb, too: contexts take it from the one they are in.
SETTINGS = {"help_option_names": ["-h", "--help"]}


class Verbs(TyperGroup):
    """The verbs of the engine and a group per app, each imported on first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the verbs, the engine's first."""
        return [*VERBS, *(name for name in self._apps() if name not in VERBS)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs in their groups, those of apps in one of their own."""
        apps = {name: ("", f"See minutehand {name} --help.") for name in self._apps()}
        for heading, verbs in {**GROUPS, **({"Apps": apps} if apps else {})}.items():
            formatter.write(f"{heading}:\n")
            formatter.indent()
            formatter.write_dl([(verb, line) for verb, (_, line) in verbs.items()])
            formatter.dedent()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb of a command line; one that is misspelt is met by the nearest."""
        if self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            ctx.fail(f"no command {args[0]!r}" + (f": did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a verb; None where there is none of that name."""
        if cmd_name not in self.commands:
            if (path := VERBS.get(cmd_name)) is not None:
                module, _, attribute = path.partition(":")
                made = getattr(import_module(f"minutehand.cli.{module}"), attribute)
            elif (app := self._apps().get(cmd_name)) is not None:
                made = _verbs_of(app)
            else:
                return None
            self.commands[cmd_name] = _command(cmd_name, made)
        return self.commands[cmd_name]

    def _apps(self) -> dict[str, App]:
        return {app.name: app for app in find_apps(Project.find().apps) if app.has("verbs")}


def _verbs_of(app: App) -> Any:
    from minutehand.terminal.connection import FIXES

    verbs = app.module("verbs")
    assert verbs is not None
    FIXES.update(getattr(verbs, "FIXES", {}))
    return verbs.app


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
    context_settings=SETTINGS,
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
