"""Following live: one job's history, a workspace's changes, a job's log lines.

Read as server-sent events with a cursor, so that a cut connection loses nothing: behind a
buffering gateway each answer ends early and the next one continues where it stopped.
"""

from __future__ import annotations

import json
import shlex
import time
from typing import Annotated, Any

import typer
from rich.text import Text

from minutehand.terminal.connection import Connection
from minutehand.terminal.events import ENDED, Event, stream
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import AnyJobId, JobId, verb, workspace_verb
from minutehand.terminal.output import COLOURS, Output, joined

LEVELS = {"debug": "dim", "warning": "yellow", "error": "red"}
#: Most characters of a result behind the line of its job's end.
LONGEST = 400


def follow_job(output: Output, connection: Connection, job_id: str) -> None:
    """Print a job's events until it has ended; exit code 1 unless it completed."""
    for event in stream(connection, f"/api/jobs/{job_id}/events"):
        if "." not in event.type:  # job.* or an app's own, as enrichment.record.updated
            continue
        kind = event.type.removeprefix("job.")
        job = connection.get(f"/api/jobs/{job_id}") if kind in ENDED else None
        text = sentence(event)
        if job is not None and kind == job["status"] == "completed":
            text.append(result_of(job))
        output.value(event.data, text=text)
        # a retry may have retried it since: only the job itself knows that this is the end
        if job is not None and job["status"] in ENDED:
            break
    if connection.get(f"/api/jobs/{job_id}")["status"] != "completed":
        raise typer.Exit(1)


def result_of(job: dict[str, Any]) -> str:
    """A job's result on one line, cut where it is long; nothing when it has none."""
    if job["result"] is None:
        return ""
    text = json.dumps(job["result"], ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… all: minutehand show {job['id']}"


def sentence(event: Event) -> Text:
    """One event on one line."""
    data = event.data.get("data") or {}
    kind = event.type.removeprefix("job.")
    progress = data.get("progress") or {}
    line = data.get("log") or {}
    percentage = progress.get("percentage")
    words = joined(
        [
            f"{percentage:>3.0f} %" if kind == "progress" and percentage is not None else None,
            progress.get("stage") if kind == "progress" else None,
            progress.get("message") if kind == "progress" else None,
            f"{line['level']}:" if line.get("level") in {"warning", "error"} else None,
            line.get("message"),
            question(data.get("wait") or {}, str(event.data.get("job_id", "")), " ")
            if kind == "waiting"
            else None,
            data.get("error_message") if kind in {"failed", "retried"} else None,
            f"(next try at {str(data['next_retry_at'])[:19].replace('T', ' ')} UTC)"
            if data.get("next_retry_at")
            else None,
        ]
    )
    at = str(event.data.get("at") or event.data.get("created_at") or "")[11:23]
    style = COLOURS.get(kind, LEVELS.get(str(line.get("level")), ""))
    return Text.assemble((f"{at}  ", "dim"), (f"{kind:<12}", style), words)


def question(wait: dict[str, Any], job_id: str, between: str) -> str | None:
    """What a waiting job asks, and how to answer; None when it asks no one."""
    if wait.get("kind") != "ask":
        return None
    options = wait.get("options") or []
    choices = f" [{', '.join(map(str, options))}]" if options else ""
    example = shlex.quote(str(options[0])) if options else "…"
    return f"{wait.get('question')}{choices}{between}→ minutehand answer {job_id} {example}"


@workspace_verb
def watch(output: Output, connection: Connection, job_id: AnyJobId = None) -> None:
    """Follow a job to its end, or a workspace until Ctrl-C."""
    if job_id is not None:
        follow_job(output, connection, whole_id(connection, job_id))
        return
    for event in stream(connection, connection.path("events")):
        if "." in event.type:
            text = sentence(event)
            text.append(f"  {event.data.get('job_id', '')}", style="dim")
            output.value(event.data, text=text)


@verb
def logs(
    output: Output,
    connection: Connection,
    job_id: JobId,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until it ends.")] = False,
    level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Print a job's log lines, oldest first."""
    job_id = whole_id(connection, job_id)
    after = 0
    while True:
        # asked before the lines, so that what was written last is read once more after the end
        ended = not follow or connection.get(f"/api/jobs/{job_id}")["status"] in ENDED
        path = f"/api/jobs/{job_id}/logs"
        lines = connection.get(path, after=after, limit=200, level=level)["logs"]
        for line in lines:
            after = line["id"]
            output.value(line, text=log_line(line))
        if not lines:
            if ended:
                return
            time.sleep(0.5)


def log_line(line: dict[str, Any]) -> Text:
    """A line of a job's log."""
    style = LEVELS.get(line["log_level"], "")
    at, level = f"{str(line['created_at'])[11:23]}  ", f"{line['log_level']:<8}"
    return Text.assemble((at, "dim"), (level, style), (line["message"], style))
