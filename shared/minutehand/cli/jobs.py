"""Verbs that make and find jobs: enqueue, ls, explain.

One job whole is show.py's, following it watch.py's, changing it steer.py's.
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from minutehand.cli.watch import follow_job
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import whole_id
from minutehand.terminal.inputs import parse_object, read_text
from minutehand.terminal.options import (
    EnvFile,
    JobId,
    Json,
    Token,
    Workspace,
    connected,
    seconds_of,
)
from minutehand.terminal.output import Output, ago, lasted


class Status(StrEnum):
    """The states a job can be asked for by."""

    PENDING = "pending"
    PROCESSING = "processing"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobState(StrEnum):
    """The state shown to people, as the service derives it."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RETRYING = "retrying"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Sort(StrEnum):
    """Orders of a list besides the age of jobs."""

    NEXT = "next_run_at"
    STARTED = "started_at"
    FINISHED = "finished_at"
    RAN = "run_ms"
    QUEUED = "queue_ms"
    TOTAL = "total_ms"
    PRIORITY = "priority"
    ATTEMPTS = "attempts"


#: The state of a status, where it has one of its own; pending has three.
STATE_OF = {"pending": "queued", "processing": "running", "waiting": "suspended"}
COLUMNS = {
    "id": "ID",
    "job_type": "TYPE",
    "state": "STATE",
    "next_run": "NEXT RUN",
    "ran": "RAN",
    "tries": "TRIES",
    "created_at": "CREATED",
    "error_message": "ERROR",
}
#: What a narrow terminal goes without, the least asked for first.
SPARE = ("next_run", "tries", "ran", "created_at")
#: How long an enqueue on the local stack waits for a type that a worker is about to publish.
LOCAL_PATIENCE_SECONDS = 5.0


def read_payload(text: str) -> Any:
    """JSON as given, from `@file`, or from standard input with `-`.

    Raises:
        CommandFailed: It is not a JSON object.
    """
    source = "the payload"
    if text == "-":
        text, source = read_text(text), "standard input"
    elif text.startswith("@"):
        source = text[1:]
        text = read_text(source)
    return parse_object(text, source, code="bad_payload")


def enqueue(
    job_type: Annotated[str, typer.Argument(help="The job type, e.g. enrich_account.")],
    payload: Annotated[str, typer.Argument(help="JSON, @file, or - for standard input.")] = "{}",
    *,
    delay: Annotated[str | None, typer.Option("--in", help="Delay: 90s, 5m, 2h.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="Start time, ISO 8601.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 1000, smaller first.")] = None,
    queue: Annotated[str | None, typer.Option(help="The queue's name.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="1 to 50.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="A tag to find it by; repeatable.")
    ] = None,
    concurrency_key: Annotated[
        str | None, typer.Option(help="Limits the jobs that share it.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Idempotency key: one job per key.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
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
            "tags": tag or None,
        }
        given = {name: value for name, value in body.items() if value is not None}
        job = _enqueue(output, connection, given, key or str(uuid.uuid4()))
        if job.get("warning"):
            output.note(job["warning"])
        if not watch:
            output.value(job, text=f"{job['id']}  {job['state']}")
            return
        output.note(f"enqueued {job['id']}")
        follow_job(output, connection, job["id"])


def _enqueue(
    output: Output, connection: Connection, body: dict[str, Any], key: str
) -> dict[str, Any]:
    """Enqueue; on the local stack once more for some seconds while the type is unknown.

    A processor that was just saved is published within a second or two.
    """
    until = time.monotonic() + LOCAL_PATIENCE_SECONDS
    told = False
    while True:
        try:
            job: dict[str, Any] = connection.call(
                "POST", "/api/jobs", json=body, headers={"idempotency-key": key}
            )
        except CommandFailed as refused:
            again = refused.code == "unknown_job_type" and connection.is_local
            if not again or time.monotonic() >= until:
                raise
            if not told:
                output.note(f"waiting for the local worker to publish {body['job_type']}")
                told = True
            time.sleep(0.3)
        else:
            return job


def ls(
    *,
    status: Annotated[
        list[Status] | None, typer.Option("--status", "-s", help="Repeatable.")
    ] = None,
    job_type: Annotated[str | None, typer.Option("--type", "-t", help="The job type.")] = None,
    queue: Annotated[str | None, typer.Option(help="The queue's name.")] = None,
    search: Annotated[
        str | None, typer.Option(help="Part of the type, error, tag, payload, key or id.")
    ] = None,
    state: Annotated[
        list[JobState] | None,
        typer.Option("--state", help="State, e.g. queued or retrying; repeatable."),
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Jobs with this tag.")] = None,
    payload: Annotated[
        list[str] | None, typer.Option("--payload", help="FIELD=VALUE of the payload; repeatable.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Created in the last 15m, 2h, 7d.")] = None,
    error: Annotated[str | None, typer.Option(help="Part of the error's message.")] = None,
    worker: Annotated[str | None, typer.Option(help="Ran, or runs, on this worker.")] = None,
    version: Annotated[str | None, typer.Option(help="Ran with this version of the code.")] = None,
    longer_than: Annotated[str | None, typer.Option(help="Ran for 10s, 5m or longer.")] = None,
    sort: Annotated[Sort | None, typer.Option(help="The largest or latest first.")] = None,
    ascending: Annotated[
        bool, typer.Option("--asc", help="The smallest or soonest first.")
    ] = False,
    count: Annotated[
        bool, typer.Option("--count", help="Count by state instead, by --type and --queue alone.")
    ] = False,
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
            "state": [word.value for word in state or ()],
            "tag": tag,
            "payload": fields_of(payload or []),
            "error": error,
            "worker_id": worker,
            "version": version,
            "min_run_ms": longer_than and seconds_of(longer_than) * 1000,
            "sort": sort and sort.value,
            "order": "asc" if sort and ascending else None,
        }
        if since is not None:
            begun = datetime.now(UTC) - timedelta(seconds=seconds_of(since))
            filters["created_after"] = begun.isoformat()
        if count:
            _count(output, connection, filters)
            return
        jobs = list_jobs(connection, filters, limit)
        rows = jobs if as_json else [_row(job) for job in jobs]
        output.table(rows, COLUMNS, empty="no jobs", spare=SPARE)


def _count(output: Output, connection: Connection, filters: dict[str, Any]) -> None:
    """Print how many jobs there are by state.

    Raises:
        CommandFailed: A filter was given that counts do not know.
    """
    given = {name: value for name, value in filters.items() if value}
    known = {"workspace_id", "job_type", "queue"}
    if unknown := sorted(set(given) - known):
        raise CommandFailed(
            f"--count supports --type and --queue, not {', '.join(unknown)}",
            code="bad_usage",
            fix="omit --count: the list takes every filter",
        )
    told = connection.call("GET", "/api/jobs/counts", params=given)
    if output.as_json:
        output.line(told)
        return
    more = {STATE_OF.get(status, status) for status in told["at_least"]}
    rows = [
        {"state": state.value, "jobs": f"{told['states'][state.value]:,}{'+' * (state in more)}"}
        for state in JobState
    ]
    output.table(rows, {"state": "STATE", "jobs": "JOBS"}, empty="")


def _row(job: dict[str, Any]) -> dict[str, Any]:
    """A job as a line of the table: durations and instants as people say them."""
    times = job.get("times") or {}
    due = job.get("next_run_at")
    return {
        **job,
        "tries": f"{job['attempts']}/{job['max_attempts']}",
        "next_run": ago(due) if due and job["state"] != "queued" else None,
        "ran": lasted(times["run_ms"]) if times.get("runs") else None,
    }


def fields_of(given: list[str]) -> str | None:
    """FIELD=VALUE pairs as the JSON object the API takes; a value that is JSON counts as such.

    Raises:
        CommandFailed: One has no `=`.
    """
    if not given:
        return None
    fields: dict[str, Any] = {}
    for pair in given:
        name, found, value = pair.partition("=")
        if not found:
            raise CommandFailed(f"--payload must be FIELD=VALUE: {pair!r}", code="bad_payload")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return json.dumps(fields)


def list_jobs(connection: Connection, filters: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    """Jobs page by page until `limit`."""
    params = {name: value for name, value in filters.items() if value}
    jobs: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(jobs) < limit:
        asked = {**params, "limit": min(200, limit - len(jobs))}
        if "sort" in params:
            asked["offset"] = len(jobs)
        page = connection.call(
            "GET", "/api/jobs", params=asked if cursor is None else {**asked, "cursor": cursor}
        )
        jobs += page["jobs"]
        cursor = page.get("next_cursor")
        if page.get("more"):
            continue
        if not cursor:  # a page may be empty and the list continue
            break
    return jobs


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
