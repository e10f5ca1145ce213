"""Verbs that change jobs and what may start: cancel, retry, replay, answer, pause, resume."""

from __future__ import annotations

import json
import sys
import uuid
from typing import Annotated, Any

import typer

from minutehand.cli.jobs import read_jobs, read_payload, say_enqueued
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import AnyJobId, JobId, JobType, Queue, Tag, verb, workspace_verb
from minutehand.terminal.output import Output

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
OtherPayload = Annotated[str | None, typer.Option(help="In place of its own: JSON, @file, or -.")]
Everything = Annotated[bool, typer.Option("--all", help="Every job of the workspace.")]


#: What an action applies to.
APPLIES_TO = {"cancel": ["pending", "processing", "waiting"], "retry": ["failed"]}


@workspace_verb
def cancel(
    output: Output,
    connection: Connection,
    job_id: AnyJobId = None,
    *,
    job_type: JobType = None,
    queue: Queue = None,
    tag: Tag = None,
    state: Annotated[str | None, typer.Option("--state", "-s", help="Only in this state.")] = None,
    yes: Yes = False,
) -> None:
    """Cancel a job, or all live jobs that match; a running one stops within five seconds."""
    if job_id is not None:
        _act(output, connection, job_id, "cancel", "cancel requested")
        return
    states = [state] if state else None
    matching = {"job_type": job_type, "queue": queue, "tag": tag, "state": states}
    _act_on_all(output, connection, "cancel", matching, yes=yes)


@workspace_verb
def retry(
    output: Output,
    connection: Connection,
    job_id: AnyJobId = None,
    *,
    payload: OtherPayload = None,
    job_type: JobType = None,
    queue: Queue = None,
    tag: Tag = None,
    cause: Annotated[
        str | None, typer.Option(help="Only those that failed of this, as `failures` names it.")
    ] = None,
    every: Everything = False,
    yes: Yes = False,
) -> None:
    """Run a failed or cancelled job again, a delayed one now, or all failed jobs that match."""
    if job_id is not None:
        body = None if payload is None else {"payload": read_payload(payload)}
        _act(output, connection, job_id, "retry", "will run again", body)
        return
    matching = {"job_type": job_type, "queue": queue, "tag": tag, "error_fingerprint": cause}
    _act_on_all(output, connection, "retry", matching, every=every, yes=yes)


def _act_on_all(
    output: Output,
    connection: Connection,
    action: str,
    matching: dict[str, Any],
    *,
    every: bool = False,
    yes: bool,
) -> None:
    """Ask, then act on batch after batch until none matches."""
    chosen = {name: value for name, value in matching.items() if value is not None}
    if not chosen and not every:
        raise CommandFailed(
            "a job's id or a criterion must be given",
            code="bad_usage",
            fix=f"minutehand {action} ID, or minutehand {action} --type TYPE",
        )
    if not yes:
        if output.as_json or not sys.stdin.isatty():
            raise CommandFailed("nothing was changed", code="not_confirmed", fix="pass --yes")
        many = _counted(connection, action, chosen)
        typer.confirm(f"{action.capitalize()} {many}?", err=True, abort=True)
    count, body = 0, {"workspace_id": connection.workspace, "filter": chosen}
    while True:
        changed = connection.call("POST", f"/api/jobs/{action}", json=body)
        count += changed["count"]
        if not changed["more"]:
            break
        body["cursor"] = changed["cursor"]
    output.value({"count": count, "more": False}, text=f"{action}: {count} jobs")


def _counted(connection: Connection, action: str, chosen: dict[str, Any]) -> str:
    """How many jobs an action touches: up to 1,000 they are looked at one by one."""
    asked = {"workspace_id": connection.workspace, "status": APPLIES_TO[action], **chosen}
    found = len(read_jobs(connection, asked, 1001))
    return "1 job" if found == 1 else f"{found} jobs" if found < 1001 else "more than 1,000 jobs"


def _act(
    output: Output, connection: Connection, job_id: str, action: str, done: str, body: Any = None
) -> None:
    path = f"/api/jobs/{whole_id(connection, job_id)}/{action}"
    job = connection.call("POST", path, json=body)
    output.value(job, text=f"{job['id']}  {done}; it is {job['status']}")


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
    payload: OtherPayload = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
) -> None:
    """Run a job again as a new one, from a finished step or from its start."""
    body = {} if from_step is None else {"from_step": from_step}
    if payload is not None:
        body["payload"] = read_payload(payload)
    path = f"/api/jobs/{whole_id(connection, job_id)}/replay"
    key = {"idempotency-key": str(uuid.uuid4())}
    job = connection.call("POST", path, json=body, headers=key)
    say_enqueued(output, connection, job, watch=watch)


@workspace_verb
def pause(
    output: Output,
    connection: Connection,
    *,
    job_type: JobType = None,
    queue: Queue = None,
    every: Everything = False,
    reason: Annotated[str | None, typer.Option(help="Shown to anyone who asks why.")] = None,
) -> None:
    """Let no job of a type, a queue or the workspace start; running ones continue.

    A workspace's managers may pause it; types and queues need the operator's secret key.
    """
    _pause(output, connection, (job_type, queue, every), {"paused": True, "reason": reason})


@workspace_verb
def resume(
    output: Output,
    connection: Connection,
    *,
    job_type: JobType = None,
    queue: Queue = None,
    every: Everything = False,
) -> None:
    """Undo a pause."""
    _pause(output, connection, (job_type, queue, every), {"paused": False})


def _pause(
    output: Output,
    connection: Connection,
    which: tuple[str | None, str | None, bool],
    change: dict[str, Any],
) -> None:
    job_type, queue, every = which
    if sum(map(bool, which)) != 1:
        raise CommandFailed("one of --type, --queue and --all must be given", code="bad_usage")
    if every:
        path = connection.path("pause" if change["paused"] else "resume")
        result = connection.call("POST", path, json={"reason": change.get("reason")})
    elif job_type and not change["paused"]:
        # first the pause of this workspace, then the operator's, where the key to it is at hand
        here = {"kind": "workspace_type", "workspace_id": connection.workspace, "name": job_type}
        result = connection.rpc("pause_jobs", {"p_request": here | change})
        if any(each["kind"] == "job_type" for each in result.get("left", ())):
            result = _operate(connection, "job_type", job_type, change) or result
    else:  # it affects every workspace, so only the operator may: no route offers it
        kind = "job_type" if job_type else "queue"
        connection.need("SUPABASE_SECRET_KEY")
        result = _operate(connection, kind, job_type or queue, change)
    what = job_type or queue or "the workspace"
    lines = [f"{what} is {'paused' if result['paused'] else 'running again'}"]
    for each in () if change["paused"] else result.get("left", ()):
        steps = " ".join(step["words"] for step in each["next"])
        lines.append(f"still stopped by a pause of its {each['kind']}. {steps}")
    output.value(result, text="\n".join(lines))


def _operate(connection: Connection, kind: str, name: str | None, change: dict[str, Any]) -> Any:
    """Pause or resume as the operator; None without the operator's key."""
    if not connection.values.get("SUPABASE_SECRET_KEY"):
        return None
    request = {"kind": kind, "name": name} | change
    return connection.rpc("pause_jobs", {"p_request": request}, as_operator=True)
