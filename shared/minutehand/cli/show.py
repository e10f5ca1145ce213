"""`minutehand show`: a job with its times, attempts, steps, children and last log lines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from minutehand.cli.trace import draw
from minutehand.cli.watch import question
from minutehand.terminal.connection import Connection
from minutehand.terminal.events import ENDED
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import EnvFile, JobId, Json, Token, connected
from minutehand.terminal.output import Output, ago, lasted, state_style

#: Lines of a job's log shown, and its children; the rest by `logs` and `ls`.
LAST_LINES = 10
MOST_CHILDREN = 20
MOST_FRAMES = 6
MOST_PAGES = 10

ATTEMPTS = {
    "attempt": "#",
    "outcome": "OUTCOME",
    "held": "HELD",
    "worker_id": "WORKER",
    "error": "ERROR",
}
STEPS = {"name": "STEP", "at": "DONE", "result": "RESULT"}
CHILDREN = {"id": "CHILD", "job_type": "TYPE", "state": "STATE", "ran": "RAN", "error": "ERROR"}
#: Of a job's own row: what people ask for, in this order.
FACTS = (
    "payload", "progress", "result", "error_message", "tags", "priority", "queue",
    "concurrency_key", "idempotency_key", "parent_id", "session_id", "user_id",
)  # fmt: skip


def show(
    job_id: JobId,
    *,
    trace: Annotated[
        bool, typer.Option("--trace", help="Where its time went, with its children, as bars.")
    ] = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Show a job: state, times, attempts with their errors, steps, children, log; or its trace."""
    with connected(as_json, env_file, token) as (output, connection):
        job_id = whole_id(connection, job_id)
        if trace:
            found = connection.call("GET", f"/api/jobs/{job_id}/trace")
            if as_json:
                output.line(found)
            else:
                draw(output, found)
            return
        job = connection.call("GET", f"/api/jobs/{job_id}")
        details = read_details(connection, job)
        if as_json:
            output.line({**job, "details": details})
            return
        _head(output, job)
        _attempts(output, details["attempts"])
        _rest(output, details)
        if job["status"] not in ENDED:
            told = connection.call("GET", f"/api/jobs/{job_id}/explain")
            wait = {**told["data"], "kind": "ask" if told["reason"] == "asking" else None}
            output.note(question(wait, job_id, "\n") or told["sentence"])


def read_details(connection: Connection, job: dict[str, Any]) -> dict[str, Any]:
    """What belongs to a job besides its row: attempts, steps, children, the last log lines."""
    job_id = job["id"]
    steps = _steps(connection, job_id)
    page = {"parent_id": job_id, "limit": MOST_CHILDREN}
    return {
        "attempts": connection.call("GET", f"/api/jobs/{job_id}/attempts"),
        "steps": steps["steps"],
        "more_steps": steps["next"] is not None,
        "waiting_for": steps["waiting_for"],
        "children": connection.call("GET", "/api/jobs", params=page)["jobs"],
        "logs": _last_lines(connection, job_id),
    }


def _steps(connection: Connection, job_id: str) -> dict[str, Any]:
    """Finished steps, oldest first, and what the job waits for; `next` is set where there are more.

    A page may end amid the children of a step, which the next one continues under its name.
    """
    steps: dict[str, dict[str, Any]] = {}
    after: dict[str, Any] = {}
    for _ in range(MOST_PAGES):
        page = connection.call("GET", f"/api/jobs/{job_id}/steps", params=after)
        for step in page["steps"]:
            before = steps.get(step["name"])
            if before is not None:
                step["result"]["children"] = [
                    *before["result"]["children"],
                    *step["result"]["children"],
                ]
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
        page = connection.call("GET", f"/api/jobs/{job_id}/logs", params={"after": after})
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
        ("waited", times.get("wait_ms")),
        ("total", times.get("total_ms")),
    ]
    output.text(" · ".join(f"{name} {lasted(ms)}" for name, ms in parts if ms is not None))
    rows = [{"name": name, "value": job[name]} for name in FACTS if job.get(name) not in (None, [])]
    rows.append({"name": "attempts", "value": f"{job['attempts']} of {job['max_attempts']}"})
    rows += [
        {"name": name.removesuffix("_at"), "value": f"{job[name]}  ({ago(job[name])})"}
        for name in ("created_at", "started_at", "finished_at")
        if job.get(name)
    ]
    output.table(rows, {"name": "", "value": ""}, empty="")


def _attempts(output: Output, attempts: list[dict[str, Any]]) -> None:
    if not attempts:
        return
    rows = [
        {
            **each,
            "outcome": each["outcome"] or "running",
            "held": _between(each["leased_at"], each["ended_at"]),
            "error": each.get("error_message"),
        }
        for each in attempts
    ]
    output.text("")
    output.table(rows, ATTEMPTS, empty="", spare=("worker_id",))
    failed = next((each for each in reversed(attempts) if each.get("traceback")), None)
    if failed is not None:
        output.text("")
        output.text(Text(f"Attempt {failed['attempt']} failed here:", style="dim"))
        for frame in failed["traceback"]["frames"][:MOST_FRAMES]:
            style = "" if frame["own"] else "dim"
            place = f"{frame['file']}:{frame['line']} in {frame['function']}"
            output.text(Text.assemble((place, style or "bold"), "\n    ", (frame["code"], style)))
    for change in (attempts[-1].get("differs") or [])[:5]:
        output.note(f"differs from the attempt before: {change['what']} was {change['before']}")


def _rest(output: Output, details: dict[str, Any]) -> None:
    if details["steps"]:
        output.text("")
        rows = [{**step, "at": ago(step["created_at"])} for step in details["steps"]]
        output.table(rows, STEPS, empty="")
        if details["more_steps"]:
            output.note("There are more steps: GET /api/jobs/{id}/steps has the rest.")
    if details["children"]:
        output.text("")
        rows = [
            {**child, "error": child["error_message"], "ran": lasted(child["times"]["run_ms"])}
            for child in details["children"]
        ]
        output.table(rows, CHILDREN, empty="", spare=("ran",))
    if details["logs"]:
        output.text("")
        for line in details["logs"]:
            at = str(line["created_at"])[11:19]
            output.text(
                Text.assemble((f"{at}  {line['log_level']:<8}", "dim"), line["message"]),
                lines=False,
            )


def _between(begun: str, ended: str | None) -> str:
    end = datetime.fromisoformat(ended) if ended else datetime.now(UTC)
    return lasted((end - datetime.fromisoformat(begun)).total_seconds() * 1000)
