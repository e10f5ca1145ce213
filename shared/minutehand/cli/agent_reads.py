"""The tools of `minutehand mcp` that read: small answers for an agent, without secrets.

Who calls is mcp.py's, what changes jobs agent.py's. A job's data is another's text: it travels as
structured content.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from minutehand.cli.bounded import MOST_BYTES, bounded, leading, piece, short, size_of
from minutehand.cli.jobs import JobState, read_jobs
from minutehand.cli.show import read_details
from minutehand.cli.trace import rows_of
from minutehand.redaction import without_secrets
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import seconds_of

Answer = dict[str, Any]

#: Jobs and log lines of a page.
MOST_ROWS: Final = 50
MOST_ATTEMPTS: Final = 3
#: Pages of a search that one call reads.
MOST_PAGES: Final = 10
#: The check that enqueues a job.
WRITES: Final = frozenset({"proof"})
#: Checks that need no key, for callers with rights of their own alone.
KEYLESS: Final = frozenset(
    {"supabase", "exposed-schemas", "clock-skew", "sign-up", "api", "api-sign-in", "ready"}
)


@dataclass(frozen=True)
class Access:
    """How a call reaches the jobs.

    Attributes:
        connect: Takes a call's HTTP headers, None over stdio.
        values: Settings that `doctor` may look at.
        key: Signs confirmations; they end with the process.
    """

    connect: Callable[[Mapping[str, str] | None], AbstractContextManager[Connection]]
    values: Mapping[str, str]
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))


Call = Context[Access, Any]
JobId = Annotated[str, Field(description="A job's id, or its first or last 6 digits or more.")]
WorkspaceId = Annotated[
    str | None, Field(description="A workspace's id; needed where you belong to several.")
]
Limit = Annotated[int, Field(ge=1, le=MOST_ROWS)]


@contextmanager
def calling(ctx: Call) -> Iterator[Connection]:
    """The caller's connection; a refusal becomes the tool's error, with what to do."""
    try:
        with ctx.request_context.lifespan_context.connect(ctx.headers) as connection:
            yield connection
    except CommandFailed as failed:
        fix = f". What to do: {failed.fix}" if failed.fix else ""
        raise ToolError(without_secrets(f"{failed} ({failed.code}){fix}")) from failed


def list_(
    ctx: Call,
    state: list[JobState] | None = None,
    job_type: str | None = None,
    tag: str | None = None,
    search: Annotated[
        str | None, Field(description="Part of the type, error, tag, payload, key or id.")
    ] = None,
    since: Annotated[str | None, Field(description="Created in the last 15m, 2h, 7d.")] = None,
    workspace: WorkspaceId = None,
    limit: Limit = 20,
    cursor: Annotated[str | None, Field(description="`next_cursor` of the page before.")] = None,
) -> Answer:
    """List jobs, newest first."""
    with calling(ctx) as connection:
        filters = {
            "workspace_id": workspace
            or connection.given_workspace
            or connection.values.get("MINUTEHAND_WORKSPACE_ID"),
            "job_type": job_type,
            "tag": tag,
            "search": search,
            "state": state,
        }
        if since is not None:
            begun = datetime.now(UTC) - timedelta(seconds=seconds_of(since))
            filters["created_after"] = begun.isoformat()
        while True:
            jobs, after = read_jobs(connection, filters, limit, cursor, pages=MOST_PAGES)
            answer = {"jobs": [row_of(job) for job in jobs], "next_cursor": after}
            if size_of(answer) <= MOST_BYTES or limit == 1:
                return answer
            limit //= 2  # a page must end where its cursor does


def given(values: Answer) -> Answer:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


_ROW: Final = ("id", "job_type", "state", "attempts", "max_attempts", "created_at", "finished_at",
               "next_run_at", "workspace_id")  # fmt: skip


def row_of(job: Mapping[str, Any]) -> Answer:
    """A job as a line of a list."""
    row = {name: job.get(name) for name in _ROW}
    told = {"error": short(job.get("error")), "payload": short(job.get("glimpse"), 120)}
    return given(row | told)


_OF_ROW: Final = ("payload", "result", "error_data")


def show(
    ctx: Call,
    job_id: JobId,
    part: Annotated[
        Literal["payload", "result", "error_data", "attempts", "steps", "children"] | None,
        Field(description="Read this one whole, in pieces of its JSON text."),
    ] = None,
    offset: Annotated[int, Field(ge=0, description="`next_offset` of the piece before.")] = 0,
) -> Answer:
    """Show a job: times, payload, result, last attempts with tracebacks, steps, children, log."""
    with calling(ctx) as connection:
        job = connection.get(f"/api/jobs/{whole_id(connection, job_id)}")
        details = {} if part in _OF_ROW else read_details(connection, job)
    if part is not None:
        return {"part": part, **piece({**job, **details}[part], offset)}
    attempts = details["attempts"]
    details["attempts"] = attempts[-MOST_ATTEMPTS:]
    whole = {**job, **details, "earlier_attempts": len(attempts) - len(details["attempts"])}
    told = bounded({name: each for name, each in whole.items() if each not in (None, [], {}, 0)})
    return dict(told)


def explain(ctx: Call, job_id: JobId) -> Answer:
    """Say why a job is not running, when it will, what to do, and since when its error happens."""
    with calling(ctx) as connection:
        told = connection.get(f"/api/jobs/{whole_id(connection, job_id)}/explain")
    return dict(bounded(told))


def trace(
    ctx: Call,
    job_id: JobId,
    cursor: Annotated[int, Field(ge=0, description="`next_cursor` of the page before.")] = 0,
) -> Answer:
    """Show where a job's time went: attempts, steps, waits and children, in milliseconds."""
    with calling(ctx) as connection:
        rows = rows_of(connection.get(f"/api/jobs/{whole_id(connection, job_id)}/trace"))
    told = [
        {
            "level": row.level,
            "name": row.name,
            "state": row.state,
            "spans": [[span.kind, round(span.start), round(span.end)] for span in row.spans],
            **({"error": row.error} if row.error else {}),
        }
        for row in rows[cursor:]
    ]
    kept = leading(told)
    after = cursor + len(kept)
    return {"rows": kept, "next_cursor": after if after < len(rows) else None}


def logs(
    ctx: Call,
    job_id: Annotated[str | None, Field(description="Of this job; else of all.")] = None,
    search: str | None = None,
    level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, Field(description="Or worse.")
    ] = None,
    workspace: WorkspaceId = None,
    limit: Limit = 50,
    cursor: Annotated[int | None, Field(description="`next_cursor` of the page before.")] = None,
) -> Answer:
    """Read log lines, newest first."""
    with calling(ctx) as connection:
        asked: Answer = {"search": search, "level": level, "limit": limit, "before": cursor}
        if job_id is not None:
            job = connection.get(f"/api/jobs/{whole_id(connection, job_id)}")
            asked |= {"job_id": job["id"], "workspace_id": job["workspace_id"]}
        else:
            asked["workspace_id"] = workspace or connection.workspace
        page = connection.get("/api/logs", **asked)
    kept = leading(page["lines"])
    whole = len(kept) == len(page["lines"])
    return {"lines": kept, "next_cursor": page["next"] if whole else kept[-1]["id"]}


def types(
    ctx: Call,
    job_type: Annotated[str | None, Field(description="One in full, with its schema.")] = None,
    workspace: WorkspaceId = None,
    cursor: Annotated[str | None, Field(description="`next_cursor` of the page before.")] = None,
) -> Answer:
    """List job types: who serves them and how today went; or one with schema, limits, schedules."""
    with calling(ctx) as connection:
        where = {"workspace_id": workspace or connection.workspace}
        if job_type is not None:
            return dict(bounded(connection.get(f"/api/types/{quote(job_type, safe='')}", **where)))
        found = connection.get("/api/types", **where)["types"]
    left = [each for each in found if cursor is None or each["job_type"] > cursor]
    kept = leading([_type(each) for each in sorted(left, key=lambda each: str(each["job_type"]))])
    return {"types": kept, "next_cursor": kept[-1]["job_type"] if len(kept) < len(left) else None}


def _type(line: Mapping[str, Any]) -> Answer:
    day = line["day"]
    row = {name: line.get(name) for name in ("job_type", "queue", "served", "paused_at")}
    row |= {"today": {name: day[name] for name in ("completed", "failed", "retried")}}
    return row | {"description": short(line.get("description"), 160)}


def doctor(
    ctx: Call,
    only: Annotated[list[str] | None, Field(description="Names of checks; else all.")] = None,
) -> Answer:
    """Check the project and name the fix of each fault; it writes nothing."""
    try:
        from minutehand.cli.doctor.command import CHECKS, chosen, examine  # brings a driver
        from minutehand.cli.doctor.findings import Target
    except ModuleNotFoundError as missing:
        raise ToolError(f'{missing}: pip install "minutehand[dev]"') from missing

    with calling(ctx) as connection:
        values = dict(ctx.request_context.lifespan_context.values)
        if connection.given_token:
            values["MINUTEHAND_TOKEN"] = connection.given_token
        known = {check.name for check in CHECKS} - WRITES if ctx.headers is None else KEYLESS
        target = Target(values)
        try:
            findings = [asdict(finding) for finding in examine(target, chosen(only, known))]
        finally:
            target.close()
    kept = leading(findings)
    return {"findings": kept, "left_out": len(findings) - len(kept)}


TOOLS: Final[dict[str, Callable[..., Answer]]] = {
    "list": list_,
    "show": show,
    "explain": explain,
    "trace": trace,
    "logs": logs,
    "types": types,
    "doctor": doctor,
}
