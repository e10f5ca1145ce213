"""`minutehand types`: job types, who serves them, how they went today; TypeScript of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from minutehand.terminal.options import EnvFile, Json, Token, Workspace, connected, speaking
from minutehand.terminal.output import Output, ago, lasted

COLUMNS = {
    "job_type": "TYPE",
    "served": "SERVED",
    "last_seen_at": "WORKER SEEN",
    "done": "TODAY",
    "success": "SUCCESS",
    "p95": "RUN P95",
    "schedules": "SCHEDULES",
}


def types(
    job_type: Annotated[str | None, typer.Argument(help="Show one type in full.")] = None,
    *,
    internal: Annotated[
        bool, typer.Option("--internal", help="Also those that only the platform enqueues.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write TypeScript types to this file.", dir_okay=False),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --out: write nothing, fail if it is out of date.")
    ] = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List job types: schema, limits, schedules, who serves them; or write TypeScript of them."""
    if out is not None or check:
        from minutehand.cli.declarations import write  # loads the project's processors

        with speaking(as_json) as output:
            write(output, out or Path("jobs.d.ts"), check=check)
        return
    with connected(as_json, env_file, token, workspace) as (output, connection):
        where: dict[str, Any] = {"workspace_id": connection.workspace}
        if job_type is not None:
            shown = connection.call("GET", f"/api/types/{quote(job_type, safe='')}", params=where)
            if as_json:
                output.line(shown)
            else:
                _show(output, shown)
            return
        asked = {**where, "internal": "true"} if internal else where
        found = connection.call("GET", "/api/types", params=asked)["types"]
        output.table(
            found if as_json else [_row(line) for line in found],
            COLUMNS,
            empty="no types",
            spare=("schedules", "p95"),
        )


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
        **{name: value for name, value in shown["limits"].items() if value is not None},
    }
    rows = [{"name": name, "value": value} for name, value in facts.items() if value is not None]
    output.table(rows, {"name": "", "value": ""}, empty="")
    for schedule in shown["schedules"]:
        due = ago(schedule["next_at"]) if schedule["next_at"] else "never"
        by = f", declared in {schedule['source']}" if schedule["source"] else ""
        output.text(f"schedule {schedule['name']}: {schedule['cron']}, next {due}{by}")
    for worker in shown["serving"][:5]:
        version = worker["version"] or "?"
        output.text(f"worker {worker['worker_id']} ({version}), seen {ago(worker['seen_at'])}")
    output.text(json.dumps(shown["payload_schema"], indent=2, ensure_ascii=False))
