"""`minutehand beacon`: submit a job spec, export its receipts, and verify them without a server.

What is checked is in receipts.py; input and output are here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from minutehand.terminal import (
    CommandFailed,
    Connection,
    EnvFile,
    Json,
    Output,
    Token,
    connected,
    loads,
    parse_object,
    read_text,
    verb,
    workspace_verb,
)

app = typer.Typer(
    help="Benchmark jobs across regions, and their signed receipts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
FIXES = {
    "receipt_not_found": "an execution has a receipt once it is completed; "
    "`minutehand beacon show JOB` shows its state",
    "jobspec_conflict": "give the changed spec another version",
    "jobspec_invalid": "the schema is at /api/v1/schemas/jobspec",
}
EXIT = {"passed": 0, "failed": 1, "incomplete": 2}

JobId = Annotated[str, typer.Argument(help="The job's id, or its jobspec_id.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="A file to write to.")]


@app.command()
def verify(
    source: Annotated[
        str, typer.Argument(help="A bundle or receipt in a file, - for stdin, or a job's id.")
    ],
    *,
    keys: Annotated[
        str | None, typer.Option(help="Public keys (JWK set) in a file; else the API's own.")
    ] = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Verify receipts: signatures, hashes, count. 0 passed, 1 failed, 2 could not be verified.

    With --keys FILE nothing is asked of anyone. Take keys from a source you trust, not from where
    you got the receipt.
    """
    from minutehand_apps.beacon import receipts

    output = Output(as_json=as_json)
    is_file = source == "-" or Path(source).exists()
    try:
        given = loads(read_text(source)) if is_file else None
        known = loads(read_text(keys)) if keys is not None else None
        if given is None or known is None:
            with connected(env_file, token, None) as connection:
                given = given or _bundle(connection, source)
                known = known or connection.get("/api/v1/keys")
        report = receipts.verify(given, receipts.read_keys(known))
    except (CommandFailed, receipts.Unreadable, ValueError) as failed:
        output.failure(str(failed), code="unreadable", fix=getattr(failed, "fix", None))
        raise typer.Exit(2) from failed
    if not output.answered(report.as_json()):
        for mark, colour, lines in (
            ("✓", "green", report.passed),
            ("✗", "red", report.problems),
            ("–", "yellow", report.unchecked),  # noqa: RUF001
        ):
            for line in lines:
                output.text(Text(f"{mark} {line}", style=colour), lines=False)
        words = {"passed": "verified", "failed": "NOT verified", "incomplete": "not verified whole"}
        output.out.print(Text(words[report.verdict], style="bold"))
    raise typer.Exit(EXIT[report.verdict])


@app.command()
@workspace_verb
def submit(
    output: Output,
    connection: Connection,
    source: Annotated[str, typer.Argument(help="A job spec in a file, - for standard input.")],
) -> None:
    """Submit a job spec; the same jobspec_id and version again is the same job."""
    spec = parse_object(read_text(source), source)
    made = connection.call(
        "POST", "/api/v1/jobs", json={**spec, "workspace_id": connection.workspace}
    )
    output.value(made, text=f"job {made['id']} ({made['jobspec_id']}): {made['status']}")


@app.command()
@verb
def show(output: Output, connection: Connection, job: JobId) -> None:
    """Show a job: its state, and each region's answers."""
    found = connection.get(f"/api/v1/jobs/{quote(job, safe='')}")
    if output.answered(found):
        return
    output.text(
        f"{found['jobspec_id']} {found['version']}: {found['status']}, "
        f"reached {' '.join(found['reached']) or 'none yet'}"
    )
    for each in found["executions"]:
        line = Text(f"{each['region']}: ", style="bold")
        line.append(f"{each['status']} {each['provider'] or ''} {each['error'] or ''}".strip())
        output.text(line, lines=False)
        for answer in (each["output"] or {"data": {"responses": []}})["data"]["responses"]:
            output.text(Text(f"  {answer['question_id']}: {answer['response']}"), lines=False)


@app.command()
@verb
def export(output: Output, connection: Connection, job: JobId, *, out: Out = None) -> None:
    """Write a job's receipts and spec, for `minutehand beacon verify` wherever it is read."""
    _write(output, _bundle(connection, job), out)


@app.command("keys")
@verb
def show_keys(output: Output, connection: Connection, *, out: Out = None) -> None:
    """Write the public key that verifies receipts (JWK set)."""
    _write(output, connection.get("/api/v1/keys"), out)


def _bundle(connection: Connection, job: str) -> Any:
    return connection.get(f"/api/v1/jobs/{quote(job, safe='')}/bundle")


def _write(output: Output, value: Any, out: Path | None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, "utf-8")
        output.note(f"written to {out}")
