"""`minutehand show` and `explain`: one job as the service says it is."""

from __future__ import annotations

from typing import Any

import typer
from rich.text import Text

from minutehand.cli.watch import log_line
from minutehand.terminal.connection import Connection
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import AnyJobId, JobId, verb, workspace_verb
from minutehand.terminal.output import COLOURS, Output, ago, by_clock, headed, lasted

MOST_CHILDREN, LAST_LINES, MOST_FRAMES = 20, 10, 6
ATTEMPTS = headed("attempt:# outcome ended_at:ENDED worker_id:WORKER code error")
STEPS = headed("name:STEP duration created_at:DONE result")
CHILDREN = headed("id:CHILD job_type:TYPE state error")
#: Of a job's own row: what people ask for, in this order.
FACTS = (
    "payload progress result error tags priority queue concurrency_key idempotency_key parent_id"
    " session_id user_id attempts max_attempts cost_usd created_at started_at finished_at"
)


@verb
def show(output: Output, connection: Connection, job_id: JobId) -> None:
    """Show a job: why it does not run, state, attempts, error, steps, children, last log lines."""
    job_id = whole_id(connection, job_id)
    job = connection.get(f"/api/jobs/{job_id}")
    details = {
        "explain": connection.get(f"/api/jobs/{job_id}/explain"),
        "attempts": connection.get(f"/api/jobs/{job_id}/attempts"),
        "steps": connection.get(f"/api/jobs/{job_id}/steps")["steps"],
        "children": connection.get("/api/jobs", parent_id=job_id, limit=MOST_CHILDREN)["jobs"],
        "logs": connection.get(f"/api/jobs/{job_id}/logs", limit=200)["logs"][-LAST_LINES:],
    }
    if output.answered({**job, "details": details}):
        return
    state = job["state"]
    output.text(Text.assemble((job["job_type"], "bold"), "  ", (state, COLOURS.get(state, ""))))
    output.text(job["id"])
    if state not in {"completed", "cancelled"}:
        _explain(output, details["explain"])
    output.facts({name: job.get(name) for name in FACTS.split() if job.get(name) != []})
    for name, columns in (("attempts", ATTEMPTS), ("steps", STEPS), ("children", CHILDREN)):
        if details[name]:
            output.text("")
            output.table(details[name], columns, row=_row)
    if failed := [each for each in details["attempts"] if each.get("traceback")]:
        traceback = failed[-1]["traceback"]
        _frames(output, traceback["frames"])
        for cause in traceback.get("causes") or ():
            output.text(f"caused by {cause['type']}: {cause['message']}")
            _frames(output, cause["frames"])
    for line in details["logs"]:
        output.text(log_line(line), lines=False)


@workspace_verb
def explain(output: Output, connection: Connection, job_id: AnyJobId = None) -> None:
    """Say why a job is not running and what to do; without a job, what is wrong as a whole."""
    if job_id is not None:
        job_id = whole_id(connection, job_id)
        explained = connection.get(f"/api/jobs/{job_id}/explain")
        if not output.answered(explained):
            _explain(output, explained)
        return
    explained = seen(connection, "explain_queue", "/api/status/explain")
    if output.answered(explained):
        return
    say_whole(output, explained)
    if not explained["findings"] + explained["holders"]:
        output.text("nothing is wrong")


def say_whole(output: Output, explained: dict[str, Any]) -> None:
    """What is wrong as a whole; then who holds jobs, by how many."""
    for finding in explained["findings"]:
        say(output, finding, finding["sentence"])
    for holder in explained["holders"]:
        count = f"{holder['jobs']}{'+' if holder['more'] else ''}"
        of = ", ".join(holder["job_types"])
        jobs = "job is" if count == "1" else "jobs are"
        say(
            output,
            holder,
            f"{count} {jobs} held ({of}), as {holder['job_id']}: {holder['sentence']}",
        )


def seen(connection: Connection, function: str, path: str) -> Any:
    """What is read of the workspace; where the operator's key is at hand, of all."""
    if connection.values.get("SUPABASE_SECRET_KEY"):
        return connection.rpc(function, {}, as_operator=True)
    return connection.get(path, workspace_id=connection.workspace)


@verb
def open_page(output: Output, connection: Connection, job_id: AnyJobId = None) -> None:
    """Open a job in the browser; without one, the console."""
    page = "jobs" if job_id is None else f"jobs/{whole_id(connection, job_id)}"
    console = connection.values.get("CONSOLE_URL") or connection.need("API_URL")
    url = f"{console.rstrip('/')}/{page}"
    output.value({"url": url}, text=url)
    typer.launch(url)


def _explain(output: Output, explained: dict[str, Any]) -> None:
    start, options = explained["estimated_start_at"], explained["data"].get("options")
    expected = f"  (expected {ago(start)})" if start else ""
    choices = f" [{', '.join(map(str, options))}]" if options else ""
    say(output, explained, f"{explained['sentence']}{choices}{expected}")


def say(output: Output, explained: dict[str, Any], sentence: str) -> None:
    """A sentence of the database's, its cause, and what to do next."""
    output.text(by_clock(sentence))
    if explained["cause"]:
        output.text(by_clock(f"Cause: {explained['cause']}"))
    if (held := explained.get("held_by")) and held["waiting"] > 1:
        more = "+" if held["more"] else ""
        output.text(f"So wait {held['waiting']}{more} jobs of its workspace.")
    for step in explained["next"]:  # beside its cause, also in a file or a pager
        command = f"  ({step['command']})" if "command" in step else ""
        output.text(by_clock(f"What to do: {step['words']}{command}"))


def _frames(output: Output, frames: list[dict[str, Any]]) -> None:
    for frame in frames[:MOST_FRAMES]:
        output.text(f"{frame['file']}:{frame['line']} in {frame['function']}\n    {frame['code']}")


def _row(line: dict[str, Any]) -> dict[str, Any]:
    ms, origin = line.get("duration_ms"), line.get("origin") or {}
    code = origin.get("commit") or origin.get("version")
    return {**line, "code": code and code[:9], "duration": None if ms is None else lasted(ms)}
