"""`minutehand watch`, which prints one job's events or a workspace's changes as they happen."""

import json
from collections.abc import Generator, Iterable
from typing import Any

import typer
from httpx_sse import ServerSentEvent
from rich.text import Text

from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.events import ENDED, stream
from minutehand.terminal.ids import resolve_job_id
from minutehand.terminal.options import AnyJobId, workspace_verb
from minutehand.terminal.output import COLOURS, SHORT_ID, Output, ago, local_time

LEVELS = {"debug": "dim", "warning": "yellow", "error": "red"}
#: Type of the jobs that deliver webhooks. `minutehand watch` omits these jobs of a workspace.
DELIVERY = "webhook_delivery"
#: Maximum number of jobs whose type `minutehand watch` keeps in memory.
MAX_TYPES = 10_000
#: Maximum characters of a job's result in the line that reports the job's end, and of the metadata
#: in a log line.
MAX_JSON_LENGTH = 400


def follow_job(output: Output, connection: Connection, job_id: str) -> None:
    """Print a job's events until the job ends. Exit with 1 if the job did not complete."""
    printer = OutputPrinter(output)
    for event in stream(connection, f"/api/jobs/{job_id}/events"):
        # print events of jobs (job.*) and of apps, such as enrichment.record.updated
        if "." not in event.event:
            continue
        if event.event == "job.output":
            printer.print(event.json())
            continue
        event_type = event.event.removeprefix("job.")
        job = connection.get(f"/api/jobs/{job_id}") if event_type in ENDED else None
        text = format_event(event)
        if job is not None and event_type == job["status"] == "completed":
            result = job["result"]
            more = f" all: minutehand show {job_id}"
            text.append("" if result is None else shorten(result, more))
        output.value(event.json(), text=text)
        # check the job's current status, because someone may have retried the job since this event
        if job is not None and job["status"] in ENDED:
            break
    if connection.get(f"/api/jobs/{job_id}")["status"] != "completed":
        raise typer.Exit(1)


class OutputPrinter:
    """Prints a job's output streams. Prints output that a new attempt repeats only once.

    Prints a text stream unchanged, and each item of a list stream on its own line.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        #: Characters or items that were printed, by stream.
        self._printed: dict[str, list[Any]] = {}

    def print(self, event: dict[str, Any]) -> None:
        """Print new output of a stream."""
        if self._output.print_json(event):
            return
        page = event["data"]
        stream, start, new = page["stream"], page["from"], page.get("text") or page.get("items", ())
        printed, parts = self._printed.setdefault(stream, []), list(new)
        known = printed[start : start + len(parts)]
        if parts[: len(known)] == known:
            parts = parts[len(known) :]
        else:
            self._output.text(Text(f"{stream} starts again", style="dim"))
            parts = printed[:start] + parts
            printed.clear()
        printed.extend(parts)
        if parts and isinstance(new, str):
            self._output.write("".join(parts))
            return
        for item in parts:
            self._output.text(json.dumps(item, ensure_ascii=False))


def shorten(value: Any, hint: str = "") -> str:
    """Format a value as JSON. A long value ends with … and the hint."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_JSON_LENGTH else f"{text[:MAX_JSON_LENGTH]}…{hint}"


def format_event(event: ServerSentEvent) -> Text:
    """Format an event in one line."""
    record = event.json()
    data = record.get("data") or {}
    event_type = event.event.removeprefix("job.")
    line = data.get("log") or {}
    parts = [f"{line['level']}:" if line.get("level") in {"warning", "error"} else None]
    parts.append(line.get("message"))
    if event_type == "progress":
        progress = data.get("progress") or {}
        percentage = progress.get("percentage")
        parts.append(None if percentage is None else f"{percentage:>3.0f} %")
        parts += [progress.get("stage"), progress.get("message")]
    elif event_type == "waiting":
        wait = data.get("wait") or {}
        if wait.get("kind") == "ask":
            options = f" [{', '.join(map(str, wait['options']))}]" if wait.get("options") else ""
            parts.append(
                f"{wait.get('question')}{options} → minutehand answer {record['job_id']} …"
            )
    elif event_type in {"failed", "retried"}:
        parts.append(data.get("error_message"))
        due = ago(data.get("next_retry_at") or "")
        # omit the time of a retry that is past, because an old event may be printed
        if due and not due.endswith("ago"):
            parts.append(f"(next try {due})")
    timestamp = record.get("at") or record.get("created_at")
    at = local_time(timestamp)[11:] if timestamp else ""
    style = COLOURS.get(event_type, LEVELS.get(str(line.get("level")), ""))
    return Text.assemble(
        (f"{at}  ", "dim"), (f"{event_type:<12}", style), " ".join(filter(None, parts))
    )


def omit_deliveries(
    connection: Connection, events: Iterable[ServerSentEvent]
) -> Generator[ServerSentEvent]:
    """Yield the events of a workspace's jobs, without the events of webhook deliveries.

    The event `job.created` contains the job's type. If no `job.created` precedes an event, read the
    type from the database, because the job is older than the feed's first event, or its job type
    has minimal events.
    """
    types: dict[str, str] = {}
    for event in events:
        if "." not in event.event:
            continue
        record = event.json()
        job_id = record.get("job_id", "")
        if job_id not in types:
            is_new = event.event == "job.created"
            types[job_id] = record["data"]["job_type"] if is_new else read_type(connection, job_id)
            if len(types) > MAX_TYPES:
                del types[next(iter(types))]
        if types[job_id] != DELIVERY:
            yield event


def read_type(connection: Connection, job_id: str) -> str:
    """Return a job's type. Return "" if the job was deleted."""
    try:
        return str(connection.get(f"/api/jobs/{job_id}")["job_type"])
    except CommandFailed:
        return ""


@workspace_verb
def watch(output: Output, connection: Connection, job_id: AnyJobId = None) -> None:
    """Follow a job to its end, or a workspace until Ctrl-C."""
    if job_id is not None:
        follow_job(output, connection, resolve_job_id(connection, job_id))
        return
    for event in omit_deliveries(connection, stream(connection, connection.path("events"))):
        record = event.json()
        text = format_event(event)
        text.append(f"  {record.get('job_id', '')[-SHORT_ID:]}", style="dim")
        output.value(record, text=text)


def format_log_line(line: dict[str, Any]) -> Text:
    """Format a line of a job's log, with its metadata, shortened if it is long."""
    style = LEVELS.get(line["log_level"], "")
    at, level = f"{local_time(line['created_at'])[11:]}  ", f"{line['log_level']:<8}"
    more = f"  {shorten(line['metadata'])}" if line["metadata"] else ""
    return Text.assemble((at, "dim"), (level, style), (line["message"], style), (more, "dim"))
