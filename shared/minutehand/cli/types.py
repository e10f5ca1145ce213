"""`minutehand types`: job types, who serves them, how they went today."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from minutehand.terminal.connection import Connection
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import Output, headed, p95

COLUMNS = headed("job_type:TYPE served seen_at:WORKER_SEEN done:TODAY failed p95:RUN_P95")


@workspace_verb
def types(
    output: Output,
    connection: Connection,
    job_type: Annotated[str | None, typer.Argument(help="Show one type in full.")] = None,
) -> None:
    """List job types: schema, limits, schedules, who serves them."""
    where: dict[str, Any] = {"workspace_id": connection.workspace}
    if job_type is not None:
        shown = connection.get(f"/api/types/{quote(job_type, safe='')}", **where)
        if not output.answered(shown):
            output.facts({name: value for name, value in shown.items() if value not in ([], {})})
        return
    found = connection.get("/api/types", **where)
    output.table(found["types"], COLUMNS, row=_row, empty="no types")


def _row(line: dict[str, Any]) -> dict[str, Any]:
    day = line["day"]
    served = "yes" if line["served"] else "NO"
    if not line["published"]:
        nearest = line["nearest"]
        served = f"not published; {nearest}?" if nearest else "not published"
    return {
        **line,
        "served": "paused" if line["paused_at"] else served,
        "seen_at": line["serving"][0]["seen_at"] if line["serving"] else None,
        "done": day.get("completed", 0),
        "failed": day.get("failed", 0),
        "p95": p95(day.get("run")),
    }
