"""Following live: one job's history, a workspace's changes."""

from __future__ import annotations

import json
from typing import Any

import typer
from httpx_sse import ServerSentEvent
from rich.text import Text

from minutehand.terminal.connection import Connection
from minutehand.terminal.events import ENDED, stream
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import AnyJobId, workspace_verb
from minutehand.terminal.output import COLOURS, Output, ago, local

LEVELS = {"debug": "dim", "warning": "yellow", "error": "red"}
#: Most characters of a result behind the line of its job's end.
LONGEST = 400


def follow_job(output: Output, connection: Connection, job_id: str) -> None:
    """Print a job's events until it has ended; exit code 1 unless it completed."""
    for event in stream(connection, f"/api/jobs/{job_id}/events"):
        if "." not in event.event:  # job.* or an app's own, as enrichment.record.updated
            continue
        if event.event == "job.output":
            say(output, event.json())
            continue
        kind = event.event.removeprefix("job.")
        job = connection.get(f"/api/jobs/{job_id}") if kind in ENDED else None
        text = sentence(event)
        if job is not None and kind == job["status"] == "completed":
            text.append(result_of(job))
        output.value(event.json(), text=text)
        # a retry may have retried it since: only the job itself knows that this is the end
        if job is not None and job["status"] in ENDED:
            break
    if connection.get(f"/api/jobs/{job_id}")["status"] != "completed":
        raise typer.Exit(1)


def say(output: Output, whole: dict[str, Any]) -> None:
    """What a stream of a job has said, as it comes: its words in one flow, an item a line."""
    page = whole["data"]
    if output.answered(whole):
        return
    if page["from"] == 0 and page["attempt"] > 1:
        output.text(Text(f"{page['stream']} begins again", style="dim"))
    if page.get("text"):
        output.words(page["text"])
    for item in page.get("items", ()):
        output.text(json.dumps(item, ensure_ascii=False))


def result_of(job: dict[str, Any]) -> str:
    """A job's result on one line, cut where it is long; nothing when it has none."""
    if job["result"] is None:
        return ""
    text = json.dumps(job["result"], ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… all: minutehand show {job['id']}"


def sentence(event: ServerSentEvent) -> Text:
    """One event on one line."""
    whole = event.json()
    data = whole.get("data") or {}
    kind = event.event.removeprefix("job.")
    line = data.get("log") or {}
    words = [f"{line['level']}:" if line.get("level") in {"warning", "error"} else None]
    words.append(line.get("message"))
    if kind == "progress":
        progress = data.get("progress") or {}
        percentage = progress.get("percentage")
        words.append(None if percentage is None else f"{percentage:>3.0f} %")
        words += [progress.get("stage"), progress.get("message")]
    elif kind == "waiting":
        wait = data.get("wait") or {}
        if wait.get("kind") == "ask":
            options = f" [{', '.join(map(str, wait['options']))}]" if wait.get("options") else ""
            words.append(f"{wait.get('question')}{options} → minutehand answer {whole['job_id']} …")
    elif kind in {"failed", "retried"}:
        words.append(data.get("error_message"))
        if due := data.get("next_retry_at"):
            words.append(f"(next try {ago(due)})")
    instant = whole.get("at") or whole.get("created_at")
    at = local(instant)[11:] if instant else ""
    style = COLOURS.get(kind, LEVELS.get(str(line.get("level")), ""))
    return Text.assemble((f"{at}  ", "dim"), (f"{kind:<12}", style), " ".join(filter(None, words)))


@workspace_verb
def watch(output: Output, connection: Connection, job_id: AnyJobId = None) -> None:
    """Follow a job to its end, or a workspace until Ctrl-C."""
    if job_id is not None:
        follow_job(output, connection, whole_id(connection, job_id))
        return
    for event in stream(connection, connection.path("events")):
        if "." in event.event:
            whole = event.json()
            text = sentence(event)
            text.append(f"  {whole.get('job_id', '')}", style="dim")
            output.value(whole, text=text)


def log_line(line: dict[str, Any]) -> Text:
    """A line of a job's log."""
    style = LEVELS.get(line["log_level"], "")
    at, level = f"{local(line['created_at'])[11:]}  ", f"{line['log_level']:<8}"
    return Text.assemble((at, "dim"), (level, style), (line["message"], style))
