"""`minutehand show`: a job with its times, attempts, steps, children and last log lines."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from minutehand.cli.jobs import advise
from minutehand.cli.trace import draw
from minutehand.cli.watch import question
from minutehand.project import Project
from minutehand.terminal.connection import Connection
from minutehand.terminal.events import ENDED
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import JobId, verb
from minutehand.terminal.output import Output, ago, headed, lasted, state_style

#: Lines of a job's log shown, and its children; the rest by `logs` and `ls`.
LAST_LINES = 10
MOST_CHILDREN = 20
MOST_FRAMES = 6
MOST_PAGES = 10

ATTEMPTS = headed("attempt:# outcome held worker_id:WORKER error")
STEPS = headed("name:STEP took at:DONE result")
CHILDREN = headed("id:CHILD job_type:TYPE state ran error")
#: Of a job's own row: what people ask for, in this order.
FACTS = (
    "payload", "progress", "result", "error", "tags", "priority", "queue",
    "concurrency_key", "idempotency_key", "parent_id", "session_id", "user_id",
)  # fmt: skip


@verb
def show(
    output: Output,
    connection: Connection,
    job_id: JobId,
    *,
    trace: Annotated[
        bool, typer.Option("--trace", help="Where its time went, with its children, as bars.")
    ] = False,
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Its failure as a prompt for a coding agent.")
    ] = False,
) -> None:
    """Show a job: state, times, attempts with their errors, steps, children, log; or its trace."""
    job_id = whole_id(connection, job_id)
    if prompt:
        told = connection.get(f"/api/jobs/{job_id}/prompt")
        output.value(told, text=told["text"])
        return
    if trace:
        found = connection.get(f"/api/jobs/{job_id}/trace")
        if not output.answered(found):
            draw(output, found)
        return
    job = connection.get(f"/api/jobs/{job_id}")
    details = read_details(connection, job)
    if output.answered({**job, "details": details}):
        return
    _head(output, job)
    _attempts(output, details["attempts"])
    _rest(output, details)
    if job["status"] not in ENDED or job["status"] == "failed":
        told = connection.get(f"/api/jobs/{job_id}/explain")
        wait = {**told["data"], "kind": "ask" if told["reason"] == "asking" else None}
        output.note(question(wait, job_id, "\n") or told["sentence"])
        advise(output, told)


def read_details(connection: Connection, job: dict[str, Any]) -> dict[str, Any]:
    """What belongs to a job besides its row: attempts, steps, children, the last log lines."""
    job_id = job["id"]
    steps = read_steps(connection, job_id)
    return {
        "attempts": connection.get(f"/api/jobs/{job_id}/attempts"),
        "steps": steps["steps"],
        "more_steps": steps["next"] is not None,
        "waiting_for": steps["waiting_for"],
        "children": connection.get("/api/jobs", parent_id=job_id, limit=MOST_CHILDREN)["jobs"],
        "logs": _last_lines(connection, job_id),
    }


def read_steps(connection: Connection, job_id: str) -> dict[str, Any]:
    """Finished steps, oldest first, and what the job waits for; `next` is set where there are more.

    A page may end amid the children of a step, which the next one continues under its name.
    """
    steps: dict[str, dict[str, Any]] = {}
    after: dict[str, Any] = {}
    for _ in range(MOST_PAGES):
        page = connection.get(f"/api/jobs/{job_id}/steps", **after)
        for step in page["steps"]:
            before = steps.get(step["name"])
            if before is not None:
                earlier = before["result"]["children"]
                step["result"]["children"] = [*earlier, *step["result"]["children"]]
            steps[step["name"]] = step
        if page["next"] is None:
            break
        after = {"after_name": page["next"]["name"], "after_nth": page["next"]["nth"]}
    return {**page, "steps": sorted(steps.values(), key=lambda step: str(step["created_at"]))}


def _last_lines(connection: Connection, job_id: str) -> list[dict[str, Any]]:
    """The end of the log, oldest first; of a very long one, of its first pages."""
    lines: list[dict[str, Any]] = []
    after: int | None = 0
    for _ in range(MOST_PAGES):
        page = connection.get(f"/api/jobs/{job_id}/logs", after=after)
        lines = (lines + page["logs"])[-LAST_LINES:]
        after = page["next_after"]
        if after is None:
            break
    return lines


def _head(output: Output, job: dict[str, Any]) -> None:
    state = job.get("state") or job["status"]
    due = job.get("next_run_at")
    when = f", next run {ago(due)}" if due and state in ("scheduled", "retrying") else ""
    output.text(Text.assemble((job["job_type"], "bold"), "  ", (state, state_style(state)), when))
    output.text(job["id"])
    times = job.get("times") or {}
    runs = times.get("runs", 0)
    parts = [
        ("queued", times.get("queue_ms")),
        ("ran" if runs < 2 else f"ran in {runs} runs", times.get("run_ms")),
        ("held", times.get("held_ms")),
        ("waited", times.get("wait_ms")),
        ("total", times.get("total_ms")),
    ]
    output.text(" · ".join(f"{name} {lasted(ms)}" for name, ms in parts if ms is not None))
    job = {**job, "progress": _progress(job["progress"])}
    facts = {name: job.get(name) for name in FACTS if job.get(name) != []}
    facts["attempts"] = f"{job['attempts']} of {job['max_attempts']}"
    for name in ("created", "started", "finished"):
        at = job.get(f"{name}_at")
        facts[name] = at and f"{at}  ({ago(at)})"
    output.facts(facts)


def _progress(progress: dict[str, Any]) -> str:
    """The progress as a person reads it: 40 %, importing, row 7."""
    said = (progress["stage"], progress["message"])
    return ", ".join([f"{progress['percentage']:g} %", *(each for each in said if each)])


def _attempts(output: Output, attempts: list[dict[str, Any]]) -> None:
    if not attempts:
        return
    output.text("")
    output.table(attempts, ATTEMPTS, row=_attempt, spare=("worker_id",))
    failed = next((each for each in reversed(attempts) if each.get("traceback")), None)
    if failed is not None:
        output.text("")
        output.text(Text(f"Attempt {failed['attempt']} failed here:", style="dim"))
        for frame in failed["traceback"]["frames"][:MOST_FRAMES]:
            style = "" if frame["own"] else "dim"
            times = f"  ({frame['times']} times, recursion)" if frame.get("times") else ""
            place = f"{frame['file']}:{frame['line']} in {frame['function']}{times}"
            link = link_of(frame, failed["origin"] or {}) if frame["own"] else None
            where = f"bold link {link}" if link else style or "bold"
            output.text(Text.assemble((place, where), "\n    ", (frame["code"], style)))
        for cause in failed["traceback"].get("causes", []):
            at = next((f" at {each['file']}:{each['line']}" for each in cause["frames"]), "")
            output.text(f"caused by {cause['type']}: {cause['message']}{at}")
    for change in (attempts[-1].get("differs") or [])[:5]:
        output.note(f"differs from the attempt before: {change['what']} was {change['before']}")


def _attempt(attempt: dict[str, Any]) -> dict[str, Any]:
    held = _between(attempt["leased_at"], attempt["ended_at"])
    return {**attempt, "outcome": attempt["outcome"] or "running", "held": held}


def link_of(frame: dict[str, Any], origin: dict[str, Any]) -> str | None:
    """Where a terminal leads from a frame: the editor where its file is here, else the commit.

    MINUTEHAND_EDITOR has the address of a line, `vscode://file{file}:{line}` unless it is set.
    """
    name, line = str(frame["file"]), str(frame["line"])
    for root in Project.find().import_roots:
        if (root / name).is_file():
            pattern = os.environ.get("MINUTEHAND_EDITOR") or "vscode://file{file}:{line}"
            return pattern.replace("{file}", quote(str(root / name))).replace("{line}", line)
    source = origin.get("source")
    return f"{source}/{quote(name)}#L{line}" if source else None


def _rest(output: Output, details: dict[str, Any]) -> None:
    if details["steps"]:
        output.text("")
        output.table(details["steps"], STEPS, row=_step, spare=("at",))
        if details["more_steps"]:
            output.note("There are more steps: GET /api/jobs/{id}/steps has the rest.")
    if details["children"]:
        output.text("")
        ran = [{**child, "ran": lasted(child["times"]["run_ms"])} for child in details["children"]]
        output.table(ran, CHILDREN, spare=("ran",))
    if details["logs"]:
        output.text("")
        for line in details["logs"]:
            at = str(line["created_at"])[11:19]
            output.text(
                Text.assemble((f"{at}  {line['log_level']:<8}", "dim"), line["message"]),
                lines=False,
            )


def _step(step: dict[str, Any]) -> dict[str, Any]:
    took = None if step["took_ms"] is None else lasted(step["took_ms"])
    return {**step, "at": ago(step["created_at"]), "took": took}


def _between(begun: str, ended: str | None) -> str:
    end = datetime.fromisoformat(ended) if ended else datetime.now(UTC)
    return lasted((end - datetime.fromisoformat(begun)).total_seconds() * 1000)
