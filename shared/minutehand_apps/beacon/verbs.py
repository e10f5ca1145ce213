"""`minutehand beacon`: submit, list, export receipts, and verify them without asking anyone.

What is checked is in verify.py; input and output are here.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from minutehand.signing.verify import KeySet, Report, read_lines
from minutehand.terminal.connection import Connection
from minutehand.terminal.inputs import parse_object, read_text
from minutehand.terminal.options import (
    EnvFile,
    Json,
    Token,
    Workspace,
    verb,
    workspace_verb,
)
from minutehand.terminal.output import Output, headed, joined
from minutehand.terminal.receipts import (
    Keys,
    Out,
    add_key_verbs,
    chain_of,
    document,
    is_file,
    verify_source,
    write,
)

app = typer.Typer(
    help="Benchmark jobs across regions, and their signed receipts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
#: Where the app's public keys are.
KEYS = "/api/v1/keys"
COLUMNS = headed("id jobspec_id:JOBSPEC version:V status regions created_at:SUBMITTED")
OUTBOX_COLUMNS = headed("id job_id:JOB status attempts error")
#: What to do next, by the API's stable words.
FIXES = {
    "receipt_not_found": "an execution has a receipt once it is completed; "
    "`minutehand beacon show JOB` shows its state",
    "jobspec_conflict": "give the changed spec another version",
    "jobspec_invalid": "`minutehand beacon schema` prints the schema",
}


JobId = Annotated[str, typer.Argument(help="The job's id, or its jobspec_id.")]


@app.command()
def verify(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A bundle or receipt in a file, - for stdin, or a job's id; with --chain NDJSON."
        ),
    ] = None,
    *,
    chain: Annotated[
        bool,
        typer.Option("--chain", help="The chain of receipts, in a file or else the workspace's."),
    ] = False,
    keys: Keys = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Pass without the job spec and the closing receipt.")
    ] = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Verify receipts: signatures, keys, hashes, chain. 0 passed, 1 failed, 2 not verifiable.

    With --keys FILE nothing is asked of anyone; without, the keys are this deployment's. Take
    keys from a source you trust, not from where you got the receipt.
    """
    from minutehand_apps.beacon import verify as verifying

    if source is None and not chain:
        raise typer.BadParameter("name a bundle, a receipt or a job, or give --chain")

    def export(connection: Connection) -> str:
        if source is not None:
            return json.dumps(_bundle(connection, source))
        return "\n".join(map(json.dumps, chain_of(connection, "/api/v1/receipts")))

    def judge(text: str, known: KeySet | None) -> Report:
        if chain:
            return verifying.verify_chain(read_lines(text), known)
        bundle, alone = verifying.read_given(text)
        return verifying.verify(bundle, known, partial=partial or alone)

    verify_source(
        Output(as_json=as_json),
        source if source is not None and (chain or is_file(source)) else None,
        keys,
        path=KEYS,
        deployment=(env_file, token, workspace),
        export=export,
        judge=judge,
        every=not chain,
    )


@app.command()
@workspace_verb
def submit(
    output: Output,
    connection: Connection,
    source: Annotated[str, typer.Argument(help="A job spec in a file, - for standard input.")],
    *,
    priority: Annotated[int, typer.Option(min=0, max=1000, help="Smaller runs first.")] = 100,
) -> None:
    """Submit a job spec; the same jobspec_id and version again is the same job."""
    spec = parse_object(read_text(source), source, code="unreadable")
    body = {**spec, "workspace_id": connection.workspace, "priority": priority}
    made = connection.call("POST", "/api/v1/jobs", json=body)
    output.value(made, text=f"job {made['id']} ({made['jobspec_id']}): {made['status']}")


@app.command()
@verb
def show(output: Output, connection: Connection, job: JobId) -> None:
    """Show a job: its state, and each region's answers."""
    found = connection.get(f"/api/v1/jobs/{quote(job, safe='')}")
    if output.answered(found):
        return
    reached = joined(found["reached"]) or "none yet"
    version = f"v{found['version'].removeprefix('v')}"
    output.text(Text(f"{found['jobspec_id']} {version}: {found['status']}, reached {reached}"))
    for each in found["executions"]:
        line = Text(f"{each['region']} · {each['model']} · ", style="bold")
        line.append(f"{each['status']} {each['provider'] or ''} {each['error'] or ''}".strip())
        output.text(line, lines=False)
        for answer in (each["output"] or {"data": {"responses": []}})["data"]["responses"]:
            output.text(Text(f"  {answer['question_id']}: {answer['response']}"), lines=False)


@app.command()
@workspace_verb
def ls(
    output: Output,
    connection: Connection,
    *,
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
) -> None:
    """List jobs, newest first."""
    where = connection.workspace
    page = connection.get("/api/v1/jobs", workspace_id=where, limit=limit, status=status)
    output.table(page["jobs"], COLUMNS, row=_row, empty="no jobs")


def _row(job: dict[str, Any]) -> dict[str, Any]:
    regions = dict.fromkeys(execution["region"] for execution in job["executions"])
    return {**job, "regions": joined(regions)}


@app.command()
@verb
def cancel(output: Output, connection: Connection, job: JobId) -> None:
    """Cancel a job and its executions."""
    ended = connection.call("POST", f"/api/v1/jobs/{quote(job, safe='')}/cancel")
    output.value(ended, text=f"job {ended['id']}: {ended['status']}")


@app.command()
@verb
def schema(
    output: Output,
    name: Annotated[
        str, typer.Argument(help="jobspec, output, receipt, job-message, …")
    ] = "jobspec",
) -> None:
    """Print the JSON Schema of a contract."""
    from minutehand_apps.beacon.models import SCHEMAS, schema_of

    if name not in SCHEMAS:
        raise typer.BadParameter(f"must be one of {', '.join(SCHEMAS)}")
    sys.stdout.write(json.dumps(schema_of(name), indent=None if output.as_json else 1) + "\n")


@app.command()
@workspace_verb
def outbox(
    output: Output,
    connection: Connection,
    *,
    status: Annotated[str, typer.Option(help="pending, published, dead or cancelled.")] = "dead",
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
) -> None:
    """List messages of the outbox, dead letters unless --status says otherwise."""
    where = connection.workspace
    page = connection.get("/api/v1/outbox", workspace_id=where, status=status, limit=limit)
    output.table(page["messages"], OUTBOX_COLUMNS, empty="no such messages")


@app.command()
@workspace_verb
def retry(
    output: Output,
    connection: Connection,
    ids: Annotated[list[str] | None, typer.Argument(help="Messages or jobs; all if none.")] = None,
) -> None:
    """Publish failed messages of the outbox again."""
    body = {"workspace_id": connection.workspace, "ids": ids or None}
    done = connection.call("POST", "/api/v1/outbox/redrive", json=body)
    output.value(done, text=f"{done['count']} messages are pending again")


@app.command()
@verb
def export(output: Output, connection: Connection, job: JobId, *, out: Out = None) -> None:
    """Write a job's receipts and spec, for `minutehand beacon verify` wherever it is read."""
    bundle = _bundle(connection, job)
    write(output, document(bundle), out, f"{len(bundle['receipts'])} receipts")


add_key_verbs(app, KEYS, "beacon")


def _bundle(connection: Connection, job: str) -> Any:
    return connection.get(f"/api/v1/jobs/{quote(job, safe='')}/bundle")
