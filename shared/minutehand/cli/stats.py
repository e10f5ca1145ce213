"""`minutehand stats`: counts, throughput, waits and run times per type."""

from __future__ import annotations

from minutehand.terminal.connection import Connection
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import Output, ago, headed, p95

STATS = headed("type completed failed retried lost queue:QUEUE_P95 run:RUN_P95")


@workspace_verb
def stats(output: Output, connection: Connection) -> None:
    """Print counts, throughput, waits and run times per type in the last hour."""
    told = connection.get("/api/status", workspace_id=connection.workspace, minutes=60)
    if output.answered(told):
        return
    oldest = told["backlog"]["oldest_at"]
    due = f", oldest due {ago(oldest)}" if oldest else ""
    output.text(", ".join(f"{count} {state}" for state, count in told["live"].items()) + due)
    rows = [
        {**line, "type": name, "queue": p95(line.get("queue")), "run": p95(line.get("run"))}
        for name, line in sorted(told["types"].items())
    ]
    output.table(rows, STATS, empty="nothing ran in the last hour")
    for one in told.get("pauses") or []:
        output.text(f"{one['kind']} {one['name']} is paused: {one['reason'] or 'no reason given'}")
