"""Verbs that change jobs: cancel, retry, answer; those in bulk are operations."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from minutehand.cli.jobs import JobState, read_payload
from minutehand.cli.operations import (
    MOST,
    Detach,
    Fingerprint,
    Limit,
    OlderThan,
    Yes,
    given_filters,
    operate,
)
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import AnyJobId, JobId, JobType, Queue, Tag, verb, workspace_verb
from minutehand.terminal.output import Output


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
    limit: Limit = MOST,
    yes: Yes = False,
    detach: Detach = False,
) -> None:
    """Cancel a job, or all live jobs that match; a running one stops within a heartbeat."""
    chosen = given_filters(
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
    operate(output, connection, "cancel", chosen, limit=limit, yes=yes, detach=detach)


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
    fingerprint: Fingerprint = None,
    older_than: OlderThan = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every failed job of the workspace.")
    ] = False,
    limit: Limit = MOST,
    yes: Yes = False,
    detach: Detach = False,
) -> None:
    """Run a failed or cancelled job again, a delayed one now, or all failed jobs that match."""
    chosen = given_filters(
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
    operate(output, connection, "retry", chosen, limit=limit, yes=yes, detach=detach)


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
