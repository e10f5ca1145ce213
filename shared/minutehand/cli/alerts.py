"""`minutehand alerts`: thresholds of a workspace that send webhooks and mail."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from minutehand.terminal.connection import Connection
from minutehand.terminal.options import JobType, by_itself, seconds_of, workspace_verb
from minutehand.terminal.output import Output, headed, lasted

app = typer.Typer(help="List, set and remove alerts.", rich_markup_mode=None)
COLUMNS = headed("name state watches now:VALUE limit:THRESHOLD checked_at mail to:POST")
Name = Annotated[str, typer.Argument(help="The alert's name.")]


@by_itself(app)
@workspace_verb
def alerts(output: Output, connection: Connection) -> None:
    """List alerts."""
    found = connection.get(connection.path("alerts"))["alerts"]
    spare = ("checked_at", "mail", "to", "limit")
    output.table(found, COLUMNS, row=_row, empty="no alerts", spare=spare)


@app.command("set")
@workspace_verb
def put(
    output: Output,
    connection: Connection,
    name: Name,
    metric: Annotated[
        str, typer.Argument(help="What to watch, as failure_share; a wrong name lists them all.")
    ],
    threshold: Annotated[
        float, typer.Argument(min=0, help="Threshold: jobs, seconds, or a share from 0 to 1.")
    ],
    *,
    within: Annotated[
        str, typer.Option(help="Window that is counted: 15m, 2h; at most 1d.")
    ] = "15m",
    job_type: JobType = None,
    mail: Annotated[
        list[str] | None, typer.Option("--mail", help="A member's address; repeatable.")
    ] = None,
    slack: Annotated[
        str | None, typer.Option(help="Post to this incoming webhook of Slack; kept sealed.")
    ] = None,
    post: Annotated[
        str | None, typer.Option(help="Post JSON to this address; kept sealed.")
    ] = None,
    no_post: Annotated[bool, typer.Option("--no-post", help="Post nowhere any more.")] = False,
    whole: Annotated[
        bool, typer.Option("--all-workspaces", help="Watch every workspace; an operator's.")
    ] = False,
    off: Annotated[bool, typer.Option("--off", help="Keep it, switched off.")] = False,
) -> None:
    """Make an alert, or change the one with this name; its webhooks are the workspace's."""
    body = {
        "metric": metric,
        "threshold": threshold,
        "minutes": max(1, round(seconds_of(within) / 60)),
        "job_type": job_type,
        "mail": mail or [],
        "whole": whole,
        "enabled": not off,
    }
    if slack or post or no_post:
        target = {"format": "slack" if slack else "json", "url": slack or post}
        body["post"] = None if no_post else target
    made = connection.call("PUT", connection.path("alerts", name), json=body)
    row = _row(made)
    begun = "is kept, off:" if off else "watches"
    output.value(made, text=f"{name} {begun} {row['watches']}, from {row['limit']}")


@app.command("remove")
@workspace_verb
def remove(output: Output, connection: Connection, name: Name) -> None:
    """Remove an alert."""
    connection.call("DELETE", connection.path("alerts", name))
    output.value({"name": name, "removed": True}, text=f"{name} is removed")


def _row(alert: dict[str, Any]) -> dict[str, Any]:
    state = "off" if not alert["enabled"] else "raised" if alert["raised_at"] else "ok"
    of_type = f" of {alert['job_type']}" if alert["job_type"] else ""
    where = ", all workspaces" if alert["whole"] else ""
    return {
        **alert,
        "state": state,
        "watches": f"{alert['metric']}{of_type} in {alert['minutes']} min{where}",
        "now": _written(alert["metric"], alert["value"]),
        "limit": _written(alert["metric"], alert["threshold"]),
        "mail": alert["mail"] or None,
        "to": alert["post"] and f"{alert['post']['format']} at {alert['post']['host']}",
    }


def _written(metric: str, value: float | None) -> str | None:
    if value is None:
        return None
    if metric.endswith("_seconds"):
        return lasted(value * 1000)
    return f"{value:.1%}" if metric.endswith("_share") else f"{value:g}"
