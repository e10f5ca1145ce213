"""What the shell completes beyond words of the command itself: job types and ids of recent jobs.

A Tab never fails and never waits long: without an answer there is nothing to complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import typer

from minutehand.terminal.connection import CommandFailed, Connection, load_values

SECONDS = 2.0
#: Recent jobs among which an id is looked for.
MOST = 200


def job_types(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Types that begin so, each with its description."""
    return _found(ctx, _types, incomplete)


def job_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of recent jobs that begin so, each with its type and state."""
    return _found(ctx, _jobs, incomplete)


def _types(connection: Connection, begun: str) -> Iterator[tuple[str, str]]:
    for line in connection.get("/api/types", workspace_id=connection.workspace)["types"]:
        if line["job_type"].startswith(begun):
            yield line["job_type"], line["description"] or ""


def _jobs(connection: Connection, begun: str) -> Iterator[tuple[str, str]]:
    page = connection.get("/api/jobs", workspace_id=connection.workspace, limit=MOST)
    for job in page["jobs"]:
        if job["id"].startswith(begun):
            yield job["id"], f"{job['job_type']} {job['state']}"


Source = Callable[[Connection, str], Iterator[tuple[str, str]]]


def _found(ctx: typer.Context, source: Source, begun: str) -> list[tuple[str, str]]:
    given: dict[str, Any] = ctx.params
    try:
        values = load_values(given.get("env_file"), token=given.get("token"))
        connection = Connection(
            values, given.get("token"), given.get("workspace"), timeout=httpx.Timeout(SECONDS)
        )
        try:
            return list(source(connection, begun))
        finally:
            connection.close()
    except (CommandFailed, OSError):
        return []
