"""Verbs on jobs: enqueue, ls, show, explain, cancel, retry, answer, redrive.

Following one live is watch.py's.
"""

from __future__ import annotations

import json
import sys
import uuid
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from minutehand.cli.watch import follow_job, question
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.events import ENDED
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import (
    EnvFile,
    JobId,
    Json,
    Token,
    Workspace,
    connected,
    seconds_of,
)
from minutehand.terminal.output import Output, ago


class Status(StrEnum):
    """The states a job can be asked for by."""

    PENDING = "pending"
    PROCESSING = "processing"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


COLUMNS = {
    "id": "ID",
    "job_type": "TYPE",
    "status": "STATUS",
    "progress": "PROGRESS",
    "tries": "TRIES",
    "created_at": "CREATED",
    "error_message": "ERROR",
}


def read_payload(text: str) -> Any:
    """JSON as given, from `@file`, or from standard input with `-`.

    Raises:
        CommandFailed: It is no JSON object.
    """
    source = "the payload"
    if text == "-":
        text, source = sys.stdin.read(), "standard input"
    elif text.startswith("@"):
        source = text[1:]
        try:
            text = Path(source).read_text("utf-8")
        except OSError as error:
            raise CommandFailed(f"{source} cannot be read: {error.strerror}") from error
    try:
        payload = json.loads(text)
    except ValueError as error:
        raise CommandFailed(f"{source} is not JSON: {error}", code="bad_payload") from error
    if not isinstance(payload, dict):
        raise CommandFailed(f"{source} must be a JSON object", code="bad_payload")
    return payload


def enqueue(
    job_type: Annotated[str, typer.Argument(help="The job type, e.g. enrich_account.")],
    payload: Annotated[str, typer.Argument(help="JSON, @file, or - for standard input.")] = "{}",
    *,
    delay: Annotated[str | None, typer.Option("--in", help="Run no sooner: 90s, 5m, 2h.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="Run no sooner: ISO 8601.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 1000, smaller first.")] = None,
    queue: Annotated[str | None, typer.Option(help="The queue, a named partition.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="1 to 50.")] = None,
    concurrency_key: Annotated[str | None, typer.Option(help="Bounds jobs sharing it.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Idempotency key: one job per key.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Enqueue a job."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        body = {
            "workspace_id": connection.workspace,
            "job_type": job_type,
            "payload": read_payload(payload),
            "delay_seconds": None if delay is None else seconds_of(delay),
            "scheduled_for": at,
            "priority": priority,
            "queue": queue,
            "max_attempts": max_attempts,
            "concurrency_key": concurrency_key,
        }
        job = connection.call(
            "POST",
            "/api/jobs",
            json={name: value for name, value in body.items() if value is not None},
            headers={"idempotency-key": key or str(uuid.uuid4())},
        )
        if not watch:
            output.value(job, text=f"{job['id']}  {job['status']}")
            return
        output.note(f"enqueued {job['id']}")
        follow_job(output, connection, job["id"])


def ls(
    *,
    status: Annotated[
        list[Status] | None, typer.Option("--status", "-s", help="Repeatable.")
    ] = None,
    job_type: Annotated[str | None, typer.Option("--type", "-t", help="The job type.")] = None,
    queue: Annotated[str | None, typer.Option(help="The queue, a named partition.")] = None,
    search: Annotated[str | None, typer.Option(help="Part of the type, error, key or id.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000)] = 20,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        filters: dict[str, Any] = {
            "workspace_id": connection.workspace,
            "status": [state.value for state in status or ()],
            "job_type": job_type,
            "queue": queue,
            "search": search,
        }
        jobs = list_jobs(connection, filters, limit)
        output.table(
            [{**job, "tries": f"{job['attempts']}/{job['max_attempts']}"} for job in jobs]
            if not as_json
            else jobs,
            COLUMNS,
            empty="no jobs",
        )


def list_jobs(connection: Connection, filters: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    """Jobs page by page until `limit`."""
    params = {name: value for name, value in filters.items() if value}
    jobs: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(jobs) < limit:
        asked = {**params, "limit": min(200, limit - len(jobs))}
        page = connection.call(
            "GET", "/api/jobs", params=asked if cursor is None else {**asked, "cursor": cursor}
        )
        jobs += page["jobs"]
        cursor = page.get("next_cursor")
        if not cursor:  # a page may be empty and the list go on
            break
    return jobs


def show(
    job_id: JobId, *, token: Token = None, env_file: EnvFile = None, as_json: Json = False
) -> None:
    """Show everything about a job."""
    with connected(as_json, env_file, token) as (output, connection):
        job_id = whole_id(connection, job_id)
        job = connection.call("GET", f"/api/jobs/{job_id}")
        rows = [{"name": name, "value": value} for name, value in job.items() if value is not None]
        if as_json:
            output.line(job)
        else:
            output.table(rows, {"name": "", "value": ""}, empty="nothing")
            if job["status"] not in ENDED:
                told = connection.call("GET", f"/api/jobs/{job_id}/explain")
                wait = {**told["data"], "kind": "ask" if told["reason"] == "asking" else None}
                output.note(question(wait, job_id, "\n") or told["sentence"])


def explain(
    job_id: JobId, *, token: Token = None, env_file: EnvFile = None, as_json: Json = False
) -> None:
    """Say why a job is not running, and when it will."""
    with connected(as_json, env_file, token) as (output, connection):
        told = connection.call("GET", f"/api/jobs/{whole_id(connection, job_id)}/explain")
        start = told.get("estimated_start_at")
        expected = f"  (expected {_when(start)})" if start else ""
        output.value(told, text=f"{told['sentence']}{expected}")


def _when(start: str) -> str:
    told = ago(start)
    return "now" if told.endswith(" ago") else told


def _act(
    verb: str, done: str, job_id: str, token: str | None, env_file: Path | None, as_json: bool
) -> None:
    with connected(as_json, env_file, token) as (output, connection):
        job = connection.call("POST", f"/api/jobs/{whole_id(connection, job_id)}/{verb}")
        output.value(job, text=f"{job['id']}  {done}; it is {job['status']}")


def cancel(
    job_id: JobId, *, token: Token = None, env_file: EnvFile = None, as_json: Json = False
) -> None:
    """Cancel a job; a running one stops within a heartbeat."""
    _act("cancel", "cancel asked for", job_id, token, env_file, as_json)


def retry(
    job_id: JobId, *, token: Token = None, env_file: EnvFile = None, as_json: Json = False
) -> None:
    """Send a failed or cancelled job round again."""
    _act("retry", "sent round again", job_id, token, env_file, as_json)


def answer(
    job_id: JobId,
    value: Annotated[str, typer.Argument(metavar="ANSWER", help="Text, or JSON with --raw.")],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="ANSWER is JSON.")] = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Answer the question a job waits with."""
    with connected(as_json, env_file, token) as (output, connection):
        try:
            given = json.loads(value) if raw else value
        except ValueError as error:
            raise CommandFailed(f"ANSWER is not JSON: {error}", code="bad_payload") from error
        path = f"/api/jobs/{whole_id(connection, job_id)}/answer"
        job = connection.call("POST", path, json={"answer": given})
        output.value(job, text=f"{job['id']}  answered; it is {job['status']}")


def redrive(
    *,
    job_type: Annotated[str | None, typer.Option("--type", "-t", help="The job type.")] = None,
    queue: Annotated[str | None, typer.Option(help="The queue, a named partition.")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="The error's fingerprint.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Created longer ago: 1h, 2d.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000)] = 500,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Send dead letters round again, in bulk."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        wanted: dict[str, Any] = {
            "job_type": job_type,
            "queue": queue,
            "error_fingerprint": fingerprint,
        }
        if older_than is not None:
            before = datetime.now(UTC) - timedelta(seconds=seconds_of(older_than))
            wanted["created_before"] = before.isoformat()
        chosen = {name: value for name, value in wanted.items() if value is not None}
        if not _confirmed(output, connection, chosen, limit, yes):
            output.value({"count": 0, "more": False}, text="no failed job matches")
            return
        result = connection.call(
            "POST",
            "/api/jobs/redrive",
            json={"workspace_id": connection.workspace, "filter": chosen, "limit": limit},
        )
        more = "; more match, run it again" if result["more"] else ""
        output.value(result, text=f"{result['count']} sent round again{more}")


def _confirmed(
    output: Output, connection: Connection, chosen: dict[str, Any], limit: int, yes: bool
) -> bool:
    """Say how many jobs are meant before touching them; False when there are none."""
    if yes:
        return True
    filters = {
        "workspace_id": connection.workspace,
        "status": ["failed"],
        "job_type": chosen.get("job_type"),
        "queue": chosen.get("queue"),
        "created_before": chosen.get("created_before"),
    }
    count = len(list_jobs(connection, filters, min(limit, 1000)))
    if count == 0:
        return False
    if output.as_json or not sys.stdin.isatty():
        raise CommandFailed(
            f"{count} failed jobs may be sent round again", code="not_confirmed", fix="pass --yes"
        )
    if not typer.confirm(f"Send up to {count} failed jobs round again?", err=True):
        raise CommandFailed("nothing was changed", code="not_confirmed")
    return True
