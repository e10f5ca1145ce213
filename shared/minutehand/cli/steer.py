"""Verbs that change jobs: cancel, retry, answer, redrive; those in bulk say how many and ask."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from minutehand.cli.jobs import JobState, list_jobs
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import (
    AnyJobId,
    EnvFile,
    JobId,
    Json,
    Token,
    Workspace,
    connected,
    seconds_of,
)
from minutehand.terminal.output import Output

#: Most jobs that one call of the API changes, and that are counted before anything is asked.
MOST = 1000
LIVE = ["queued", "scheduled", "retrying", "running", "suspended"]

JobType = Annotated[str | None, typer.Option("--type", "-t", help="The job type.")]
Queue = Annotated[str | None, typer.Option(help="The queue's name.")]
Tag = Annotated[str | None, typer.Option("--tag", help="Only jobs with this tag.")]
Fingerprint = Annotated[str | None, typer.Option(help="The error's fingerprint.")]
OlderThan = Annotated[str | None, typer.Option(help="Created longer ago than 1h, 2d.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _act(
    verb: str, done: str, job_id: str, token: str | None, env_file: Path | None, as_json: bool
) -> None:
    with connected(as_json, env_file, token) as (output, connection):
        job = connection.call("POST", f"/api/jobs/{whole_id(connection, job_id)}/{verb}")
        output.value(job, text=f"{job['id']}  {done}; it is {job['status']}")


def cancel(
    job_id: AnyJobId = None,
    *,
    job_type: JobType = None,
    queue: Queue = None,
    tag: Tag = None,
    status: Annotated[
        JobState | None, typer.Option("--state", "-s", help="Only jobs in this state.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Only jobs of this session.")] = None,
    older_than: OlderThan = None,
    limit: Limit = MOST,
    yes: Yes = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Cancel a job, or all live jobs that match; a running one stops within a heartbeat."""
    wanted = {
        "job_type": job_type,
        "queue": queue,
        "tag": tag,
        "session_id": session,
        "state": status and status.value,
        "created_before": older_than,
    }
    chosen = {name: value for name, value in wanted.items() if value is not None}
    if job_id is not None and not chosen:
        _act("cancel", "cancel requested", job_id, token, env_file, as_json)
        return
    with connected(as_json, env_file, token, workspace) as (output, connection):
        if job_id is not None or not chosen:
            raise CommandFailed(
                "a job's id or a criterion must be given, and not both",
                code="bad_usage",
                fix="minutehand cancel ID, or minutehand cancel --type TYPE --state queued",
            )
        filters = _filters(chosen)
        state = filters.pop("state", None)
        jobs = _matching(connection, filters, [state] if state else LIVE, min(limit, MOST))
        _confirm(output, jobs, "live jobs match", "Cancel", "cancelled", limit, yes)
        if state is not None:  # what the bulk call cannot distinguish is named one by one
            filters = {"ids": [job["id"] for job in jobs]}
        result = _bulk(connection, "cancel", filters, limit) if jobs else _NOTHING
        output.value(result, text=_told(result, "cancelled", "no live job matches"))


def retry(
    job_id: JobId, *, token: Token = None, env_file: EnvFile = None, as_json: Json = False
) -> None:
    """Run a failed or cancelled job again, or a delayed one now."""
    _act("retry", "will run again", job_id, token, env_file, as_json)


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
    job_type: JobType = None,
    queue: Queue = None,
    tag: Tag = None,
    fingerprint: Fingerprint = None,
    older_than: OlderThan = None,
    limit: Limit = 500,
    yes: Yes = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Run dead letters again, in bulk."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        wanted = {
            "job_type": job_type,
            "queue": queue,
            "tag": tag,
            "error_fingerprint": fingerprint,
            "created_before": older_than,
        }
        filters = _filters({name: value for name, value in wanted.items() if value is not None})
        if not yes:
            jobs = _matching(connection, filters, ["failed"], min(limit, MOST))
            if not jobs:
                output.value(_NOTHING, text="no failed job matches")
                return
            _confirm(output, jobs, "failed jobs match", "Run", "run again", limit, yes)
        result = _bulk(connection, "redrive", filters, limit)
        output.value(result, text=_told(result, "will run again", "no failed job matches"))


_NOTHING: dict[str, Any] = {"count": 0, "more": False}


def _filters(chosen: dict[str, Any]) -> dict[str, Any]:
    """The criteria as the API takes them: an age as the instant before which it began."""
    if "created_before" not in chosen:
        return chosen
    before = datetime.now(UTC) - timedelta(seconds=seconds_of(chosen["created_before"]))
    return {**chosen, "created_before": before.isoformat()}


def _matching(
    connection: Connection, filters: dict[str, Any], states: list[str], limit: int
) -> list[dict[str, Any]]:
    asked = {**filters, "workspace_id": connection.workspace, "state": states}
    return list_jobs(connection, asked, limit)


def _confirm(
    output: Output,
    jobs: list[dict[str, Any]],
    found: str,
    verb: str,
    done: str,
    limit: int,
    yes: bool,
) -> None:
    """Say how many jobs are meant before touching them.

    Raises:
        CommandFailed: No one said yes.
    """
    if yes or not jobs:
        return
    count = f"{len(jobs)}{'+' if len(jobs) == min(limit, MOST) else ''}"
    if output.as_json or not sys.stdin.isatty():
        raise CommandFailed(
            f"{count} {found} and may be {done}", code="not_confirmed", fix="pass --yes"
        )
    if not typer.confirm(f"{count} {found}. {verb} up to {limit}?", err=True):
        raise CommandFailed("nothing was changed", code="not_confirmed")


def _bulk(connection: Connection, verb: str, filters: dict[str, Any], limit: int) -> dict[str, Any]:
    """Change what matches, slice by slice, until `limit` are changed or there are no more."""
    count, cursor = 0, None
    while True:
        body = {
            "workspace_id": connection.workspace,
            "filter": filters,
            "limit": min(MOST, limit - count),
            "cursor": cursor,
        }
        result: dict[str, Any] = connection.call("POST", f"/api/jobs/{verb}", json=body)
        count += result["count"]
        cursor = result["next"]
        if cursor is None or count >= limit:
            return {"count": count, "more": cursor is not None}


def _told(result: dict[str, Any], done: str, nothing: str) -> str:
    if result["count"] == 0:
        return nothing
    more = "; more match, run it again" if result["more"] else ""
    return f"{result['count']} {done}{more}"
