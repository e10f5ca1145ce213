"""A job by a part of its id: people type as few characters as are unique.

The first digits are an index's range; the last ones, which the console shows, are searched for.
"""

from __future__ import annotations

import re
from typing import Any

from minutehand.terminal.connection import CommandFailed, Connection

#: Digits of a whole id, and the fewest that are accepted.
WHOLE, FEWEST = 32, 6
#: Candidates named when several jobs are meant, and pages read in search of an id's end.
MOST_NAMED, MOST_PAGES = 8, 20


def digits_of(text: str) -> str | None:
    """The hexadecimal digits of an id or of a part of one; None for any other text."""
    digits = text.strip().lower().replace("-", "")
    return digits if re.fullmatch(f"[0-9a-f]{{{FEWEST},{WHOLE}}}", digits) else None


def whole_id(connection: Connection, text: str) -> str:
    """The id of the one job whose id is, begins or ends with `text`.

    Raises:
        CommandFailed: There is none, or there are several; they are listed.
    """
    digits = digits_of(text) or ""
    if len(digits) == WHOLE:
        return text
    # asked for even if empty: that is refused, and other text never means any job
    asked = {"id_prefix": digits, "limit": MOST_NAMED + 1}
    page = connection.call("GET", "/api/jobs", params=asked)
    found = page["jobs"] or _ending_with(connection, digits)
    if not found:
        raise CommandFailed(
            f"no job id begins or ends with {text!r}",
            code="job_not_found",
            fix="`minutehand ls` lists jobs with their ids",
        )
    if len(found) > 1:
        named = "".join(f"\n  {_line(job)}" for job in found[:MOST_NAMED])
        more = "\n  …" if len(found) > MOST_NAMED else ""
        raise CommandFailed(
            f"several job ids begin or end with {text!r}:{named}{more}",
            code="ambiguous_id",
            fix="give more of the id; ids made together differ at their ends",
        )
    return str(found[0]["id"])


def _ending_with(connection: Connection, digits: str) -> list[dict[str, Any]]:
    """Jobs whose id ends so, as far back as some thousands of jobs."""
    found: list[dict[str, Any]] = []
    cursor = None
    for _ in range(MOST_PAGES):
        page = connection.get("/api/jobs", search=digits, limit=200, cursor=cursor)
        found += [job for job in page["jobs"] if job["id"].replace("-", "").endswith(digits)]
        cursor = page["next_cursor"]
        if found or cursor is None:
            break
    return found


def _line(job: dict[str, Any]) -> str:
    return f"{job['id']}  {job['job_type']}  {job['status']}"
