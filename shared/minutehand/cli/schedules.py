"""`minutehand schedules`: what runs by the clock, in a workspace: list, set, remove."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from minutehand.cli.jobs import read_payload
from minutehand.terminal.options import EnvFile, Json, Token, Workspace, connected
from minutehand.terminal.output import ago

app = typer.Typer(help="List, set and remove schedules.", rich_markup_mode=None)
COLUMNS = {
    "name": "NAME",
    "cron": "CRON",
    "timezone": "ZONE",
    "job_type": "TYPE",
    "next_at": "NEXT",
    "last_slot_at": "LAST",
    "state": "STATE",
}
Name = Annotated[str, typer.Argument(help="The schedule's name.")]


class Missed(StrEnum):
    """What becomes of runs that were missed while nothing ticked."""

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


@app.callback(invoke_without_command=True)
def schedules(
    context: typer.Context,
    *,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List, set and remove schedules; lists them when nothing else is asked for."""
    if context.invoked_subcommand is not None:
        return
    with connected(as_json, env_file, token, workspace) as (output, connection):
        rows = connection.call("GET", connection.path("schedules"))["schedules"]
        if not as_json:
            for row in rows:
                row["state"] = row.get("problem") or ("on" if row["enabled"] else "off")
        output.table(rows, COLUMNS, empty="no schedules", spare=("last_slot_at", "timezone"))


@app.command("set")
def put(
    name: Name,
    cron: Annotated[str, typer.Argument(help="Five fields, e.g. '0 7 * * 1-5'.")],
    job_type: Annotated[str, typer.Argument(help="The job type.")],
    payload: Annotated[str, typer.Argument(help="JSON, @file, or - for standard input.")] = "{}",
    *,
    timezone: Annotated[str, typer.Option(help="An IANA name, e.g. Europe/Berlin.")] = "UTC",
    missed: Annotated[Missed, typer.Option(help="For runs missed in an outage.")] = Missed.ONCE,
    off: Annotated[bool, typer.Option("--off", help="Keep it, but do not run it.")] = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Make a schedule, or change the one with this name."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        made = connection.call(
            "PUT",
            connection.path("schedules", name),
            json={
                "cron": cron,
                "timezone": timezone,
                "job_type": job_type,
                "payload": read_payload(payload),
                "missed": missed.value,
                "enabled": not off,
            },
        )
        output.value(made, text=f"{name} runs next {ago(made['next_at'])}")


@app.command("remove")
def remove(
    name: Name,
    *,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Remove a schedule; jobs it made stay."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        connection.call("DELETE", connection.path("schedules", name))
        output.value({"name": name, "removed": True}, text=f"{name} is removed")
