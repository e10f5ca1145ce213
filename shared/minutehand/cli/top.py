"""`minutehand top`: queues, workers and failures on one page that keeps itself up to date."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import Output, headed, lasted, shown, state_style

MINUTES = 15
LIVE = ("queued", "scheduled", "retrying", "running", "suspended")
TYPES = headed("job_type:TYPE queue workers running completed failed run:RUN_P95")
WORKERS = headed("worker_id:WORKER jobs:RUNS longest types")
FAILURES = headed("id:FAILED job_type:TYPE finished_at:WHEN error_message:ERROR")


@workspace_verb
def top(
    output: Output,
    connection: Connection,
    *,
    every: Annotated[
        float, typer.Option("--every", min=0.5, max=60, help="Seconds between two reads.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
) -> None:
    """Show queues, workers and failures, live until Ctrl-C; piped or as JSON once."""
    if output.as_json:
        output.line(read(connection))
    elif once or not output.out.is_terminal:
        output.out.print(page(output, read(connection)), soft_wrap=False)
    else:
        with Live(console=output.out, screen=True, auto_refresh=False) as live:
            for view in _views(output, connection):
                live.update(view, refresh=True)
                time.sleep(every)


def _views(output: Output, connection: Connection) -> Iterator[RenderableType]:
    """The page, repeatedly; while the service does not answer, the last one and why."""
    view: RenderableType = ""
    while True:
        try:
            view = page(output, read(connection))
            yield view
        except CommandFailed as failed:
            if not view:
                raise
            yield Group(Text(shown(f"{failed} (shown as last read)"), style="bold red"), view)


def read(connection: Connection) -> dict[str, Any]:
    """What the page shows, from routes that members may read."""
    where = {"workspace_id": connection.workspace}
    jobs = {**where, "internal": "false"}
    return {
        "counts": connection.get("/api/jobs/counts", **where),
        "stats": connection.get("/api/status", **where, minutes=MINUTES),
        "types": connection.get("/api/types", **where)["types"],
        "running": connection.get("/api/jobs", **jobs, state="running", limit=200)["jobs"],
        "failed": connection.get("/api/jobs", **jobs, state="failed", limit=10)["jobs"],
    }


def page(output: Output, told: Mapping[str, Any]) -> Group:
    """The page for the terminal's width: live counts, a line per type, worker and failure."""
    states = told["counts"]["states"]
    head = Text(f"{datetime.now(UTC):%H:%M:%S} UTC")
    for state in LIVE:
        head.append(f"  {states[state]:,} ").append(state, style=state_style(state))
    running = told["running"]
    return Group(
        head,
        _part(output, f"Last {MINUTES} minutes", _types(told), TYPES, ("queue", "run")),
        _part(output, "Workers", _workers(running), WORKERS, ("types",)),
        _part(output, "Failures", told["failed"], FAILURES, ("id",)),
    )


def _part(
    output: Output,
    title: str,
    rows: list[dict[str, Any]],
    columns: Mapping[str, str],
    spare: tuple[str, ...],
) -> Group:
    heading = Text(f"\n{title}", style="bold")
    return Group(
        heading, output.grid(rows, columns, spare=spare) if rows else Text("none", style="dim")
    )


def _types(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line per type that runs or ran of late, or that no worker serves; the busiest first."""
    held: dict[str, int] = defaultdict(int)
    for job in told["running"]:
        held[job["job_type"]] += 1
    rows = []
    for line in told["types"]:
        numbers = told["stats"]["types"].get(line["job_type"], {})
        if not (numbers or held[line["job_type"]] or not line["served"]):
            continue
        p95 = (numbers.get("run") or {}).get("p95_ms")
        rows.append(
            {
                **line,
                "workers": line["workers"] if line["served"] else "none",
                "running": held[line["job_type"]],
                "completed": numbers.get("completed", 0),
                "failed": numbers.get("failed", 0),
                "run": None if p95 is None else lasted(p95),
            }
        )
    return sorted(rows, key=lambda row: (-row["running"], -row["completed"], row["job_type"]))


def _workers(running: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The workers that hold jobs of this workspace, with the job that has run longest."""
    now = datetime.now(UTC)
    by_worker: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for job in running:
        if job["worker_id"] is not None and job["running_since"] is not None:
            by_worker[job["worker_id"]].append(job)
    rows = []
    for worker_id, jobs in sorted(by_worker.items()):
        since = min(datetime.fromisoformat(job["running_since"]) for job in jobs)
        rows.append(
            {
                "worker_id": worker_id,
                "jobs": len(jobs),
                "longest": lasted(max(0.0, (now - since).total_seconds() * 1000)),
                "types": sorted({job["job_type"] for job in jobs}),
            }
        )
    return rows
