"""`minutehand types`, `status`, `failures`, which list job types, their load and failed jobs."""

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import typer

from minutehand.cli.lists import last_sign
from minutehand.cli.show import print_explanation
from minutehand.terminal.connection import Connection
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import Output, ago, format_value, p95, parse_columns

TYPE_COLUMNS = parse_columns(
    "job_type:TYPE served seen_at:WORKER_SEEN done:TODAY failed p95:RUN_P95"
)
LOAD = parse_columns("job_type:TYPE enqueued completed failed retried queue:QUEUE_P95 run:RUN_P95")
TENANTS = parse_columns("workspace_id:WORKSPACE enqueued failed running")
GROUPS = parse_columns(
    "jobs job_type:TYPE error_fingerprint:CAUSE last_at:LATEST effects:AND_SO error_message:ERROR"
)


@workspace_verb
def types(
    output: Output,
    connection: Connection,
    job_type: Annotated[str | None, typer.Argument(help="Show one type in full.")] = None,
) -> None:
    """List job types: schema, limits, schedules, workers."""
    filters: dict[str, Any] = {"workspace_id": connection.workspace}
    if job_type is not None:
        details = connection.get(f"/api/types/{quote(job_type, safe='')}", **filters)
        if not output.print_json(details):
            schema = details.pop("payload_schema", None) or {}
            details["serving"] = [
                f"{worker['worker_id']} {last_sign(worker)}"
                for worker in details.get("serving", ())
            ]
            details["schedules"] = [
                f"{schedule['name']} {schedule['cron']}" for schedule in details["schedules"]
            ]
            given = {name: value for name, value in details.items() if value not in ([], {}, None)}
            output.details({name: format_value(value) for name, value in sorted(given.items())})
            output.details({f"payload.{name}": text for name, text in list_fields(schema)})
        return
    rows = connection.get("/api/types", **filters)["types"]
    output.table(rows, TYPE_COLUMNS, row=_format_type, empty="no types")
    for row in rows:
        if row["refusal"]:
            output.hint(f"the code of {row['job_type']} cannot be used: {row['refusal']}")


def list_fields(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of each field in a payload's schema, with its type in words."""
    for name, field in schema.get("properties", {}).items():
        # a field with the JSON Schema `true` accepts any value
        if not isinstance(field, dict):
            yield name, "any"
            continue
        types = [_type_name(each) for each in field.get("anyOf", [field])]
        parts = [" or ".join(types), "required" if name in schema.get("required", ()) else ""]
        line = ", ".join(filter(None, parts))
        yield name, f"{line}. {field['description']}" if "description" in field else line


def _type_name(field: dict[str, Any]) -> str:
    """Return the name of the definition to which a schema's field refers, or the field's types."""
    name = field.get("$ref", "").rpartition("/")[2] or field.get("type", "any")
    return " or ".join([name] if isinstance(name, str) else name)


@workspace_verb
def failures(output: Output, connection: Connection) -> None:
    """List failed jobs by cause, the largest group first; `retry --cause` retries a group."""
    groups = connection.get("/api/jobs/failures", workspace_id=connection.workspace)["groups"]
    output.table(groups, GROUPS, row=_with_effects, empty="no failed jobs")


@workspace_verb
def status(output: Output, connection: Connection) -> None:
    """Show problems, blocked jobs and the workspace's load by job type; the operator sees all."""
    explanation = _read(connection, "explain_queue", "/api/status/explain")
    if not output.as_json:  # print problems first, because they may prevent other reads
        _print_problems(output, explanation)
    stats = _read(connection, "queue_stats", "/api/status")
    if output.print_json(
        {**stats, **{name: explanation[name] for name in ("findings", "holders")}}
    ):
        return
    later = [f"{n} {state}" for state in ("retrying", "scheduled") if (n := stats["live"][state])]
    output.text("; ".join([stats["backlog"]["detail"], *later]))
    if stats["late_since"]:
        output.text(f"The figures below were last updated {ago(stats['late_since'])}.")
    load = [
        {"job_type": name, **line, "queue": p95(line["queue"]), "run": p95(line["run"])}
        for name, line in stats["types"].items()
    ]
    load.sort(key=lambda line: -line["enqueued"])
    output.table(load, LOAD, empty="no job counted in the last hour")
    if stats["tenants"]:
        output.table(stats["tenants"], TENANTS)


def _read(connection: Connection, function: str, path: str) -> Any:
    """Read data of one workspace.

    If the operator's key is set and no workspace is given, read data of all workspaces.
    """
    if connection.values.get("SUPABASE_SECRET_KEY") and not connection.given_workspace:
        return connection.rpc(function, {}, as_operator=True)
    return connection.get(path, workspace_id=connection.workspace)


def _print_problems(output: Output, explanation: dict[str, Any]) -> None:
    """Print all problems, then what blocks jobs, with the number of blocked jobs."""
    for entry in explanation["findings"]:
        print_explanation(output, entry, entry["sentence"])
    for holder in explanation["holders"]:
        count = f"{holder['jobs']}{'+' if holder['more'] else ''}"
        types = ", ".join(holder["job_types"])
        jobs = "job is" if count == "1" else "jobs are"
        print_explanation(
            output,
            holder,
            f"{count} {jobs} blocked ({types}), e.g. {holder['job_id']}: {holder['sentence']}",
        )


def _with_effects(group: dict[str, Any]) -> dict[str, Any]:
    """Add to a group of failed jobs a text about the jobs that failed as a consequence."""
    effects = ", ".join(
        f"{effect['jobs']} {effect['job_type']}" for effect in group["consequences"]
    )
    return {**group, "effects": effects or None}


def _format_type(line: dict[str, Any]) -> dict[str, Any]:
    day, nearest = line["day"], line["nearest"]
    state = "yes" if line["served"] else "NO"
    if line["refusal"] and not line["published"]:
        state = "REFUSED"
    elif not line["published"]:
        state = f"not yet; {nearest}?" if nearest else "not yet"
    elif line.get("queue_paused_at"):
        state = "queue paused"
    return {
        **line,
        "served": "paused" if line["paused_at"] else state,
        "seen_at": line["serving"][0]["seen_at"] if line["serving"] else None,
        "done": day.get("completed", 0),
        "failed": day.get("failed", 0),
        "p95": p95(day.get("run")),
    }
