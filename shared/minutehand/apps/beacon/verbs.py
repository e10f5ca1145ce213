"""`minutehand beacon`: submit, list, export receipts, and verify them without asking anyone.

What is checked is in verify.py; input and output are here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import httpx
import typer
from rich.text import Text

from minutehand.terminal.connection import TIMEOUT, CommandFailed, Connection, parsed, reachable
from minutehand.terminal.inputs import parse_object, read_text
from minutehand.terminal.options import EnvFile, Json, Token, Workspace, connected
from minutehand.terminal.output import Output, joined

if TYPE_CHECKING:
    from minutehand.apps.beacon.models import Bundle
    from minutehand.apps.beacon.verify import Report

app = typer.Typer(
    help="Benchmark jobs across regions, and their signed receipts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
COLUMNS = {
    "id": "ID",
    "jobspec_id": "JOBSPEC",
    "version": "V",
    "status": "STATUS",
    "regions": "REGIONS",
    "created_at": "SUBMITTED",
}
OUTBOX_COLUMNS = {
    "id": "ID",
    "job_id": "JOB",
    "status": "STATUS",
    "attempts": "ATTEMPTS",
    "error": "ERROR",
}
#: What to do next, by the API's stable words.
FIXES = {
    "receipt_not_found": "an execution has a receipt once it is completed; "
    "`minutehand beacon show JOB` shows its state",
    "jobspec_conflict": "give the changed spec another version",
    "jobspec_invalid": "`minutehand beacon schema` prints the schema",
}
#: What a check's state looks like, and the exit code of a verdict.
MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "not_made": ("–", "yellow")}  # noqa: RUF001
EXIT = {"passed": 0, "failed": 1, "not_made": 2}


JobId = Annotated[str, typer.Argument(help="The job's id, or its jobspec_id.")]


@app.command()
def verify(
    source: Annotated[
        str,
        typer.Argument(help="A bundle or receipt in a file, - for stdin, or a job's id."),
    ],
    *,
    keys: Annotated[
        str | None,
        typer.Option(help="Public keys (JWK set): a file or an address; else the API's own."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Pass even if the job spec is missing.")
    ] = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Verify receipts: signatures, keys, hashes, chain. 0 passed, 1 failed, 2 not verifiable.

    With --keys FILE nothing is asked of anyone; without, the keys are this deployment's. Take
    keys from a source you trust, not from where you got the receipt.
    """
    from minutehand.apps.beacon import verify as verifying

    output = Output(as_json=as_json)
    try:
        bundle, alone, key_set = _given(source, keys, token, env_file)
        report = verifying.verify(
            bundle,
            None if key_set is None else verifying.read_keys(key_set),
            partial=partial or alone,
        )
    except (CommandFailed, verifying.Unreadable) as failed:
        code = failed.code if isinstance(failed, CommandFailed) else "unreadable"
        fix = failed.fix if isinstance(failed, CommandFailed) else None
        output.failure(str(failed), code=code, fix=fix)
        raise typer.Exit(2) from failed
    _tell(output, report)
    raise typer.Exit(EXIT[report.verdict])


@app.command()
def submit(
    source: Annotated[str, typer.Argument(help="A job spec in a file, - for standard input.")],
    *,
    priority: Annotated[int, typer.Option(min=0, max=1000, help="Smaller runs first.")] = 100,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Submit a job spec; the same jobspec_id and version again is the same job."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        spec = parse_object(read_text(source), source, code="unreadable")
        body = {**spec, "workspace_id": connection.workspace, "priority": priority}
        made = connection.call("POST", "/api/v1/jobs", json=body)
        output.value(made, text=f"job {made['id']} ({made['jobspec_id']}): {made['status']}")


@app.command()
def show(
    job: JobId,
    *,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Show a job: its state, and each region's answers."""
    with connected(as_json, env_file, token) as (output, connection):
        found = connection.call("GET", f"/api/v1/jobs/{quote(job, safe='')}")
        if as_json:
            output.line(found)
            return
        reached = joined(found["reached"]) or "none yet"
        output.text(
            Text(f"{found['jobspec_id']} v{found['version']}: {found['status']}, reached {reached}")
        )
        for each in found["executions"]:
            line = Text(f"{each['region']} · {each['model']} · ", style="bold")
            line.append(f"{each['status']} {each['provider'] or ''} {each['error'] or ''}".strip())
            output.text(line, lines=False)
            for answer in (each["output"] or {"data": {"responses": []}})["data"]["responses"]:
                output.text(Text(f"  {answer['question_id']}: {answer['response']}"), lines=False)


@app.command()
def ls(
    *,
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        params = {"workspace_id": connection.workspace, "limit": limit}
        if status is not None:
            params["status"] = status
        rows = connection.call("GET", "/api/v1/jobs", params=params)["jobs"]
        if not as_json:
            for row in rows:
                row["regions"] = joined(
                    dict.fromkeys(execution["region"] for execution in row["executions"])
                )
        output.table(rows, COLUMNS, empty="no jobs")


@app.command()
def cancel(
    job: JobId,
    *,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Cancel a job and its executions."""
    with connected(as_json, env_file, token) as (output, connection):
        ended = connection.call("POST", f"/api/v1/jobs/{quote(job, safe='')}/cancel")
        output.value(ended, text=f"job {ended['id']}: {ended['status']}")


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="jobspec, output, receipt, job-message, …")] = (
        "jobspec"
    ),
    *,
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of a contract."""
    from minutehand.apps.beacon.models import SCHEMAS, schema_of

    if name not in SCHEMAS:
        raise typer.BadParameter(f"must be one of {', '.join(SCHEMAS)}")
    sys.stdout.write(json.dumps(schema_of(name), indent=None if as_json else 1) + "\n")


@app.command()
def outbox(
    *,
    status: Annotated[str, typer.Option(help="pending, published, dead or cancelled.")] = "dead",
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List messages of the outbox, dead letters unless --status says otherwise."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        params = {"workspace_id": connection.workspace, "status": status, "limit": limit}
        rows = connection.call("GET", "/api/v1/outbox", params=params)["messages"]
        output.table(rows, OUTBOX_COLUMNS, empty="no such messages")


@app.command()
def redrive(
    ids: Annotated[list[str] | None, typer.Argument(help="Messages or jobs; all if none.")] = None,
    *,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Publish dead letters of the outbox again."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        body = {"workspace_id": connection.workspace, "ids": ids or None}
        done = connection.call("POST", "/api/v1/outbox/redrive", json=body)
        output.value(done, text=f"{done['count']} messages are pending again")


@app.command()
def export(
    job: JobId,
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file to write to.")] = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Write a job's receipts and spec, for `minutehand beacon verify` wherever it is read."""
    with connected(as_json, env_file, token) as (output, connection):
        bundle = _bundle(connection, job)
        text = json.dumps(bundle, ensure_ascii=False, indent=1) + "\n"
        if out is None:
            sys.stdout.write(text)
            return
        out.write_text(text, "utf-8")
        output.note(f"{len(bundle['receipts'])} receipts in {out}")


@app.command("keys")
def show_keys(
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file to write to.")] = None,
    env_file: EnvFile = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Write the public keys receipts are verified by (JWK set)."""
    with connected(as_json, env_file, token) as (output, connection):
        text = json.dumps(connection.call("GET", "/api/v1/keys"), indent=1) + "\n"
        if out is None:
            sys.stdout.write(text)
            return
        out.write_text(text, "utf-8")
        output.note(f"public keys in {out}")


@app.command("rotate-key")
def rotate_key(*, env_file: EnvFile = None, as_json: Json = False) -> None:
    """Have a new key sign from the next receipt on; needs the operator's secret key."""
    with connected(as_json, env_file) as (output, connection):
        keys = connection.rpc("beacon_retire_key", {}, as_operator=True)
        retired = keys["keys"][0]["kid"] if keys["keys"] else "none"
        output.value(
            keys, text=f"retired {retired}: valid for another hour, and listed permanently"
        )


def _given(
    source: str, keys: str | None, token: str | None, env_file: Path | None
) -> tuple[Bundle, bool, Any]:
    """The bundle, whether it is one receipt alone, and the key set or None."""
    from minutehand.apps.beacon import verify as verifying

    if source == "-" or "/" in source or source.endswith(".json") or Path(source).exists():
        bundle, alone = verifying.read_given(read_text(source))
        return bundle, alone, _published(token, env_file) if keys is None else _key_set(keys)
    with _connection(token, env_file) as connection:
        found = _bundle(connection, source)
        key_set = connection.call("GET", "/api/v1/keys") if keys is None else _key_set(keys)
    return *verifying.read_given(json.dumps(found)), key_set


def _published(token: str | None, env_file: Path | None) -> Any:
    """The keys of the deployment that this machine knows; None if there is none or it is down.

    Keys are public: no one has to be signed in for them.
    """
    from minutehand.terminal.connection import load_values

    try:
        values = load_values(env_file, token=token)
        return _key_set(values.get("API_URL", "").rstrip("/") + "/api/v1/keys")
    except CommandFailed:
        return None


@contextmanager
def _connection(token: str | None, env_file: Path | None) -> Iterator[Connection]:
    from minutehand.terminal.connection import load_values

    connection = Connection(load_values(env_file), token, None)
    try:
        yield connection
    finally:
        connection.close()


def _bundle(connection: Connection, job: str) -> Any:
    return connection.call("GET", f"/api/v1/jobs/{quote(job, safe='')}/bundle")


def _key_set(where: str) -> Any:
    """A JWK set from a file or an address.

    Raises:
        CommandFailed: It cannot be read.
        Unreadable: It is not JSON.
    """
    from minutehand.apps.beacon.verify import load_json

    if where.startswith(("https://", "http://")):
        with reachable(where):
            return parsed(httpx.get(where, timeout=TIMEOUT))
    return load_json(read_text(where))


def _tell(output: Output, report: Report) -> None:
    """Each check on a line, then the verdict."""
    told = report.as_json()
    if output.as_json:
        output.line(told)
        return
    for check in told["checks"]:
        mark, colour = MARKS[check["state"]]
        line = Text(f"{mark} ", style=colour)
        line.append(f"{check['subject']}: {check['check']}")
        if check["detail"]:
            line.append(f" · {check['detail']}", style="dim")
        output.text(line, lines=False)  # a line from a receipt would look like ours
    states = [check["state"] for check in told["checks"]]
    mark, colour = MARKS[report.verdict]
    output.out.print(
        Text(
            f"{_words(report)}: {states.count('passed')} checks passed, "
            f"{states.count('failed')} failed, {states.count('not_made')} could not be made",
            style=f"bold {colour}",
        )
    )


def _words(report: Report) -> str:
    """The verdict in words; what could not be checked is always named."""
    missing = {f"{check.name} of {check.subject}": None for check in report.unchecked}
    if report.verdict == "failed":
        return "NOT verified"
    if any(check.name == "signature" for check in report.unchecked):
        return "not verified: give the signer's public keys with --keys"
    if report.verdict == "not_made":
        return (
            f"not verified: the bundle is incomplete, not checked: {_some(list(missing))}"
            " (--partial passes what is there)"
        )
    return f"verified in part, not checked: {_some(list(missing))}" if missing else "verified"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
