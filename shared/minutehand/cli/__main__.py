"""`minutehand`, also `python -m minutehand.cli`: every verb of the queue in a terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from minutehand.app import find_apps
from minutehand.cli import (
    deploy,
    install,
    jobs,
    local,
    queues,
    scaffold,
    schedules,
    tokens,
    types,
    watch,
)
from minutehand.cli.doctor import command as doctor
from minutehand.project import Project
from minutehand.terminal.connection import FIXES
from minutehand.version import VERSION

app = typer.Typer(
    name="minutehand",
    help="Durable background jobs: enqueue, follow, steer, deploy. Every command takes --json.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RUN, LOOK, STEER, PROJECT = "Run", "Look", "Steer", "Project"
app.command(rich_help_panel=RUN)(local.up)
app.command(rich_help_panel=RUN)(jobs.enqueue)
app.command(rich_help_panel=LOOK)(jobs.ls)
app.command(rich_help_panel=LOOK)(jobs.show)
app.command(rich_help_panel=LOOK)(watch.watch)
app.command(rich_help_panel=LOOK)(watch.logs)
app.command(rich_help_panel=LOOK)(jobs.explain)
app.command(rich_help_panel=LOOK)(queues.stats)
app.command(rich_help_panel=STEER)(jobs.cancel)
app.command(rich_help_panel=STEER)(jobs.retry)
app.command(rich_help_panel=STEER)(jobs.answer)
app.command(rich_help_panel=STEER)(jobs.redrive)
app.command(rich_help_panel=STEER)(queues.pause)
app.command(rich_help_panel=STEER)(queues.resume)
app.add_typer(schedules.app, name="schedules", rich_help_panel=STEER)
app.command(rich_help_panel=PROJECT)(doctor.doctor)
app.command(rich_help_panel=PROJECT)(tokens.token)
app.command(rich_help_panel=PROJECT)(install.install)
app.command(rich_help_panel=PROJECT)(install.upgrade)
app.command(rich_help_panel=PROJECT)(install.uninstall)
app.command(rich_help_panel=PROJECT)(scaffold.init)
app.command(rich_help_panel=PROJECT)(types.types)
app.command(rich_help_panel=PROJECT)(deploy.deploy)


def add_verbs_of_apps() -> None:
    """Add each app's own group of commands, and what to do about its errors."""
    for each in find_apps(Project.find().apps):
        if (verbs := each.module("verbs")) is not None:
            app.add_typer(verbs.app, name=each.name, rich_help_panel=RUN)
            FIXES.update(getattr(verbs, "FIXES", {}))


def _version(asked: bool) -> None:
    if asked:
        print(VERSION)
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Durable background jobs: enqueue, follow, steer, deploy. Every command takes --json."""


def run() -> None:
    """The command `minutehand`."""
    add_verbs_of_apps()
    sys.exit(app(prog_name="minutehand"))


if __name__ == "__main__":
    run()
