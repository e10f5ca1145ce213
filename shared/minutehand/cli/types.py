"""`minutehand types`: job types, who serves them, how they went today."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from minutehand.terminal.completion import job_types
from minutehand.terminal.options import EnvFile, Token, Workspace, connected, verb
from minutehand.terminal.output import Output, ago, headed, lasted

COLUMNS = headed(
    "job_type:TYPE served last_seen_at:WORKER_SEEN done:TODAY success p95:RUN_P95 schedules"
)


@verb
def types(
    output: Output,
    job_type: Annotated[
        str | None, typer.Argument(help="Show one type in full.", autocompletion=job_types)
    ] = None,
    *,
    internal: Annotated[
        bool, typer.Option("--internal", help="Also those that only the platform enqueues.")
    ] = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
) -> None:
    """List job types: schema, limits, schedules, who serves them."""
    with connected(env_file, token, workspace) as connection:
        where: dict[str, Any] = {"workspace_id": connection.workspace}
        if job_type is not None:
            shown = connection.get(f"/api/types/{quote(job_type, safe='')}", **where)
            if not output.answered(shown):
                _show(output, shown)
            return
        found = connection.get("/api/types", **where, internal="true" if internal else None)
        spare = ("schedules", "p95")
        output.table(found["types"], COLUMNS, row=_row, empty="no types", spare=spare)


def _row(line: dict[str, Any]) -> dict[str, Any]:
    day = line["day"]
    rate, p95 = day["success_rate"], day["run"]["p95_ms"]
    paused = "paused" if line["paused_at"] else None
    return {
        **line,
        "served": paused or ("yes" if line["served"] else "NO"),
        "done": day["completed"] + day["failed"],
        "success": None if rate is None else f"{rate * 100:.1f} %",
        "p95": None if p95 is None else lasted(p95),
        "schedules": line["schedule_count"] or None,
    }


def _show(output: Output, shown: dict[str, Any]) -> None:
    row = _row(shown)
    facts = {
        "type": shown["job_type"],
        "description": shown["description"],
        "source": shown["source"],
        "queue": shown["queue"],
        "version": shown["version"],
        "served": row["served"],
        "paused because": shown["pause_reason"],
        "today": f"{shown['day']['completed']} completed, {shown['day']['failed']} failed, "
        f"{shown['day']['retried']} retried",
        "success": row["success"],
        "run p95": row["p95"],
        "tagged by": ", ".join(shown["tagged_by"]) or None,
        **shown["limits"],
    }
    output.facts(facts)
    for schedule in shown["schedules"]:
        due = ago(schedule["next_at"]) if schedule["next_at"] else "never"
        by = f", declared in {schedule['source']}" if schedule["source"] else ""
        output.text(f"schedule {schedule['name']}: {schedule['cron']}, next {due}{by}")
    for worker in shown["serving"][:5]:
        version = worker["version"] or "?"
        output.text(f"worker {worker['worker_id']} ({version}), seen {ago(worker['seen_at'])}")
    output.text(json.dumps(shown["payload_schema"], indent=2, ensure_ascii=False))
