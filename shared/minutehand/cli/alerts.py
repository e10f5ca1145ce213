"""`minutehand alerts`: thresholds of a workspace that send webhooks and mail."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from minutehand.queue.steering import AlertMetric
from minutehand.terminal.options import EnvFile, Json, Token, Workspace, connected, seconds_of
from minutehand.terminal.output import lasted

app = typer.Typer(help="List, set and remove alerts.", rich_markup_mode=None)
COLUMNS = {
    "name": "NAME",
    "state": "STATE",
    "watches": "WATCHES",
    "now": "VALUE",
    "limit": "THRESHOLD",
    "checked_at": "CHECKED",
    "mail": "MAIL",
}
Name = Annotated[str, typer.Argument(help="The alert's name.")]


@app.callback(invoke_without_command=True)
def alerts(
    context: typer.Context,
    *,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List, set and remove alerts; lists them when nothing else is asked for."""
    if context.invoked_subcommand is not None:
        return
    with connected(as_json, env_file, token, workspace) as (output, connection):
        found = connection.call("GET", connection.path("alerts"))["alerts"]
        rows = found if as_json else [_row(one) for one in found]
        output.table(rows, COLUMNS, empty="no alerts", spare=("checked_at", "mail", "limit"))


@app.command("set")
def put(
    name: Name,
    metric: Annotated[AlertMetric, typer.Argument(help="The metric to watch.")],
    threshold: Annotated[
        float, typer.Argument(min=0, help="Threshold: jobs, seconds, or a share from 0 to 1.")
    ],
    *,
    within: Annotated[
        str, typer.Option(help="Window that is counted: 15m, 2h; at most 1d.")
    ] = "15m",
    job_type: Annotated[
        str | None, typer.Option("--type", "-t", help="Only jobs of this type.")
    ] = None,
    mail: Annotated[
        list[str] | None, typer.Option("--mail", help="A member's address; repeatable.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--all-workspaces", help="Watch every workspace; an operator's.")
    ] = False,
    off: Annotated[bool, typer.Option("--off", help="Keep it, switched off.")] = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Make an alert, or change the one with this name; its webhooks are the workspace's."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        body = {
            "metric": metric.value,
            "threshold": threshold,
            "minutes": max(1, round(seconds_of(within) / 60)),
            "job_type": job_type,
            "mail": mail or [],
            "whole": whole,
            "enabled": not off,
        }
        made = connection.call("PUT", connection.path("alerts", name), json=body)
        row = _row(made)
        begun = "is kept, off:" if off else "watches"
        output.value(made, text=f"{name} {begun} {row['watches']}, from {row['limit']}")


@app.command("remove")
def remove(
    name: Name,
    *,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Remove an alert."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        connection.call("DELETE", connection.path("alerts", name))
        output.value({"name": name, "removed": True}, text=f"{name} is removed")


def _row(alert: dict[str, Any]) -> dict[str, Any]:
    """An alert as a line of the table."""
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
    }


def _written(metric: str, value: float | None) -> str | None:
    if value is None:
        return None
    if metric.endswith("_seconds"):
        return lasted(value * 1000)
    return f"{value:.1%}" if metric == AlertMetric.FAILURE_SHARE else f"{value:g}"
