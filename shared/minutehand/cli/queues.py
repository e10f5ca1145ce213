"""Verbs on the queue as a whole: pause, resume, stats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import WHOLE, digits_of
from minutehand.terminal.options import verb, workspace_verb
from minutehand.terminal.output import Output, ago, headed, lasted

#: What can be paused.
Kind = Literal["type", "queue", "workspace"]


WhatKind = Annotated[Kind, typer.Argument(help="type, queue or workspace.")]
WhatName = Annotated[str, typer.Argument(help="Its name, or the workspace's id.")]
STATS = headed(
    "type completed failed retried lost queue:QUEUE_P95 run:RUN_P95 cost:COST_USD_(EST.)"
)


@verb
def pause(
    output: Output,
    connection: Connection,
    kind: WhatKind,
    name: WhatName,
    *,
    reason: Annotated[str | None, typer.Option(help="Shown to anyone who asks why.")] = None,
) -> None:
    """Let no job of a type, queue or workspace start.

    Running ones continue. A workspace's managers may pause it; types and queues need the
    operator's secret key.
    """
    _steer(output, connection, kind, name, {"paused": True, "reason": reason})


@verb
def resume(output: Output, connection: Connection, kind: WhatKind, name: WhatName) -> None:
    """Undo a pause."""
    _steer(output, connection, kind, name, {"paused": False})


def _steer(
    output: Output, connection: Connection, kind: Kind, name: str, change: dict[str, Any]
) -> None:
    if kind == "workspace":
        if len(digits_of(name) or "") != WHOLE:
            raise CommandFailed(
                f"{name!r} must be a workspace's id",
                code="bad_id",
                fix="`minutehand ls --json` shows it as workspace_id",
            )
        path = f"/api/workspaces/{name}/{'pause' if change['paused'] else 'resume'}"
        result = connection.call("POST", path, json={"reason": change.get("reason")})
    else:  # it affects every workspace, so only the operator may: no route offers it
        request = {"kind": kind.replace("type", "job_type"), "name": name, **change}
        result = connection.rpc("pause_jobs", {"p_request": request}, as_operator=True)
    state = "paused" if result["paused"] else "running again"
    output.value(result, text=f"{kind} {name} is {state}")


@workspace_verb
def stats(
    output: Output,
    connection: Connection,
    *,
    operator: Annotated[
        bool, typer.Option("--all", help="Every workspace; needs the secret key.")
    ] = False,
    minutes: Annotated[int, typer.Option("--minutes", "-m", min=1, max=11_520)] = 60,
) -> None:
    """Print counts, throughput, waits and run times per type."""
    if operator:
        asked = {"p_workspace_id": None, "p_minutes": minutes}
        told = connection.rpc("queue_stats", asked, as_operator=True)
    else:
        told = connection.get("/api/status", workspace_id=connection.workspace, minutes=minutes)
    if not output.answered(told):
        _print(output, told, minutes)


def messages_line(numbers: Mapping[str, Any]) -> str:
    """The messages to Realtime in one sentence, as a plan counts them."""
    return (
        f"Realtime: {numbers['per_second']} of {numbers['budget_per_second']} messages/s "
        f"({numbers['setting']}), {numbers['held_last_hour']} held back in the last hour, "
        f"about {numbers['month']:,} a month: ${numbers['month_usd']:.2f} on Pro"
    )


def _print(output: Output, told: dict[str, Any], minutes: int) -> None:
    live = told["live"]
    oldest = told.get("oldest_due_at")
    due = f", oldest due {ago(oldest)}" if oldest else ""
    output.out.print(", ".join(f"{count} {state}" for state, count in live.items()) + due)
    if (backlog := told["backlog"])["verdict"] != "pass":
        output.text(Text(backlog["detail"], style="yellow"))
        output.note(backlog["fix"] or "")
    if told.get("messages"):
        output.out.print(messages_line(told["messages"]))
    rows = [
        {
            "type": name,
            **{key: line[key] for key in ("completed", "failed", "retried", "lost")},
            "queue": _p95(line.get("queue")),
            "run": _p95(line.get("run")),
            "cost": line.get("cost_usd"),
        }
        for name, line in sorted(told["types"].items())
    ]
    spare = ("cost", "lost", "retried", "queue")
    output.table(rows, STATS, empty=f"nothing ran in the last {minutes} minutes", spare=spare)
    held = [
        (limit["job_type"], limit.get("pause_reason"))
        for limit in told.get("limits") or []
        if limit.get("paused_at")
    ]
    held += [
        (f"{one['kind']} {one['name']}", one.get("reason")) for one in told.get("pauses") or []
    ]
    for what, reason in held:
        paused = Text(f"{what} is paused", style="yellow")
        output.text(Text.assemble(paused, f": {reason or 'no reason given'}"))


def _p95(times: Mapping[str, Any] | None) -> str | None:
    """The 95th percentile as people say it."""
    value = (times or {}).get("p95_ms")
    return None if value is None else lasted(float(value))
