"""Commands that create and find jobs: enqueue and ls.

show.py prints one job, watch.py follows a job's events, and control.py changes jobs.
"""

import uuid
from typing import Annotated, Any

import typer

from minutehand.cli.watch import follow_job
from minutehand.terminal.connection import Connection, parse_response
from minutehand.terminal.inputs import parse_object, read_text
from minutehand.terminal.options import (
    JobType,
    Payload,
    Queue,
    Tag,
    parse_seconds,
    parse_time,
    time_before,
    workspace_verb,
)
from minutehand.terminal.output import Output, ago, localize_times, parse_columns

Watch = Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")]
COLUMNS = parse_columns("id job_type:TYPE state next_run tries created_at error")


def read_payload(text: str) -> Any:
    """Parse JSON in the text, in a file (`@file`), or from standard input (`-`)."""
    if text == "-" or text.startswith("@"):
        return parse_object(read_text(text.removeprefix("@")), text)
    return parse_object(text, "PAYLOAD")


@workspace_verb
def enqueue(
    output: Output,
    connection: Connection,
    job_type: Annotated[str, typer.Argument(help="The job type, e.g. invoices.send.")],
    payload: Payload = "{}",
    *,
    delay: Annotated[
        float | None,
        typer.Option("--in", parser=parse_seconds, metavar="SPAN", help="Delay: 90s, 5m, 2h."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", parser=parse_time, metavar="TIME", help="Start time, ISO 8601."),
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Smaller first.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="A tag to find the job by; repeatable.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Idempotency key: one job per key.")
    ] = None,
    watch: Watch = False,
) -> None:
    """Enqueue a job."""
    job = enqueue_job(
        connection,
        job_type,
        read_payload(payload),
        key,
        delay_seconds=delay,
        scheduled_for=at,
        priority=priority,
        tags=tag or None,
    )
    if not job["created"]:
        output.hint("already enqueued: the key belongs to this job")
    if job.get("schema_version") == 0:  # no worker has yet published the type
        explanation = connection.get(f"/api/jobs/{job['id']}/explain")
        parts = [explanation["sentence"], *(step["words"] for step in explanation["next"])]
        output.hint(localize_times(" ".join(parts)))
    print_enqueued(output, connection, job, watch=watch)


def enqueue_job(
    connection: Connection, job_type: str, payload: Any, key: str | None, **options: Any
) -> dict[str, Any]:
    """Enqueue a job. Without an idempotency key, each call creates a job.

    An option of None takes the default. `created` is False if the key belongs to an older job.
    """
    body = {"workspace_id": connection.workspace, "job_type": job_type, "payload": payload}
    headers = {"idempotency-key": key or str(uuid.uuid4())}
    response = connection.send("POST", "/api/jobs", json=body | options, headers=headers)
    return {**parse_response(response), "created": response.status_code == 201}


def print_enqueued(
    output: Output, connection: Connection, job: dict[str, Any], *, watch: bool
) -> None:
    """Print an enqueued job, or with `watch` follow its events until it ends."""
    if watch:
        output.hint(f"job {job['id']}")
        follow_job(output, connection, job["id"])
    else:
        output.value(job, text=f"{job['id']}  {job['state']}")


@workspace_verb
def ls(
    output: Output,
    connection: Connection,
    *,
    job_type: JobType = None,
    queue: Queue = None,
    search: Annotated[
        str | None, typer.Option(help="Part of the type, error, tag, payload, key or id.")
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", "-s", help="State, e.g. queued or retrying; repeatable."),
    ] = None,
    tag: Tag = None,
    since: Annotated[
        str | None,
        typer.Option(parser=time_before, metavar="SPAN", help="Created in the last 15m, 2h."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000)] = 20,
) -> None:
    """List jobs, newest first."""
    filters: dict[str, Any] = {
        "workspace_id": connection.workspace,
        "job_type": job_type,
        "queue": queue,
        "search": search,
        "state": state,
        "tag": tag,
        "created_after": since,
        "internal": None if job_type or search else False,  # omit webhook deliveries by default
    }
    output.table(read_jobs(connection, filters, limit), COLUMNS, row=_row, empty="no jobs")


def _row(job: dict[str, Any]) -> dict[str, Any]:
    """Convert a job to a row of the table that `minutehand ls` prints."""
    due = job.get("next_run_at")
    return {
        **job,
        "tries": f"{job['attempts']}/{job['max_attempts']}",
        "next_run": ago(due) if due and job["state"] != "queued" else None,
    }


def read_jobs(connection: Connection, filters: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    """Read up to `limit` jobs, page by page.

    The API may return a page without jobs before the last.
    """
    jobs: list[dict[str, Any]] = []
    cursor = ""
    while cursor is not None and len(jobs) < limit:
        page_size = min(200, limit - len(jobs))
        page = connection.get("/api/jobs", **filters, limit=page_size, cursor=cursor)
        jobs += page["jobs"]
        cursor = page.get("next_cursor")
    return jobs
