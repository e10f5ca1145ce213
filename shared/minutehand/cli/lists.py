"""`minutehand schedules`, `webhooks`, `workers` and `logs`, which list rows of a workspace."""

import time
from collections import defaultdict
from typing import Annotated, Any

import typer
from rich.text import Text

from minutehand.cli.jobs import read_jobs
from minutehand.cli.watch import format_log_line
from minutehand.terminal.connection import Connection
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import SHORT_ID, Output, ago, parse_columns

SCHEDULE_COLUMNS = parse_columns(
    "name job_type:TYPE cron timezone next_at enabled updated_at problem"
)
WEBHOOKS = parse_columns("id url event_types:EVENTS enabled failures problem")
WORKER_COLUMNS = parse_columns("worker_id:WORKER sign:LAST_SIGN version queues job_types:TYPES")
#: Maximum number of a worker's job types that the table of workers shows.
MAX_TYPES = 5
#: Maximum number of rows that one read of log lines returns.
PAGE = 1000
POLL_SECONDS = 1.0
#: Maximum number of jobs in one read of log lines, because the URL contains a condition per job.
MAX_JOBS = 50


@workspace_verb
def schedules(output: Output, connection: Connection) -> None:
    """List schedules with the time of their next job."""
    rows = connection.get(connection.path("schedules"))["schedules"]
    disabled = {"next_at": None}
    output.table(
        rows,
        SCHEDULE_COLUMNS,
        row=lambda row: row if row["enabled"] else row | disabled,
        empty="no schedules",
    )


@workspace_verb
def webhooks(output: Output, connection: Connection) -> None:
    """List webhooks."""
    rows = connection.get(connection.path("webhooks"))["webhooks"]
    output.table(rows, WEBHOOKS, row=_with_problem, empty="no webhooks")


@workspace_verb
def workers(output: Output, connection: Connection) -> None:
    """List the workers of the workspace's job types."""
    rows: dict[str, dict[str, Any]] = {}
    for job_type in connection.get("/api/types", workspace_id=connection.workspace)["types"]:
        for worker in job_type["serving"]:
            rows.setdefault(worker["worker_id"], {**worker, "job_types": []})
            rows[worker["worker_id"]]["job_types"].append(job_type["job_type"])
    running = sorted(rows.values(), key=lambda worker: bool(worker["ended_at"]))
    output.table(running, WORKER_COLUMNS, row=_format_worker, empty="no workers")


def _format_worker(worker: dict[str, Any]) -> dict[str, Any]:
    types = worker["job_types"]
    more = [f"{len(types) - MAX_TYPES} more"] if len(types) > MAX_TYPES else []
    return {**worker, "sign": last_sign(worker), "job_types": [*types[:MAX_TYPES], *more]}


def last_sign(worker: dict[str, Any]) -> str:
    """Return how a worker's process or latest run ended, otherwise when the worker was last seen.

    A worker whose host was killed, or whose key expired, is only known by the time of its last
    call.
    """
    # a database before 0.5.6 sends no `key_expired_at`
    expired = worker.get("key_expired_at")
    if worker["ended_at"] and worker["state"] != "alive" and not expired:
        return f"last run ended {ago(worker['ended_at'])}{worker['process_end']}"
    key = f", its key expired {ago(expired)}" if expired else ""
    return f"seen {ago(worker['seen_at'])}{key}"


def _with_problem(webhook: dict[str, Any]) -> dict[str, Any]:
    """Set the problem to why the webhook is disabled, or to its last delivery if that failed."""
    result = [webhook[name] for name in ("last_status", "last_answer") if webhook[name] is not None]
    last = ": ".join(map(str, result)) if webhook["failures"] else None
    return {**webhook, "problem": webhook["disabled_reason"] or last or webhook.get("problem")}


@workspace_verb
def logs(
    output: Output,
    connection: Connection,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow until Ctrl-C.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE)] = 20,
) -> None:
    """Print the last log lines of all jobs."""
    workspace = connection.workspace
    feed = {"p_workspace_id": workspace, "p_cursor": None}
    if follow:
        feed["p_cursor"] = connection.rpc("event_feed", feed)["cursor"]
    rows = connection.rows(
        "job_logs", workspace_id=f"eq.{workspace}", order="id.desc", limit=limit
    )[::-1]
    _print_lines(output, rows)
    first_id = rows[0]["id"] - 1 if rows else 0
    last_ids = defaultdict(lambda: first_id, {row["job_id"]: row["id"] for row in rows})
    while follow:
        # read log rows by job, because a read by workspace would scan the new rows of all
        # workspaces
        page = connection.rpc("event_feed", feed)
        feed["p_cursor"] = page["cursor"]
        running = read_jobs(connection, {"workspace_id": workspace, "state": "running"}, PAGE)
        ids = sorted({row["job_id"] for row in page["events"]} | {row["id"] for row in running})
        for start in range(0, len(ids), MAX_JOBS):
            _print_new_lines(output, connection, ids[start : start + MAX_JOBS], last_ids)
        if not page["more"]:
            time.sleep(POLL_SECONDS)


def _print_new_lines(
    output: Output, connection: Connection, job_ids: list[str], last_ids: dict[str, int]
) -> None:
    """Print each job's log lines that follow the job's last printed line."""
    while True:
        new = ",".join(f"and(job_id.eq.{id_},id.gt.{last_ids[id_]})" for id_ in job_ids)
        # order the rows by the columns of an index, so that Postgres need not sort
        rows = connection.rows("job_logs", **{"or": f"({new})"}, order="job_id,id", limit=PAGE)
        if not rows:  # only an empty page is surely the last, as the Data API may limit rows
            return
        _print_lines(output, sorted(rows, key=lambda row: row["id"]))
        last_ids.update({row["job_id"]: row["id"] for row in rows})


def _print_lines(output: Output, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        line = Text.assemble((f"{row['job_id'][-SHORT_ID:]}  ", "dim"), format_log_line(row))
        output.value(row, text=line)
