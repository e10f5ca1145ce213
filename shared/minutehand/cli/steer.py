"""Verbs that change jobs: cancel, retry, answer."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from minutehand.cli.jobs import JobState, read_payload
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import (
    AnyJobId,
    JobId,
    JobType,
    Queue,
    Tag,
    seconds_of,
    verb,
    workspace_verb,
)
from minutehand.terminal.output import Output

#: Most jobs of one call.
BATCH = 1000
OlderThan = Annotated[str | None, typer.Option(help="Created longer ago than 1h, 2d.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _given(**filters: Any) -> dict[str, Any]:
    """The criteria that were given, as the API takes them: an age as an instant."""
    chosen = {name: value for name, value in filters.items() if value is not None}
    if "created_before" in chosen:
        before = datetime.now(UTC) - timedelta(seconds=seconds_of(chosen["created_before"]))
        chosen["created_before"] = before.isoformat()
    return chosen


def _act_on_all(
    output: Output,
    connection: Connection,
    action: str,
    filters: dict[str, Any],
    *,
    limit: int | None,
    yes: bool,
) -> None:
    """Ask, then act on batch after batch until none matches."""
    if not yes:
        if output.as_json or not sys.stdin.isatty():
            raise CommandFailed("nothing was changed", code="not_confirmed", fix="pass --yes")
        if not typer.confirm(f"{action.capitalize()} all jobs that match?", err=True):
            raise CommandFailed("nothing was changed", code="not_confirmed")
    count, more = 0, True
    while more and (limit is None or count < limit):
        most = BATCH if limit is None else min(BATCH, limit - count)
        body = {"workspace_id": connection.workspace, "filter": filters, "limit": most}
        changed = connection.call("POST", f"/api/jobs/{action}", json=body)
        count, more = count + changed["count"], changed["more"]
    done = {"cancel": "cancelled", "retry": "retried"}[action]
    output.value({"count": count, "more": more}, text=f"{count} jobs {done}")


def _act(
    output: Output, connection: Connection, job_id: str, action: str, done: str, body: Any = None
) -> None:
    path = f"/api/jobs/{whole_id(connection, job_id)}/{action}"
    job = connection.call("POST", path, json=body)
    output.value(job, text=f"{job['id']}  {done}; it is {job['status']}")


@workspace_verb
def cancel(
    output: Output,
    connection: Connection,
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
    limit: Limit = None,
    yes: Yes = False,
) -> None:
    """Cancel a job, or all live jobs that match; a running one stops within a heartbeat."""
    chosen = _given(
        job_type=job_type,
        queue=queue,
        tag=tag,
        session_id=session,
        state=status and [status],
        created_before=older_than,
    )
    if job_id is not None and not chosen:
        _act(output, connection, job_id, "cancel", "cancel requested")
        return
    if job_id is not None or not chosen:
        raise _which("cancel", "--type TYPE --state queued")
    _act_on_all(output, connection, "cancel", chosen, limit=limit, yes=yes)


@workspace_verb
def retry(
    output: Output,
    connection: Connection,
    job_id: AnyJobId = None,
    *,
    payload: Annotated[
        str | None, typer.Option(help="In place of one job's payload: JSON, @file, or -.")
    ] = None,
    job_type: JobType = None,
    queue: Queue = None,
    tag: Tag = None,
    fingerprint: Annotated[str | None, typer.Option(help="The error's fingerprint.")] = None,
    older_than: OlderThan = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every failed job of the workspace.")
    ] = False,
    limit: Limit = None,
    yes: Yes = False,
) -> None:
    """Run a failed or cancelled job again, a delayed one now, or all failed jobs that match."""
    chosen = _given(
        job_type=job_type,
        queue=queue,
        tag=tag,
        error_fingerprint=fingerprint,
        created_before=older_than,
    )
    if job_id is not None and not chosen and not every:
        body = None if payload is None else {"payload": read_payload(payload)}
        _act(output, connection, job_id, "retry", "will run again", body)
        return
    if job_id is not None or payload is not None or not (chosen or every):
        raise _which("retry", "--type TYPE, or --all")
    _act_on_all(output, connection, "retry", chosen, limit=limit, yes=yes)


@verb
def answer(
    output: Output,
    connection: Connection,
    job_id: JobId,
    value: Annotated[str, typer.Argument(metavar="ANSWER", help="Text, or JSON with --raw.")],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="ANSWER is JSON.")] = False,
) -> None:
    """Answer the question a job waits with."""
    try:
        given = json.loads(value) if raw else value
    except ValueError as error:
        raise CommandFailed(f"ANSWER is not JSON: {error}", code="bad_payload") from error
    _act(output, connection, job_id, "answer", "answered", {"answer": given})


def _which(verb: str, criteria: str) -> CommandFailed:
    return CommandFailed(
        "a job's id or a criterion must be given, and not both",
        code="bad_usage",
        fix=f"minutehand {verb} ID, or minutehand {verb} {criteria}",
    )
