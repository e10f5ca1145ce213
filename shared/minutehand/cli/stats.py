"""`minutehand stats`: counts, throughput, waits and run times per type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from minutehand.terminal.connection import Connection
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import Output, ago, headed, lasted

STATS = headed(
    "type completed failed retried lost queue:QUEUE_P95 run:RUN_P95 cost:COST_USD_(EST.)"
)


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
