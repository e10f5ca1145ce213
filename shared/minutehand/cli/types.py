"""`minutehand types`: job types, who serves them, how they went today."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from minutehand.terminal.connection import Connection
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import Output, headed, lasted

COLUMNS = headed("job_type:TYPE served last_seen_at:WORKER_SEEN done:TODAY failed p95:RUN_P95")


@workspace_verb
def types(
    output: Output,
    connection: Connection,
    job_type: Annotated[str | None, typer.Argument(help="Show one type in full.")] = None,
    *,
    internal: Annotated[
        bool, typer.Option("--internal", help="Also those that only the platform enqueues.")
    ] = False,
) -> None:
    """List job types: schema, limits, schedules, who serves them."""
    where: dict[str, Any] = {"workspace_id": connection.workspace}
    if job_type is not None:
        shown = connection.get(f"/api/types/{quote(job_type, safe='')}", **where)
        if not output.answered(shown):
            output.facts({name: value for name, value in shown.items() if value not in ([], {})})
        return
    found = connection.get("/api/types", **where, internal="true" if internal else None)
    output.table(found["types"], COLUMNS, row=_row, empty="no types", spare=("p95", "failed"))


def _row(line: dict[str, Any]) -> dict[str, Any]:
    day = line["day"]
    p95 = (day.get("run") or {}).get("p95_ms")
    served = "yes" if line["served"] else "NO"
    return {
        **line,
        "served": "paused" if line["paused_at"] else served,
        "done": day.get("completed", 0),
        "failed": day.get("failed", 0),
        "p95": None if p95 is None else lasted(p95),
    }
