"""Following live: one job's history, a workspace's changes, a job's log lines.

Read as server-sent events with a cursor, so that a cut connection loses nothing: behind a
buffering gateway each answer ends early and the next one goes on where it stopped.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import typer
from rich.text import Text

from infra.cli.connection import CommandFailed, Connection, parsed
from infra.cli.ids import whole_id
from infra.cli.options import AnyJobId, EnvFile, JobId, Json, Token, Workspace, connected
from infra.cli.output import COLOURS, Output, joined

ENDED = {"completed", "failed", "cancelled"}
LEVELS = {"debug": "dim", "warning": "yellow", "error": "red"}
RETRY_SECONDS = 1.0
#: Most characters of a result behind the line of its job's end.
LONGEST = 400


@dataclass
class Event:
    """One server-sent event."""

    id: str | None
    type: str
    data: Any


def stream(
    connection: Connection, path: str, *, cursor: str | None = None, tries: int = 30
) -> Iterator[Event]:
    """Events of a feed until the server says that there are no more, by `end` or by 204.

    An access token lives an hour; a watch that signed in by itself does so again and goes on.

    Raises:
        CommandFailed: The feed was refused, stays away for `tries` attempts in a row, or a given
            token has expired.
    """
    failures, renewed = 0, False
    while True:
        headers = {"accept": "text/event-stream"}
        if cursor is not None:
            headers["last-event-id"] = cursor
        try:
            with connection.api.stream(
                "GET", path, headers=headers, timeout=httpx.Timeout(60.0, connect=5.0)
            ) as answer:
                if answer.status_code == 204:
                    return
                if not answer.is_success:
                    answer.read()
                    # it may have expired while the feed was away; once, for a wrong one stays wrong
                    if answer.status_code == 401 and cursor and not renewed and connection.renew():
                        renewed = True
                        continue
                    if answer.status_code < 500:
                        parsed(answer)
                    raise httpx.ReadError(f"answered {answer.status_code}")
                for event in events_of(answer.iter_lines()):
                    failures, renewed = 0, False
                    cursor = event.id or cursor
                    if event.type == "end" and event.data.get("reason") == "token_expired":
                        if connection.renew():
                            break
                        raise CommandFailed(
                            "the access token has expired",
                            code="token_expired",
                            fix="`minutehand token` prints a fresh one; with MINUTEHAND_EMAIL and "
                            "MINUTEHAND_PASSWORD it is renewed by itself",
                        )
                    yield event
                    if event.type == "end":
                        return
        except httpx.HTTPError as error:
            failures += 1
            if failures >= tries:
                raise CommandFailed(
                    f"the feed does not answer ({type(error).__name__})",
                    code="unreachable",
                    fix="`minutehand doctor` tells which part is away",
                ) from error
            time.sleep(RETRY_SECONDS)


def events_of(lines: Iterator[str]) -> Iterator[Event]:
    """Parse server-sent events; comments and retry hints are skipped."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            if "data" in fields:
                data = json.loads(fields["data"])
                yield Event(fields.get("id"), fields.get("event", "message"), data)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = (
                f"{fields[name]}\n{value}" if name == "data" and name in fields else value
            )


def follow_job(output: Output, connection: Connection, job_id: str) -> None:
    """Print a job's events until it has ended; exit code 1 unless it completed."""
    ended = ""
    for event in stream(connection, f"/api/jobs/{job_id}/events"):
        if event.type == "end":
            ended = str(event.data["reason"])
        elif "." in event.type:  # job.* or an app's own, as beacon.receipt.issued
            kind = event.type.removeprefix("job.")
            job = connection.call("GET", f"/api/jobs/{job_id}") if kind in ENDED else None
            text = sentence(event)
            if job is not None and kind == job["status"] == "completed":
                text.append(result_of(job))
            output.value(event.data, text=text)
            # a retry may have revived it since: only the job itself knows whether this was the end
            if job is not None and job["status"] in ENDED:
                break
    ended = ended or str(connection.call("GET", f"/api/jobs/{job_id}")["status"])
    if ended != "completed":
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
    """What a waiting job asks, and how to answer; None when it asks nobody."""
    if wait.get("kind") != "ask":
        return None
    options = wait.get("options") or []
    choices = f" [{', '.join(map(str, options))}]" if options else ""
    example = shlex.quote(str(options[0])) if options else "…"
    return f"{wait.get('question')}{choices}{between}→ minutehand answer {job_id} {example}"


def watch(
    job_id: AnyJobId = None,
    *,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Follow a job to its end, or a workspace until Ctrl-C."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        if job_id is not None:
            follow_job(output, connection, whole_id(connection, job_id))
            return
        for event in stream(connection, f"/api/workspaces/{connection.workspace}/events"):
            if "." in event.type:
                text = sentence(event)
                text.append(f"  {event.data.get('job_id', '')}", style="dim")
                output.value(event.data, text=text)


def logs(
    job_id: JobId,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Print a job's log lines, oldest first."""
    with connected(as_json, env_file, token) as (output, connection):
        job_id = whole_id(connection, job_id)
        after = 0
        while True:
            # asked before the lines, so that what was written last is read once more after the end
            ended = not follow or _ended(connection, job_id)
            params: dict[str, Any] = {"after": after, "limit": 200}
            if level is not None:
                params["level"] = level
            lines = connection.call("GET", f"/api/jobs/{job_id}/logs", params=params)["logs"]
            for line in lines:
                after = line["id"]
                style = LEVELS.get(line["log_level"], "")
                at = str(line["created_at"])[11:23]
                text = Text.assemble(
                    (f"{at}  ", "dim"), (f"{line['log_level']:<8}", style), (line["message"], style)
                )
                output.value(line, text=text)
            if not lines:
                if ended:
                    return
                time.sleep(0.5)


def _ended(connection: Connection, job_id: str) -> bool:
    return connection.call("GET", f"/api/jobs/{job_id}")["status"] in ENDED
