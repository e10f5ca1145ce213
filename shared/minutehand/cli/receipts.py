"""`minutehand receipts`: export what was signed, verify it without asking anyone, change keys."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from minutehand.signing.verify import (
    KeySet,
    Report,
    read_bundle,
    read_lines,
    verify,
    verify_chain,
)
from minutehand.terminal.connection import Connection
from minutehand.terminal.ids import whole_id
from minutehand.terminal.options import (
    AnyJobId,
    EnvFile,
    Json,
    Token,
    Workspace,
    workspace_verb,
)
from minutehand.terminal.output import Output
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
    help="Signed receipts of jobs: export, verify, change keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
KEYS = "/api/keys"


@app.command("verify")
def verify_receipts(
    source: Annotated[
        str | None,
        typer.Argument(help="A file, - for stdin, or a job's id; none is the workspace's chain."),
    ] = None,
    *,
    keys: Keys = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Pass without payload, result or children.")
    ] = False,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Verify a receipt, a job's bundle or a chain: 0 passed, 1 failed, 2 not verifiable.

    With --keys FILE nothing is asked of anyone; without, the keys are this deployment's. Take
    keys from a source you trust, not from where you got the receipt.
    """
    verify_source(
        Output(as_json=as_json),
        source if source is not None and is_file(source) else None,
        keys,
        path=KEYS,
        deployment=(env_file, token, workspace),
        export=lambda connection: _export(connection, source),
        judge=lambda text, known: _verified(text, known, partial=partial),
    )


def _verified(text: str, keys: KeySet | None, *, partial: bool) -> Report:
    """A chain is several lines, each a receipt; anything else is one document."""
    if text.startswith("{") and text.rstrip().count("\n{"):
        return verify_chain(read_lines(text), keys)
    bundle, alone = read_bundle(text)
    return verify(bundle, keys, partial=partial or alone)


def _export(connection: Connection, job: str | None) -> str:
    if job is not None:
        return document(connection.get(f"/api/jobs/{whole_id(connection, job)}/receipt"))
    chain = chain_of(connection, "/api/receipts")
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in chain)


@app.command()
@workspace_verb
def export(
    output: Output,
    connection: Connection,
    job_id: AnyJobId = None,
    *,
    out: Out = None,
) -> None:
    """Write a job's receipt with what it vouches for, or the workspace's chain as NDJSON."""
    write(output, _export(connection, job_id), out, "the receipt" if job_id else "the chain")


add_key_verbs(app, KEYS, "jobs")
