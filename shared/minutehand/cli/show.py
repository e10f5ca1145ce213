"""`minutehand show` and `explain`, which print the state of a job."""

from typing import Any

from rich.text import Text

from minutehand.cli.watch import format_log_line
from minutehand.terminal.connection import Connection
from minutehand.terminal.ids import resolve_job_id
from minutehand.terminal.options import JobId, workspace_verb
from minutehand.terminal.output import (
    COLOURS,
    Output,
    format_duration,
    localize_times,
    parse_columns,
)

MAX_CHILDREN, MAX_LOG_LINES, MAX_FRAMES = 20, 10, 6
ATTEMPTS = parse_columns("attempt:# outcome ended_at:ENDED worker_id:WORKER code error")
STEPS = parse_columns("name:STEP duration created_at:DONE result")
CHILDREN = parse_columns("id:CHILD job_type:TYPE state error")
#: Columns of a job that `show` prints, in this order.
FIELDS = (
    "payload progress result error tags priority queue concurrency_key idempotency_key parent_id"
    " session_id user_id schedule attempts max_attempts cost_usd created_at started_at finished_at"
)


@workspace_verb
def show(output: Output, connection: Connection, job_id: JobId) -> None:
    """Show a job: why it waits, state, attempts, error, steps, children, last log lines."""
    job_id = resolve_job_id(connection, job_id)
    job = connection.get(f"/api/jobs/{job_id}")
    details = {
        "explain": connection.get(f"/api/jobs/{job_id}/explain"),
        "attempts": connection.get(f"/api/jobs/{job_id}/attempts"),
        "steps": connection.get(f"/api/jobs/{job_id}/steps")["steps"],
        "children": connection.get("/api/jobs", parent_id=job_id, limit=MAX_CHILDREN)["jobs"],
        "logs": connection.get(f"/api/jobs/{job_id}/logs", limit=200)["logs"][-MAX_LOG_LINES:],
    }
    if output.print_json({**job, "details": details}):
        return
    state = job["state"]
    output.text(Text.assemble((job["job_type"], "bold"), "  ", (state, COLOURS.get(state, ""))))
    output.text(job["id"])
    if state not in {"completed", "cancelled"}:
        _explain(output, details["explain"])
    output.details({name: job.get(name) for name in FIELDS.split()})
    for name, columns in (("attempts", ATTEMPTS), ("steps", STEPS), ("children", CHILDREN)):
        if details[name]:
            output.text("")
            output.table(details[name], columns, row=_row)
    if failed := [attempt for attempt in details["attempts"] if attempt.get("traceback")]:
        number, traceback = failed[-1]["attempt"], failed[-1]["traceback"]
        output.text(f"Traceback of attempt {number}, the innermost call first, libraries last:")
        _frames(output, traceback["frames"])
        for cause in traceback.get("causes") or ():
            names = dict.fromkeys((cause["type"], cause["message"]))
            output.text(
                f"{'while handling' if 'handled' in cause else 'caused by'} {': '.join(names)}"
            )
            _frames(output, cause["frames"])
    for line in details["logs"]:
        output.text(format_log_line(line), lines=False)


@workspace_verb
def explain(output: Output, connection: Connection, job_id: JobId) -> None:
    """Explain why a job is not running and what to do."""
    explanation = connection.get(f"/api/jobs/{resolve_job_id(connection, job_id)}/explain")
    if not output.print_json(explanation):
        _explain(output, explanation)


def _explain(output: Output, explanation: dict[str, Any]) -> None:
    options = explanation["data"].get("options")
    choices = f" [{', '.join(map(str, options))}]" if options else ""
    print_explanation(output, explanation, f"{explanation['sentence']}{choices}")


def print_explanation(output: Output, explanation: dict[str, Any], sentence: str) -> None:
    """Print the database's sentence about a job or problem, with its cause and the next steps."""
    output.sentence(localize_times(sentence))
    # a database before 0.5.5 sends no outlook
    if outlook := explanation.get("outlook"):
        output.sentence(localize_times(outlook))
    # a database before 0.5.1 omits some causes
    if cause := explanation.get("cause"):
        output.sentence(localize_times(f"Cause: {cause}"))
    data = explanation.get("data", {})
    # a worker before 0.5.6 sends no calls
    if data.get("silent") and (calls := data.get("stack")):
        output.text("Its calls, the innermost last:")
        for call in calls:
            output.text(f"  {call}", lines=False)
            if (code := data.get("code")) and call.startswith(f"{data['place']} "):
                output.text(f"    {code}", lines=False)
    if (holder := explanation.get("held_by")) and (others := holder["waiting"] - 1) > 0:
        count = f"{others}{'+' if holder['more'] else ''}"
        output.sentence(f"Other jobs of its workspace that wait for the same reason: {count}.")
    for step in explanation["next"]:
        # a database before 0.5.2 sends no kinds
        what = "What to do: " if step.get("kind", "act") == "act" else ""
        output.sentence(localize_times(f"{what}{step['words']}"))
        if "command" in step:
            output.text(f"  {step['command']}")


def _frames(output: Output, frames: list[dict[str, Any]]) -> None:
    for frame in frames[:MAX_FRAMES]:
        output.text(f"{frame['file']}:{frame['line']} in {frame['function']}\n    {frame['code']}")


def _row(line: dict[str, Any]) -> dict[str, Any]:
    ms, origin = line.get("duration_ms"), line.get("origin") or {}
    code = origin.get("commit") or origin.get("version")
    ended = {"outcome": "lease expired"} if line.get("process_ended") is False else {}
    return {
        **line,
        **ended,
        "code": code and code[:9],
        "duration": None if ms is None else format_duration(ms),
    }
