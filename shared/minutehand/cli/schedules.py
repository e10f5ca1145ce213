"""`minutehand schedules`: what runs by the clock, in a workspace: list, set, remove."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from minutehand.cli.jobs import read_payload
from minutehand.terminal.connection import Connection
from minutehand.terminal.options import Payload, by_itself, workspace_verb
from minutehand.terminal.output import Output, ago, headed

app = typer.Typer(help="List, set and remove schedules.", rich_markup_mode=None)
COLUMNS = headed("name cron timezone:ZONE job_type:TYPE next_at last_slot_at:LAST state")
Name = Annotated[str, typer.Argument(help="The schedule's name.")]
#: What becomes of runs that were missed while nothing ticked.
Missed = Literal["skip", "once"]


@by_itself(app)
@workspace_verb
def schedules(output: Output, connection: Connection) -> None:
    """List schedules."""
    rows = connection.get(connection.path("schedules"))["schedules"]
    output.table(rows, COLUMNS, row=_row, empty="no schedules")


def _row(schedule: dict[str, Any]) -> dict[str, Any]:
    state = schedule.get("problem") or ("on" if schedule["enabled"] else "off")
    next_at = schedule["next_at"] if schedule["enabled"] else None
    return {**schedule, "next_at": next_at, "state": state}


@app.command("set")
@workspace_verb
def put(
    output: Output,
    connection: Connection,
    name: Name,
    cron: Annotated[str, typer.Argument(help="Five fields, e.g. '0 7 * * 1-5'.")],
    job_type: Annotated[str, typer.Argument(help="The job type.")],
    payload: Payload = "{}",
    *,
    timezone: Annotated[str, typer.Option(help="An IANA name, e.g. Europe/Berlin.")] = "UTC",
    missed: Annotated[Missed, typer.Option(help="For runs missed in an outage.")] = "once",
    off: Annotated[bool, typer.Option("--off", help="Keep it, but do not run it.")] = False,
) -> None:
    """Make a schedule, or change the one with this name."""
    body = {
        "cron": cron,
        "timezone": timezone,
        "job_type": job_type,
        "payload": read_payload(payload),
        "missed": missed,
        "enabled": not off,
    }
    made = connection.call("PUT", connection.path("schedules", name), json=body)
    output.value(made, text=f"{name} runs next {ago(made['next_at'])}")


@app.command("remove")
@workspace_verb
def remove(output: Output, connection: Connection, name: Name) -> None:
    """Remove a schedule; jobs it made stay."""
    connection.call("DELETE", connection.path("schedules", name))
    output.value({"name": name, "removed": True}, text=f"{name} is removed")
