"""`minutehand`, also `python -m minutehand.cli`: the queue's commands for a terminal.

The module of a command is imported when the command is used, because most commands need neither a
database driver nor AWS.
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

#: By heading of the help text and command name, the place of its function and a line of help.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Run": {
        "dev": ("local:dev", "Run the local stack and reload processors, until Ctrl-C."),
        "serve": ("serve:serve", "Serve the API, the console and the worker without AWS."),
        "mcp": ("mcp:mcp", "Serve jobs to an agent as MCP tools, with your rights."),
        "enqueue": ("jobs:enqueue", "Enqueue a job."),
    },
    "Inspect": {
        "ls": ("jobs:ls", "List jobs, newest first."),
        "show": ("show:show", "Show a job: why it waits, attempts, steps, log."),
        "watch": ("watch:watch", "Follow a job to its end, or a workspace."),
        "explain": ("show:explain", "Explain why a job is not running, and when it will."),
        "open": ("show:open_page", "Open a job or the console in the browser."),
        "types": ("overview:types", "List job types: schema, limits, workers."),
        "failures": ("overview:failures", "List failed jobs by cause."),
        "status": ("overview:status", "Show problems, and the load by job type."),
    },
    "Control": {
        "cancel": ("control:cancel", "Cancel a job, or all matching jobs."),
        "retry": ("control:retry", "Retry a failed job, or all matching jobs."),
        "replay": ("control:replay", "Enqueue a copy of a job, from a finished step on."),
        "answer": ("control:answer", "Answer the question that a job is waiting for."),
        "pause": ("control:pause", "Stop starting jobs of a type, queue or workspace."),
        "resume": ("control:resume", "Undo a pause."),
        "export": ("people:export", "Export a person's data as JSON."),
        "erase": ("people:erase", "Delete a person's data."),
        "move-workspace": ("move:move_workspace", "Move a paused workspace to another database."),
    },
    "Project": {
        "init": ("scaffold:init", "Scaffold a processor and its test."),
        "install": ("install:install", "Install the engine into a project."),
        "upgrade": ("install:upgrade", "Add the migrations that a project lacks."),
        "uninstall": ("install:uninstall", "Print the SQL that removes the engine."),
        "doctor": ("doctor.command:doctor", "Find misconfiguration and print its fix."),
        "docs": ("docs:docs", "Print a page, or list the pages."),
        "token": ("tokens:token", "Print an access token, a worker's key, a secret."),
        "package": ("deploy:package", "Build the AWS package (no account needed)."),
        "deploy": ("deploy:deploy", "Deploy a stage to AWS."),
        "undeploy": ("undeploy:undeploy", "Delete a stage from AWS, and list what stays."),
    },
}
COMMANDS = {command: path for group in GROUPS.values() for command, (path, _) in group.items()}
HELP = (
    "Durable background jobs. All commands accept --json, except dev, serve and mcp, "
    "which run until they are stopped."
)
#: Settings that each command inherits from its parent context.
SETTINGS = {"help_option_names": ["-h", "--help"]}


class CommandGroup(TyperGroup):
    """The commands of the engine and a group per app, each imported on first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the names of the commands, the engine's before the apps'."""
        return [*COMMANDS, *(name for name in self._apps() if name not in COMMANDS)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under their headings, and the apps' commands under their own."""
        apps = {name: ("", f"See minutehand {name} --help.") for name in self._apps()}
        for heading, commands in {**GROUPS, **({"Apps": apps} if apps else {})}.items():
            formatter.write(f"{heading}:\n")
            formatter.indent()
            formatter.write_dl([(command, line) for command, (_, line) in commands.items()])
            formatter.dedent()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command of a command line; suggest the closest name for an unknown one."""
        if self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            ctx.fail(f"no command {args[0]!r}" + (f": did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command; return None for an unknown name."""
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


def _app_group(app: App) -> Any:
    from minutehand.terminal.connection import FIXES

    module = app.module("verbs")
    assert module is not None
    FIXES.update(getattr(module, "FIXES", {}))
    return module.app


def _build_command(name: str, target: Any) -> Any:
    """Build the Click command of a function or of a Typer group."""
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
    """Accept the options before a command."""


def run() -> None:
    """Run the command, after the project's packages were made importable."""
    Project.find().make_importable()
    sys.exit(app(prog_name="minutehand"))


if __name__ == "__main__":
    run()
