"""Finds a job's id by a part of the id, such as the end that the console and `ls` show."""

import re

from minutehand.terminal.connection import CommandFailed, Connection


def resolve_job_id(connection: Connection, text: str) -> str:
    """Return the id of the workspace's only job whose id begins or ends with `text`."""
    if re.fullmatch(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        return text
    part = text.lower().replace("-", "")
    ids = []
    named = {"workspace_id": connection.workspace, "search": part}
    for job in connection.get("/api/jobs", **named, limit=200)["jobs"]:
        digits = job["id"].replace("-", "")
        if digits.startswith(part) or digits.endswith(part):
            ids.append(str(job["id"]))
    if len(ids) != 1:
        raise CommandFailed(
            f"{len(ids) or 'no'} job ids begin or end with {text!r}", code="job_not_found"
        )
    return ids[0]
