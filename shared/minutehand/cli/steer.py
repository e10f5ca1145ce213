"""Verbs that change jobs and what may start: cancel, retry, replay, answer, pause, resume."""

from __future__ import annotations

import json
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from minutehand.cli.jobs import JobState, read_payload, tell_enqueued
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


@verb
def replay(
    output: Output,
    connection: Connection,
    job_id: JobId,
    *,
    from_step: Annotated[
        str | None,
        typer.Option("--from", help="A finished step: those before it are kept. Else its start."),
    ] = None,
    payload: Annotated[
        str | None, typer.Option(help="In place of its payload: JSON, @file, or -.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
) -> None:
    """Run a job again as a new one, from a finished step or from its start."""
    body = {
        "from_step": from_step,
        "payload": None if payload is None else read_payload(payload),
    }
    path = f"/api/jobs/{whole_id(connection, job_id)}/replay"
    given = {name: value for name, value in body.items() if value is not None}
    key = {"idempotency-key": str(uuid.uuid4())}
    job = connection.call("POST", path, json=given, headers=key)
    tell_enqueued(output, connection, job, watch=watch)


WhichType = Annotated[str | None, typer.Option("--type", "-t", help="A job type.")]
Everything = Annotated[bool, typer.Option("--all", help="Every job of the workspace.")]


@workspace_verb
def pause(
    output: Output,
    connection: Connection,
    *,
    job_type: WhichType = None,
    queue: Queue = None,
    every: Everything = False,
    reason: Annotated[str | None, typer.Option(help="Shown to anyone who asks why.")] = None,
) -> None:
    """Let no job of a type, a queue or the workspace start; running ones continue.

    A workspace's managers may pause it; types and queues need the operator's secret key.
    """
    _pause(output, connection, job_type, queue, every, {"paused": True, "reason": reason})


@workspace_verb
def resume(
    output: Output,
    connection: Connection,
    *,
    job_type: WhichType = None,
    queue: Queue = None,
    every: Everything = False,
) -> None:
    """Undo a pause."""
    _pause(output, connection, job_type, queue, every, {"paused": False})


def _pause(
    output: Output,
    connection: Connection,
    job_type: str | None,
    queue: str | None,
    every: bool,
    change: dict[str, Any],
) -> None:
    named = [
        ("job_type", job_type), ("queue", queue),
        ("workspace", connection.workspace if every else None),
    ]  # fmt: skip
    chosen = [(kind, name) for kind, name in named if name]
    if len(chosen) != 1:
        raise CommandFailed("one of --type, --queue and --all must be given", code="bad_usage")
    [(kind, name)] = chosen
    if kind == "workspace":
        path = connection.path("pause" if change["paused"] else "resume")
        result = connection.call("POST", path, json={"reason": change.get("reason")})
    else:  # it affects every workspace, so only the operator may: no route offers it
        request = {"kind": kind, "name": name, **change}
        result = connection.rpc("pause_jobs", {"p_request": request}, as_operator=True)
    state = "paused" if result["paused"] else "running again"
    output.value(result, text=f"{kind.replace('job_', '')} {name} is {state}")


def _which(verb: str, criteria: str) -> CommandFailed:
    return CommandFailed(
        "a job's id or a criterion must be given, and not both",
        code="bad_usage",
        fix=f"minutehand {verb} ID, or minutehand {verb} {criteria}",
    )
