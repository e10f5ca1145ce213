"""`minutehand stats`: counts, throughput, waits and run times per type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from minutehand.terminal.connection import Connection
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import Output, ago, headed, lasted

STATS = headed("type completed failed retried lost queue:QUEUE_P95 run:RUN_P95")


@workspace_verb
def stats(
    output: Output,
    connection: Connection,
    *,
    minutes: Annotated[int, typer.Option("--minutes", "-m", help="Of so many minutes.")] = 60,
) -> None:
    """Print counts, throughput, waits and run times per type."""
    told = connection.get("/api/status", workspace_id=connection.workspace, minutes=minutes)
    if output.answered(told):
        return
    oldest = told.get("oldest_due_at")
    due = f", oldest due {ago(oldest)}" if oldest else ""
    output.text(", ".join(f"{count} {state}" for state, count in told["live"].items()) + due)
    rows = [
        {**line, "type": name, "queue": _p95(line.get("queue")), "run": _p95(line.get("run"))}
        for name, line in sorted(told["types"].items())
    ]
    spare = ("lost", "retried", "queue")
    output.table(rows, STATS, empty=f"nothing ran in the last {minutes} minutes", spare=spare)
    for one in told.get("pauses") or []:
        output.text(f"{one['kind']} {one['name']} is paused: {one['reason'] or 'no reason given'}")


def _p95(times: Mapping[str, Any] | None) -> str | None:
    """The 95th percentile as people say it."""
    value = (times or {}).get("p95_ms")
    return None if value is None else lasted(float(value))
