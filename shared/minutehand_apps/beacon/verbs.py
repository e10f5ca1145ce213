"""`minutehand beacon`, which submits job specs, and exports receipts and verifies them offline.

This module contains the input and output of the commands. The module receipts.py contains the
checks of a verification.
"""

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
    "jobspec_conflict": "change the version of the spec",
    "jobspec_invalid": "the schema is at /api/v1/schemas/jobspec",
}
EXIT = {"passed": 0, "failed": 1, "incomplete": 2}

JobId = Annotated[str, typer.Argument(help="The job's id, or its jobspec_id.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="File to write to.")]


@app.command()
def verify(
    source: Annotated[
        str, typer.Argument(help="File with a bundle or receipt, - for stdin, or a job's id.")
    ],
    *,
    keys: Annotated[
        str | None, typer.Option(help="File with public keys (JWK set). Default: the API's keys.")
    ] = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Verify receipts by signatures, hashes and count.

    Exit with 0 if passed, 1 if failed, 2 if not verifiable.

    With --keys FILE the command works offline. Get the keys from a source that you trust, and not
    from the source of the receipt.
    """
    from minutehand_apps.beacon import receipts

    output = Output(as_json=as_json)
    is_file = source == "-" or Path(source).exists()
    try:
        document = loads(read_text(source)) if is_file else None
        key_set = loads(read_text(keys)) if keys is not None else None
        if document is None or key_set is None:
            with connected(env_file, token, None) as connection:
                document = document or _bundle(connection, source)
                key_set = key_set or connection.get("/api/v1/keys")
        report = receipts.verify(document, receipts.read_keys(key_set))
    except (CommandFailed, receipts.Unreadable, ValueError) as failed:
        output.failure(str(failed), code="unreadable", fix=getattr(failed, "fix", None))
        raise typer.Exit(2) from failed
    if not output.print_json(report.as_json()):
        for mark, colour, lines in (
            ("✓", "green", report.passed),
            ("✗", "red", report.problems),
            ("–", "yellow", report.unchecked),  # noqa: RUF001
        ):
            for line in lines:
                output.text(Text(f"{mark} {line}", style=colour), lines=False)
        words = {"passed": "verified", "failed": "NOT verified", "incomplete": "partly verified"}
        output.out.print(Text(words[report.verdict], style="bold"))
    raise typer.Exit(EXIT[report.verdict])


@app.command()
@workspace_verb
def submit(
    output: Output,
    connection: Connection,
    source: Annotated[str, typer.Argument(help="File with a job spec, or - for stdin.")],
) -> None:
    """Submit a job spec. A repeated jobspec_id and version returns the existing job."""
    spec = parse_object(read_text(source), source)
    job = connection.call(
        "POST", "/api/v1/jobs", json={**spec, "workspace_id": connection.workspace}
    )
    output.value(job, text=f"job {job['id']} ({job['jobspec_id']}): {job['status']}")


@app.command()
@verb
def show(output: Output, connection: Connection, job: JobId) -> None:
    """Show a job: its state, and each region's answers."""
    state = connection.get(f"/api/v1/jobs/{quote(job, safe='')}")
    if output.print_json(state):
        return
    output.text(
        f"{state['jobspec_id']} {state['version']}: {state['status']}, "
        f"reached {' '.join(state['reached']) or 'none yet'}"
    )
    for execution in state["executions"]:
        line = Text(f"{execution['region']}: ", style="bold")
        words = (execution["status"], execution["provider"], execution["error"])
        line.append(" ".join(filter(None, words)))
        output.text(line, lines=False)
        for answer in (execution["output"] or {"data": {"responses": []}})["data"]["responses"]:
            output.text(Text(f"  {answer['question_id']}: {answer['response']}"), lines=False)


@app.command()
@verb
def export(output: Output, connection: Connection, job: JobId, *, out: Out = None) -> None:
    """Write a job's spec and receipts to a file for `minutehand beacon verify`."""
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
        output.hint(f"Wrote {out}")
