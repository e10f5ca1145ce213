"""`minutehand show` and `explain`: one job as the service says it is."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from minutehand.cli.watch import question
from minutehand.terminal.connection import Connection
from minutehand.terminal.events import ENDED
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import JobId, verb
from minutehand.terminal.output import Output, ago, headed, lasted, state_style

LAST_LINES = 10
MOST_CHILDREN = 20
MOST_FRAMES = 6
ATTEMPTS = headed("attempt:# outcome ended_at:ENDED worker_id:WORKER error")
STEPS = headed("name:STEP took at:DONE result")
CHILDREN = headed("id:CHILD job_type:TYPE state error")
#: Of a job's own row: what people ask for, in this order.
FACTS = (
    "payload", "progress", "result", "error", "tags", "priority", "queue",
    "concurrency_key", "idempotency_key", "parent_id", "session_id", "user_id",
)  # fmt: skip


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
    state = job.get("state") or job["status"]
    output.text(Text.assemble((job["job_type"], "bold"), "  ", (state, state_style(state))))
    output.text(job["id"])
    if job["status"] not in ENDED or job["status"] == "failed":
        _explain(output, job_id, details["explain"])
    _facts(output, job)
    _attempts(output, details["attempts"])
    _rest(output, details)


@verb
def explain(output: Output, connection: Connection, job_id: JobId) -> None:
    """Say why a job is not running, and when it will."""
    job_id = whole_id(connection, job_id)
    told = connection.get(f"/api/jobs/{job_id}/explain")
    if not output.answered(told):
        _explain(output, job_id, told)


def _explain(output: Output, job_id: str, told: dict[str, Any]) -> None:
    wait = {**told["data"], "kind": "ask" if told["reason"] == "asking" else None}
    start = told.get("estimated_start_at")
    expected = f"  (expected {_when(start)})" if start else ""
    output.text(question(wait, job_id, "\n") or f"{told['sentence']}{expected}")
    if told.get("remedy"):
        output.note(f"What to do: {told['remedy']}")
    for check in told.get("checks") or []:
        if check["verdict"] != "pass":
            fix = f"  ({check['command']})" if check["command"] else ""
            output.note(f"{check['verdict']}: {check['detail']}{fix}")


def _when(start: str) -> str:
    told = ago(start)
    return "now" if told.endswith(" ago") else told


def _facts(output: Output, job: dict[str, Any]) -> None:
    facts = {name: job.get(name) for name in FACTS if job.get(name) != []}
    facts["attempts"] = f"{job['attempts']} of {job['max_attempts']}"
    for name in ("created", "started", "finished"):
        at = job.get(f"{name}_at")
        facts[name] = at and f"{at}  ({ago(at)})"
    for name, ms in (job.get("times") or {}).items():
        if name in ("queue_ms", "run_ms") and ms is not None:
            facts[name.removesuffix("_ms") + " time"] = lasted(ms)
    output.facts(facts)


def _attempts(output: Output, attempts: list[dict[str, Any]]) -> None:
    if not attempts:
        return
    output.text("")
    output.table(attempts, ATTEMPTS, spare=("worker_id",))
    failed = next((each for each in reversed(attempts) if each.get("traceback")), None)
    if failed is None:
        return
    output.text("")
    output.text(Text(f"Attempt {failed['attempt']} failed here:", style="dim"))
    for frame in failed["traceback"]["frames"][:MOST_FRAMES]:
        style = "" if frame["own"] else "dim"
        place = f"{frame['file']}:{frame['line']} in {frame['function']}"
        output.text(Text.assemble((place, style or "bold"), "\n    ", (frame["code"], style)))


def _rest(output: Output, details: dict[str, Any]) -> None:
    if details["steps"]:
        output.text("")
        output.table(details["steps"], STEPS, row=_step, spare=("at",))
    if details["children"]:
        output.text("")
        output.table(details["children"], CHILDREN)
    if details["logs"]:
        output.text("")
    for line in details["logs"]:
        head = f"{str(line['created_at'])[11:19]}  {line['log_level']:<8}"
        output.text(Text.assemble((head, "dim"), line["message"]), lines=False)


def _step(step: dict[str, Any]) -> dict[str, Any]:
    took = None if step["took_ms"] is None else lasted(step["took_ms"])
    return {**step, "at": ago(step["created_at"]), "took": took}
