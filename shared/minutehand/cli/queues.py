"""Verbs on the queue as a whole: pause, resume, stats."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.ids import WHOLE, digits_of
from minutehand.terminal.options import EnvFile, Json, Token, Workspace, connected
from minutehand.terminal.output import Output, ago, lasted


class Kind(StrEnum):
    """What can be paused."""

    JOB_TYPE = "type"
    QUEUE = "queue"
    WORKSPACE = "workspace"


WhatKind = Annotated[Kind, typer.Argument(help="type, queue or workspace.")]
WhatName = Annotated[str, typer.Argument(help="Its name, or the workspace's id.")]
_WIRE = {Kind.JOB_TYPE: "job_type", Kind.QUEUE: "queue"}


def pause(
    kind: WhatKind,
    name: WhatName,
    *,
    reason: Annotated[str | None, typer.Option(help="Shown to anyone who asks why.")] = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Let no job of a type, queue or workspace start.

    Running ones continue. A workspace's managers may pause it; types and queues need the
    operator's secret key.
    """
    _steer({"paused": True, "reason": reason}, kind, name, token, env_file, as_json)


def resume(
    kind: WhatKind,
    name: WhatName,
    *,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Undo a pause."""
    _steer({"paused": False}, kind, name, token, env_file, as_json)


def _steer(
    change: dict[str, Any],
    kind: Kind,
    name: str,
    token: str | None,
    env_file: Path | None,
    as_json: bool,
) -> None:
    with connected(as_json, env_file, token) as (output, connection):
        if kind is Kind.WORKSPACE:
            if len(digits_of(name) or "") != WHOLE:
                raise CommandFailed(
                    f"{name!r} must be a workspace's id",
                    code="bad_id",
                    fix="`minutehand ls --json` shows it as workspace_id",
                )
            verb = "pause" if change["paused"] else "resume"
            result = connection.call(
                "POST", f"/api/workspaces/{name}/{verb}", json={"reason": change.get("reason")}
            )
        else:  # it affects every workspace, so only the operator may: no route offers it
            result = connection.rpc(
                "pause_jobs",
                {"p_request": {"kind": _WIRE[kind], "name": name, **change}},
                as_operator=True,
            )
        state = "paused" if result["paused"] else "running again"
        output.value(result, text=f"{kind.value} {name} is {state}")


def stats(
    *,
    operator: Annotated[
        bool, typer.Option("--all", help="Every workspace; needs the secret key.")
    ] = False,
    minutes: Annotated[int, typer.Option("--minutes", "-m", min=1, max=11_520)] = 60,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Print counts, throughput, waits and run times per type."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        if operator:
            told = connection.rpc(
                "queue_stats", {"p_workspace_id": None, "p_minutes": minutes}, as_operator=True
            )
            told["storage"] = connection.rpc("storage", {}, as_operator=True)
        else:
            asked = {"workspace_id": connection.workspace, "minutes": minutes}
            told = connection.call("GET", "/api/status", params=asked)
        if as_json:
            output.line(told)
        else:
            _print(output, told, minutes)


def messages_line(numbers: Mapping[str, Any]) -> str:
    """The messages to Realtime in one sentence, as a plan counts them."""
    return (
        f"Realtime: {numbers['per_second']} of {numbers['budget_per_second']} messages/s "
        f"({numbers['setting']}), {numbers['held_last_hour']} held back in the last hour, "
        f"about {numbers['month']:,} a month: ${numbers['month_usd']:.2f} on Pro"
    )


def _print(output: Output, told: dict[str, Any], minutes: int) -> None:
    live = told["live"]
    oldest = told.get("oldest_due_at")
    due = f", oldest due {ago(oldest)}" if oldest else ""
    output.out.print(
        f"{live['pending']} pending, {live['processing']} processing, "
        f"{live['waiting']} waiting{due}"
    )
    if told.get("messages"):
        output.out.print(messages_line(told["messages"]))
    rows = [
        {
            "type": name,
            **{key: line[key] for key in ("completed", "failed", "retried", "lost")},
            "queue": _p95(line.get("queue")),
            "run": _p95(line.get("run")),
            "cost": line.get("cost_usd"),
        }
        for name, line in sorted(told["types"].items())
    ]
    headings = {
        "type": "TYPE", "completed": "COMPLETED", "failed": "FAILED", "retried": "RETRIED",
        "lost": "LOST", "queue": "QUEUE P95", "run": "RUN P95", "cost": "COST USD (EST.)",
    }  # fmt: skip
    spare = ("cost", "lost", "retried", "queue")
    output.table(rows, headings, empty=f"nothing ran in the last {minutes} minutes", spare=spare)
    if (storage := told.get("storage")) and storage["database_bytes"] is not None:
        output.text(storage_line(storage))
    for limit in told.get("limits") or []:
        if limit.get("paused_at"):
            reason = limit.get("pause_reason") or "no reason given"
            paused = Text(f"{limit['job_type']} is paused", style="yellow")
            output.text(Text.assemble(paused, f": {reason}"))
    for held in told.get("pauses") or []:
        reason = held.get("reason") or "no reason given"
        paused = Text(f"{held['kind']} {held['name']} is paused", style="yellow")
        output.text(Text.assemble(paused, f": {reason}"))


def storage_line(storage: Mapping[str, Any]) -> str:
    """The database's size in one line, with what takes it and how fast it grows."""
    parts = (
        f"database {megabytes(storage['database_bytes'])}: "
        f"jobs {megabytes(storage['jobs_bytes'])}, "
        f"Realtime's messages {megabytes(storage['messages_bytes'])}"
    )
    growth = storage["growth_bytes_per_day"]
    return parts if growth is None else f"{parts}; {megabytes(growth, signed=True)} a day"


def megabytes(size: float, *, signed: bool = False) -> str:
    """Bytes as MB of 1,048,576, as Supabase counts."""
    return f"{size / 1024**2:{'+' if signed else ''},.1f} MB"


def _p95(times: Mapping[str, Any] | None) -> str | None:
    """The 95th percentile as people say it."""
    value = (times or {}).get("p95_ms")
    return None if value is None else lasted(float(value))
