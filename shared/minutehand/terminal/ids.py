"""A job by a part of its id: people type as few characters as are unique."""

from __future__ import annotations

import re

from minutehand.terminal.connection import CommandFailed, Connection

#: Digits of a whole id, and the fewest that are accepted.
WHOLE, FEWEST = 32, 6


def digits_of(text: str) -> str | None:
    """The hexadecimal digits of an id or of a part of one; None for any other text."""
    digits = text.strip().lower().replace("-", "")
    return digits if re.fullmatch(f"[0-9a-f]{{{FEWEST},{WHOLE}}}", digits) else None


def whole_id(connection: Connection, text: str) -> str:
    """The id of the one job whose id is, begins or ends with `text`."""
    digits = digits_of(text) or ""
    if len(digits) == WHOLE:
        return text
    found = connection.call("GET", "/api/jobs", params={"id_prefix": digits})["jobs"] or [
        job
        for job in connection.get("/api/jobs", search=digits, limit=200)["jobs"]
        if job["id"].replace("-", "").endswith(digits)
    ]
    if len(found) == 1:
        return str(found[0]["id"])
    if not found:
        raise CommandFailed(
            f"no job id begins or ends with {text!r}",
            code="job_not_found",
            fix="`minutehand ls` lists jobs with their ids",
        )
    named = "".join(f"\n  {job['id']}  {job['job_type']}  {job['status']}" for job in found[:8])
    raise CommandFailed(
        f"several job ids begin or end with {text!r}:{named}",
        code="ambiguous_id",
        fix="give more of the id; ids made together differ at their ends",
    )
