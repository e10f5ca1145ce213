"""A job by the part of its id that the console and `ls` show."""

from __future__ import annotations

from minutehand.terminal.connection import CommandFailed, Connection


def resolve_job_id(connection: Connection, text: str) -> str:
    """The id of the one job whose id is, begins or ends with `text`."""
    if len(text) == 36:
        return text
    part = text.lower().replace("-", "")
    found = []
    for job in connection.get("/api/jobs", search=part, limit=200)["jobs"]:
        digits = job["id"].replace("-", "")
        if digits.startswith(part) or digits.endswith(part):
            found.append(str(job["id"]))
    if len(found) != 1:
        raise CommandFailed(
            f"{len(found) or 'no'} job ids begin or end with {text!r}", code="job_not_found"
        )
    return found[0]
