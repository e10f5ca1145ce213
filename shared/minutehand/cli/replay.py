"""`minutehand replay` and `edit`: run a job again from a step; another payload before it runs."""

from __future__ import annotations

import asyncio
import json
import pdb
import traceback
import uuid
from typing import Annotated, Any

import typer

from minutehand.cli.jobs import read_payload, tell_enqueued
from minutehand.cli.processors import registry_of
from minutehand.cli.show import read_steps
from minutehand.clock import SystemClock
from minutehand.config import JobServiceError
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import JobId, Payload, verb
from minutehand.terminal.output import Output
from minutehand.worker.graph import StagesFailed
from minutehand.worker.testing import ProcessorTest, Run


@verb
def replay(
    output: Output,
    connection: Connection,
    job_id: JobId,
    *,
    from_step: Annotated[
        str | None,
        typer.Option("--from", help="A finished step: those before it are kept. Else its start."),
    ] = None,
    payload: Annotated[
        str | None, typer.Option(help="In place of its payload: JSON, @file, or -.")
    ] = None,
    result: Annotated[
        list[str] | None,
        typer.Option("--result", help="STEP=JSON in place of a kept step's result; repeatable."),
    ] = None,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Run it here on the recorded steps, without --from all; the queue sees nothing.",
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="With --local: a debugger where it raises.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
) -> None:
    """Run a job again as a new one, from a finished step or from its start."""
    job_id = whole_id(connection, job_id)
    request = {
        "from_step": from_step,
        "payload": None if payload is None else read_payload(payload),
        "results": _results(result or []),
    }
    if local:
        _run_here(output, connection, job_id, request, debug=debug)
        return
    body = {name: value for name, value in request.items() if value is not None}
    key = {"idempotency-key": str(uuid.uuid4())}
    job = connection.call("POST", f"/api/jobs/{job_id}/replay", json=body, headers=key)
    tell_enqueued(output, connection, job, watch=watch)


@verb
def edit(output: Output, connection: Connection, job_id: JobId, payload: Payload) -> None:
    """Change the payload of a scheduled or retrying job; of an ended one: retry --payload."""
    path = f"/api/jobs/{whole_id(connection, job_id)}"
    job = connection.call("PATCH", path, json={"payload": read_payload(payload)})
    output.value(job, text=f"{job['id']}  changed; it is {job['state']}")


def _results(given: list[str]) -> dict[str, Any]:
    results = {}
    for pair in given:
        name, found, value = pair.partition("=")
        try:
            results[name] = json.loads(value)
        except ValueError:
            found = ""
        if not found or not name:
            raise CommandFailed(f"--result must be STEP=JSON: {pair!r}", code="bad_usage")
    return results


def _run_here(
    output: Output, connection: Connection, job_id: str, request: dict[str, Any], *, debug: bool
) -> None:
    """Run the project's own processor in this process, on the steps that are recorded."""
    job = connection.get(f"/api/jobs/{job_id}")
    recorded = read_steps(connection, job_id)["steps"]
    first = request["from_step"]
    steps = _kept(recorded, first)
    if unknown := request["results"].keys() - steps.keys():
        raise CommandFailed(
            f"{', '.join(sorted(unknown))} is not a step that is kept", code="invalid_argument"
        )
    try:
        kind = registry_of(Project.find()).get(job["job_type"])
        given = request["payload"]
        version = job["schema_version"] if given is None else kind.version
        payload = kind.read_payload(job["payload"] if given is None else given, version)
    except JobServiceError as error:
        raise CommandFailed(str(error), code="no_processor") from error
    test: ProcessorTest[Any] = ProcessorTest(
        kind.run,
        payload,
        job_type=job["job_type"],
        attempt=max(1, job["attempts"]),
        max_attempts=job["max_attempts"],
        workspace_id=job["workspace_id"],
        user_id=job["user_id"],
        session_id=job["session_id"],
        steps={**steps, **request["results"]},
        around=kind.around,
        clock=SystemClock(),
        job_id=job["id"],
    )
    run = asyncio.run(test.run())
    _show(output, run, {name: value for name, value in test.steps.items() if name not in steps})
    if run.raised is not None and debug:
        own = run.raised.__cause__ if isinstance(run.raised, StagesFailed) else None
        pdb.post_mortem((own or run.raised).__traceback__)
    if run.raised is not None:
        raise typer.Exit(1)


def _kept(recorded: list[dict[str, Any]], first: str | None) -> dict[str, Any]:
    """Results of the steps that a replay from `first` keeps, as `queue.kept_steps` says.

    Without it all of them: what a failed job has done is not done again on a developer's machine.
    """
    if first is None:
        return {step["name"]: step["result"] for step in recorded}
    graphs = [step["result"] for step in recorded if step["kind"] == "graph"]
    graph: dict[str, list[str]] = next((graph for graph in graphs if first in graph), {})
    ended = {step["name"]: step["created_at"] for step in recorded}
    if first not in ended and first not in graph:
        names = [step["name"] for step in recorded if step["kind"] != "graph"]
        raise CommandFailed(
            f"the job has no finished step {first}",
            code="invalid_argument",
            fix=f"one of: {', '.join(names)}" if names else None,
        )
    again = [first]
    for stage in again:  # grows as it is walked
        again += [name for name, after in graph.items() if stage in after and name not in again]
    return {
        step["name"]: step["result"]
        for step in recorded
        if step["name"] not in again
        and (step["name"] in graph or first not in ended or step["created_at"] < ended[first])
    }


def _show(output: Output, run: Run, steps: dict[str, Any]) -> None:
    """What the run came to, as it would have been settled."""
    error = run.error and run.error.message
    told = {"outcome": run.outcome, "result": run.result, "error": error, "steps": steps}
    if output.answered(told):
        return
    for line in run.logs:
        output.note(f"{line.level:<8}{line.message}")
    for name, value in steps.items():
        output.text(f"step {name}: {json.dumps(value, default=str)[:500]}")
    if run.raised is not None:
        output.text("".join(traceback.format_exception(run.raised)).rstrip())
    result = "" if run.result is None else f": {json.dumps(run.result, default=str)}"
    output.text(f"{run.outcome}{result}  (nothing was written)")
