"""`minutehand schedules`, `webhooks`, `workers` and `logs` list these rows of a workspace."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from minutehand.cli.watch import format_log_line
from minutehand.terminal.connection import Connection
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import SHORT_ID, Output, parse_columns

SCHEDULE_COLUMNS = parse_columns("name job_type:TYPE cron timezone next_at enabled problem")
WEBHOOKS = parse_columns("id url event_types:EVENTS enabled failures disabled_reason:PROBLEM")
WORKER_COLUMNS = parse_columns("worker_id:WORKER state version seen_at:SEEN queues job_types:TYPES")
#: Maximum log rows per read.
PAGE: Final = 1000
POLL_SECONDS: Final = 1.0
#: Maximum interval, which grows without new lines, because a read scans the rows of all workspaces.
MAX_POLL_SECONDS: Final = 16.0
#: Time by which a transaction may commit a log row later than other rows with higher ids.
LATE: Final = timedelta(seconds=10)


@workspace_verb
def schedules(output: Output, connection: Connection) -> None:
    """List schedules with the time of their next job."""
    rows = connection.get(connection.path("schedules"))["schedules"]
    output.table(rows, SCHEDULE_COLUMNS, empty="no schedules")


@workspace_verb
def webhooks(output: Output, connection: Connection) -> None:
    """List webhooks."""
    rows = connection.get(connection.path("webhooks"))["webhooks"]
    output.table(rows, WEBHOOKS, empty="no webhooks")


@workspace_verb
def workers(output: Output, connection: Connection) -> None:
    """List the workers of the workspace's job types."""
    rows: dict[str, dict[str, Any]] = {}
    for job_type in connection.get("/api/types", workspace_id=connection.workspace)["types"]:
        for worker in job_type["serving"]:
            row = rows.setdefault(worker["worker_id"], {**worker, "job_types": []})
            row["job_types"].append(job_type["job_type"])
    output.table(list(rows.values()), WORKER_COLUMNS, empty="no workers")


@workspace_verb
def logs(
    output: Output,
    connection: Connection,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow until Ctrl-C.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE)] = 20,
) -> None:
    """Print the last log lines of all jobs."""
    filters = {"workspace_id": f"eq.{connection.workspace}"}
    rows = connection.rows("job_logs", **filters, order="id.desc", limit=limit)[::-1]
    _print_lines(output, rows)
    seen_ids, after = {row["id"] for row in rows}, rows[0]["id"] - 1 if rows else 0
    seconds = POLL_SECONDS
    while follow:
        time.sleep(seconds)
        # read recent rows again, because a row that commits late has a lower id than printed rows
        after = _settled(rows, after)
        rows = connection.rows("job_logs", **filters, id=f"gt.{after}", order="id", limit=PAGE)
        new_rows = [row for row in rows if row["id"] not in seen_ids]
        _print_lines(output, new_rows)
        seen_ids = {row["id"] for row in rows}
        seconds = POLL_SECONDS if new_rows else min(2 * seconds, MAX_POLL_SECONDS)


def _settled(rows: list[dict[str, Any]], after: int) -> int:
    """Return the id after which the next read begins.

    Rows of the last seconds are read again, unless there are too many of them.
    """
    if not rows:
        return after
    if len(rows) == PAGE:
        return int(rows[PAGE // 2]["id"])
    timestamps = [datetime.fromisoformat(row["created_at"]) for row in rows]
    ids = [
        int(row["id"])
        for row, at in zip(rows, timestamps, strict=True)
        if at < max(timestamps) - LATE
    ]
    return max([after, *ids])


def _print_lines(output: Output, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        line = Text.assemble((f"{row['job_id'][-SHORT_ID:]}  ", "dim"), format_log_line(row))
        output.value(row, text=line)
