"""`minutehand operations`: one action on all jobs that match; counted, followed, taken back."""

from __future__ import annotations

import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import typer

from minutehand.cli.jobs import JobState
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.options import JobType, Queue, Tag, by_itself, seconds_of, workspace_verb
from minutehand.terminal.output import Output, headed

app = typer.Typer(help="Actions on many jobs: list, start, follow, undo.", rich_markup_mode=None)

#: Most jobs of one operation.
MOST = 100_000
FOLLOW_SECONDS = 0.5
COLUMNS = headed("id name status:STATE jobs done skipped failed created_at")
JOB_COLUMNS = headed("job_id:JOB job_type:TYPE outcome reason new_job_id:NEW_JOB")

Fingerprint = Annotated[str | None, typer.Option(help="The error's fingerprint.")]
OlderThan = Annotated[str | None, typer.Option(help="Created longer ago than 1h, 2d.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=MOST, help="The newest so many.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Detach = Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")]
OperationId = Annotated[
    str, typer.Argument(metavar="ID", help="Its id, or six of its first or last digits.")
]


Action = Literal["cancel", "retry", "replay"]


Outcome = Literal["done", "skipped", "failed", "waiting"]


def given_filters(**filters: Any) -> dict[str, Any]:
    """The criteria that were given, as the API takes them: an age as an instant."""
    chosen = {name: value for name, value in filters.items() if value is not None}
    if "created_before" in chosen:
        before = datetime.now(UTC) - timedelta(seconds=seconds_of(chosen["created_before"]))
        chosen["created_before"] = before.isoformat()
    return chosen


def operate(
    output: Output,
    connection: Connection,
    action: str,
    filters: dict[str, Any],
    *,
    name: str | None = None,
    limit: int = MOST,
    yes: bool,
    detach: bool,
) -> None:
    """Count what matches, ask, begin the operation and follow it to its end."""
    wanted = {"workspace_id": connection.workspace, "action": action, "filter": filters}
    if not yes:
        counted = connection.call("POST", "/api/operations/count", json=wanted)
        number = f"{counted['count']}{'+' if counted['more'] else ''}"
        found = f"{number} {'job matches' if number == '1' else 'jobs match'}"
        if counted["count"] == 0:
            output.value({"matched": 0}, text=f"no job to {action} matches")
            return
        if output.as_json or not sys.stdin.isatty():
            raise CommandFailed(
                f"{found}; nothing was changed", code="not_confirmed", fix="pass --yes"
            )
        if not typer.confirm(f"{found}. {action.capitalize()} up to {limit}?", err=True):
            raise CommandFailed("nothing was changed", code="not_confirmed")
    made = connection.call(
        "POST",
        "/api/operations",
        json={**wanted, "limit": limit, **({"name": name} if name else {})},
        headers={"idempotency-key": str(uuid.uuid4())},
    )
    _follow(output, connection, made, detach=detach)


@by_itself(app)
@workspace_verb
def operations(output: Output, connection: Connection) -> None:
    """List the latest operations."""
    spare = ("failed", "skipped")
    output.table(_latest(connection), COLUMNS, row=_row, empty="no operations", spare=spare)


def _row(one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "jobs": f"{one['matched']}{'' if one['counted'] else '…'}"}


@app.command()
@workspace_verb
def start(
    output: Output,
    connection: Connection,
    action: Annotated[Action, typer.Argument(help="What to do to each job.")],
    *,
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    job_type: JobType = None,
    queue: Queue = None,
    tag: Tag = None,
    status: Annotated[
        list[JobState] | None, typer.Option("--state", "-s", help="Only in it; repeatable.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Only jobs of this session.")] = None,
    error: Annotated[str | None, typer.Option(help="Only with this in their error.")] = None,
    fingerprint: Fingerprint = None,
    version: Annotated[str | None, typer.Option(help="Only those this version ran.")] = None,
    search: Annotated[str | None, typer.Option(help="Part of a type, error, tag or key.")] = None,
    older_than: OlderThan = None,
    limit: Limit = MOST,
    yes: Yes = False,
    detach: Detach = False,
) -> None:
    """Cancel, retry or replay all jobs that match; says how many and asks first."""
    chosen = given_filters(
        job_type=job_type,
        queue=queue,
        tag=tag,
        state=status or None,
        session_id=session,
        error=error,
        error_fingerprint=fingerprint,
        version=version,
        search=search,
        created_before=older_than,
    )
    operate(output, connection, action, chosen, name=name, limit=limit, yes=yes, detach=detach)


@app.command()
@workspace_verb
def show(
    output: Output,
    connection: Connection,
    operation_id: OperationId,
    *,
    outcome: Annotated[Outcome | None, typer.Option(help="Only jobs that ended so.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000)] = 100,
) -> None:
    """How far one is, and what became of its jobs."""
    path = f"/api/operations/{_whole(connection, operation_id)}"
    operation = connection.get(path)
    jobs = connection.get(f"{path}/jobs", limit=limit, outcome=outcome)["jobs"]
    if output.answered({**operation, "jobs": jobs}):
        return
    output.text(_told(operation))
    output.table(jobs, JOB_COLUMNS, empty="no jobs", spare=("job_type",))


def _verb(name: str, told: str) -> None:
    @app.command(name, help=told)
    @workspace_verb
    def _(
        output: Output, connection: Connection, operation_id: OperationId, *, detach: Detach = False
    ) -> None:
        path = f"/api/operations/{_whole(connection, operation_id)}/{name}"
        _follow(output, connection, connection.call("POST", path), detach=detach)


_verb("pause", "Pause one between two batches.")
_verb("resume", "Let a paused one continue.")
_verb("stop", "Stop one for good; what it did stays.")
_verb("undo", "Retry the jobs it cancelled, or cancel those it made ready that have not started.")


def _latest(connection: Connection) -> list[dict[str, Any]]:
    page = connection.get("/api/operations", workspace_id=connection.workspace, limit=200)
    found: list[dict[str, Any]] = page["operations"]
    return found


def _whole(connection: Connection, part: str) -> str:
    if len(part) == len(str(uuid.UUID(int=0))):
        return part
    ids = [row["id"] for row in _latest(connection)]
    alike = [one for one in ids if one.startswith(part) or one.endswith(part)]
    if len(part) < 6 or len(alike) != 1:
        raise CommandFailed(
            f"{len(alike)} operations match {part!r}",
            code="operation_not_found",
            fix="minutehand operations",
        )
    return str(alike[0])


def _follow(
    output: Output, connection: Connection, operation: dict[str, Any], *, detach: bool
) -> None:
    """Wait until it no longer runs; workers need no one who waits."""
    told = ""
    while operation["status"] == "running" and not detach:
        now = _told(operation)
        if now != told and not output.as_json:
            typer.echo(now, err=True)
        told = now
        time.sleep(FOLLOW_SECONDS)
        operation = connection.get(f"/api/operations/{operation['id']}")
    output.value(operation, text=_told(operation))


def _told(operation: dict[str, Any]) -> str:
    if operation["counted"] and operation["matched"] == 0:
        return f"{operation['id']}  {operation['name']}: no job to {operation['action']} matches"
    parts = [f"{operation['done']} of {operation['matched']} jobs"]
    parts += [f"{operation[name]} {name}" for name in ("skipped", "failed") if operation[name]]
    parts += ["more match, run it again"] if operation["more"] else []
    parts += [operation["reason"]] if operation["reason"] else []
    return f"{operation['id']}  {operation['name']}: {operation['status']}, {'; '.join(parts)}"
