"""Commands that change jobs (cancel, retry, replay, answer), or pause and resume their start."""

import sys
import uuid
from collections.abc import Callable
from typing import Annotated, Any

import typer

from minutehand.cli.jobs import Watch, print_enqueued, read_jobs, read_payload
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import resolve_job_id
from minutehand.terminal.options import AnyJobId, JobId, JobType, Queue, Tag, workspace_verb
from minutehand.terminal.output import Output

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
OtherPayload = Annotated[
    str | None, typer.Option(help="Payload that replaces the job's: JSON, @file, or -.")
]
Everything = Annotated[bool, typer.Option("--all", help="Every job of the workspace.")]


#: Job statuses to which an action on many jobs applies, by the name of the action.
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
    retry: Annotated[
        bool, typer.Option("--retry", help="Run each job again once it has ended.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Cancel a job, or all matching live jobs.

    A worker that responds asks a running job to stop within five seconds.
    """
    body = {"retry": True} if retry else None
    if job_id is not None:
        done = "cancel and retry requested" if retry else "cancel requested"
        _change_job(output, connection, job_id, "cancel", done, body)
        return
    states = [state] if state else None
    matching = {"job_type": job_type, "queue": queue, "tag": tag, "state": states}
    _change_jobs(output, connection, "cancel", matching, body, yes=yes)


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
        str | None, typer.Option(help="Only jobs with this cause, as `failures` lists it.")
    ] = None,
    all_matching: Everything = False,
    yes: Yes = False,
) -> None:
    """Run a failed or cancelled job again, a delayed job now, or all matching failed jobs."""
    if job_id is not None:
        body = None if payload is None else {"payload": read_payload(payload)}
        _change_job(output, connection, job_id, "retry", "will run again", body)
        return
    matching = {"job_type": job_type, "queue": queue, "tag": tag, "error_fingerprint": cause}
    _change_jobs(output, connection, "retry", matching, all_matching=all_matching, yes=yes)


def _change_jobs(
    output: Output,
    connection: Connection,
    action: str,
    matching: dict[str, Any],
    options: dict[str, Any] | None = None,
    *,
    all_matching: bool = False,
    yes: bool,
) -> None:
    """Ask for confirmation, then cancel or retry all jobs that match, in batches."""
    criteria = {name: value for name, value in matching.items() if value is not None}
    if not criteria and not all_matching:
        raise CommandFailed(
            "a job's id or a criterion must be given",
            code="bad_usage",
            fix=f"minutehand {action} ID, or minutehand {action} --type TYPE",
        )
    if not yes:
        verb = f"{action.capitalize()} and retry" if options else action.capitalize()
        confirm(output, lambda: f"{verb} {_count(connection, action, criteria)}?")
    count, body = 0, {"workspace_id": connection.workspace, "filter": criteria, **(options or {})}
    while True:
        changed = connection.call("POST", f"/api/jobs/{action}", json=body)
        count += changed["count"]
        if not changed["more"]:
            break
        body["cursor"] = changed["cursor"]
    if count == 0 and (cause := criteria.get("error_fingerprint")):
        raise CommandFailed(
            f"no failed job has the cause {cause!r}",
            code="unknown_cause",
            fix="`minutehand failures` lists causes",
        )
    output.value({"count": count, "more": False}, text=f"{action}: {count} jobs")


def confirm(output: Output, question: Callable[[], str]) -> None:
    """Ask a person to confirm. Raise an error if standard input is not a terminal."""
    if output.as_json or not sys.stdin.isatty():
        raise CommandFailed("nothing was changed", code="not_confirmed", fix="pass --yes")
    typer.confirm(question(), err=True, abort=True)


def _count(connection: Connection, action: str, criteria: dict[str, Any]) -> str:
    """Return a text with the number of jobs that an action would change, counted up to 1,000."""
    filters = {"workspace_id": connection.workspace, "status": APPLIES_TO[action], **criteria}
    count = len(read_jobs(connection, filters, 1001))
    return "1 job" if count == 1 else f"{count} jobs" if count < 1001 else "more than 1,000 jobs"


def _change_job(
    output: Output, connection: Connection, job_id: str, action: str, done: str, body: Any
) -> None:
    path = f"/api/jobs/{resolve_job_id(connection, job_id)}/{action}"
    job = connection.call("POST", path, json=body)
    output.value(job, text=f"{job['id']}  {done}; it is {job['status']}")


@workspace_verb
def answer(
    output: Output,
    connection: Connection,
    job_id: JobId,
    value: Annotated[str, typer.Argument(metavar="ANSWER", help="The answer's text.")],
) -> None:
    """Answer the question that a job is waiting for."""
    _change_job(output, connection, job_id, "answer", "answered", {"answer": value})


@workspace_verb
def replay(
    output: Output,
    connection: Connection,
    job_id: JobId,
    *,
    from_step: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A finished step to start from; the steps before it are kept. "
            "Default: from the start.",
        ),
    ] = None,
    payload: OtherPayload = None,
    watch: Watch = False,
) -> None:
    """Enqueue a copy of a job, which starts from its beginning or from the given step."""
    body = {} if from_step is None else {"from_step": from_step}
    if payload is not None:
        body["payload"] = read_payload(payload)
    path = f"/api/jobs/{resolve_job_id(connection, job_id)}/replay"
    key = {"idempotency-key": str(uuid.uuid4())}
    job = connection.call("POST", path, json=body, headers=key)
    print_enqueued(output, connection, job, watch=watch)


@workspace_verb
def pause(
    output: Output,
    connection: Connection,
    *,
    job_type: JobType = None,
    queue: Queue = None,
    all_matching: Everything = False,
    reason: Annotated[
        str | None, typer.Option(help="Reason, shown to anyone who asks why jobs wait.")
    ] = None,
) -> None:
    """Stop starting jobs of a type, a queue or the workspace; running jobs continue.

    The managers of a workspace may pause it, or a type in it (`--type` with `-w`). A pause of a
    type or queue in all workspaces needs the operator's secret key.
    """
    kind, name = _target(connection, job_type, queue, all_matching)
    if all_matching or connection.given_workspace:
        body = {"job_type": job_type, "reason": reason}
        result = connection.call("POST", connection.path("pause"), json=body)
        where = "" if all_matching else f" in the workspace {connection.workspace}"
    else:
        result = _pause_as_operator(connection, kind, name, paused=True, reason=reason)
        where = " in all workspaces"
    output.value(result, text=f"{name} is paused{where}")


@workspace_verb
def resume(
    output: Output,
    connection: Connection,
    *,
    job_type: JobType = None,
    queue: Queue = None,
    all_matching: Everything = False,
) -> None:
    """End a pause of a type, a queue or the workspace, as `pause` does."""
    kind, name = _target(connection, job_type, queue, all_matching)
    if queue:
        result = _pause_as_operator(connection, kind, name, paused=False)
    else:  # end the pause by the workspace, and with the operator's key the operator's pause too
        path = connection.path("resume")
        result = connection.call("POST", path, json={"job_type": job_type})
        is_operator = connection.values.get("SUPABASE_SECRET_KEY")
        is_everywhere = job_type and not connection.given_workspace and is_operator
        if is_everywhere and any(entry["kind"] == kind for entry in result.get("left", ())):
            result = _pause_as_operator(connection, kind, name, paused=False)
    lines = [f"{name} is {'paused' if result['paused'] else 'running again'}"]
    for entry in result.get("left", ()):
        steps = " ".join(step["words"] for step in entry["next"])
        lines.append(f"A pause of the {entry['kind']} still stops these jobs. {steps}")
    output.value(result, text="\n".join(lines))


def _target(
    connection: Connection, job_type: str | None, queue: str | None, all_matching: bool
) -> tuple[str, str]:
    """Return the kind and name of the jobs to pause. Raise an error for other options."""
    if sum(map(bool, (job_type, queue, all_matching))) != 1:
        raise CommandFailed("one of --type, --queue and --all must be given", code="bad_usage")
    if queue and connection.given_workspace:
        raise CommandFailed(
            "--queue is for all workspaces, so --workspace must not be given", code="bad_usage"
        )
    return "queue" if queue else "job_type", job_type or queue or "the workspace"


def _pause_as_operator(connection: Connection, kind: str, name: str, **change: Any) -> Any:
    """Pause or resume a job type or queue of all workspaces by SQL.

    Call the SQL function, because no route of the API pauses jobs of all workspaces.
    """
    request = {"kind": kind, "name": name, **change}
    return connection.rpc("pause_jobs", {"p_request": request}, as_operator=True)
