"""`minutehand types`, `status`, `failures`: who serves what, what loads it, what fails of what."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from minutehand.cli.show import say_whole, seen
from minutehand.terminal.connection import Connection
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import Output, ago, headed, p95

SERVED = headed("job_type:TYPE served seen_at:WORKER_SEEN done:TODAY failed p95:RUN_P95")
LOAD = headed("job_type:TYPE enqueued completed failed retried queue:QUEUE_P95 run:RUN_P95")
TENANTS = headed("workspace_id:WORKSPACE enqueued failed running")
GROUPS = headed(
    "jobs job_type:TYPE error_fingerprint:CAUSE last_at:LATEST so:AND_SO error_message:ERROR"
)


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
    output.table(found["types"], SERVED, row=_served, empty="no types")
    for line in found["types"]:
        if line["refusal"]:
            output.note(f"{line['job_type']} is refused as its code has it: {line['refusal']}")


@workspace_verb
def failures(output: Output, connection: Connection) -> None:
    """List failed jobs by what went wrong, the most first; `retry --cause` runs a group again."""
    found = connection.get("/api/jobs/failures", workspace_id=connection.workspace)
    output.table(found["groups"], GROUPS, row=_with_effects, empty="no failed jobs")


@workspace_verb
def status(output: Output, connection: Connection) -> None:
    """Show what is wrong, who holds jobs, and which types load the workspace; as operator, all."""
    stats = seen(connection, "queue_stats", "/api/status")
    whole = seen(connection, "explain_queue", "/api/status/explain")
    if output.answered({**stats, **{name: whole[name] for name in ("findings", "holders")}}):
        return
    say_whole(output, whole)
    output.text(stats["backlog"]["detail"])
    if stats["late_since"]:
        output.text(f"The figures below stand still since {ago(stats['late_since'])}.")
    load = [{"job_type": name, **line} for name, line in stats["types"].items()]
    load.sort(key=lambda line: -line["enqueued"])
    output.table(load, LOAD, row=_load, empty="no job in the last hour")
    if stats["tenants"]:
        output.table(stats["tenants"], TENANTS)


def _with_effects(group: dict[str, Any]) -> dict[str, Any]:
    """A group with the jobs that failed since it did."""
    so = ", ".join(f"{each['jobs']} {each['job_type']}" for each in group["consequences"])
    return {**group, "so": so or None}


def _load(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "queue": p95(line["queue"]), "run": p95(line["run"])}


def _served(line: dict[str, Any]) -> dict[str, Any]:
    day, nearest = line["day"], line["nearest"]
    served = "yes" if line["served"] else "NO"
    if not line["published"]:
        served = f"not published; {nearest}?" if nearest else "not published"
    if line["refusal"]:
        served = "REFUSED"
    return {
        **line,
        "served": "paused" if line["paused_at"] else served,
        "seen_at": line["serving"][0]["seen_at"] if line["serving"] else None,
        "done": day.get("completed", 0),
        "failed": day.get("failed", 0),
        "p95": p95(day.get("run")),
    }
