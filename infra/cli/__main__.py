"""`minutehand`, also `python -m infra.cli`: every verb of the queue in a terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from infra.aws.build import project_version
from infra.cli import beacon, chat, deploy, jobs, local, queues, scaffold, schedules, tokens, watch
from infra.cli.doctor import command as doctor

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
app.add_typer(beacon.app, name="beacon", rich_help_panel=RUN)
app.add_typer(chat.app, name="chat", rich_help_panel=RUN)
app.command(rich_help_panel=PROJECT)(doctor.doctor)
app.command(rich_help_panel=PROJECT)(tokens.token)
app.command(rich_help_panel=PROJECT)(scaffold.init)
app.command(rich_help_panel=PROJECT)(deploy.deploy)


def _version(asked: bool) -> None:
    if asked:
        print(project_version())
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Durable background jobs: enqueue, follow, steer, deploy. Every command takes --json."""


if __name__ == "__main__":
    sys.exit(app(prog_name="minutehand"))
