"""`minutehand beacon`: measure, list, hand out receipts, and verify them without asking anybody.

What is checked is in verify.py; here is where things come from and go to.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.text import Text

from minutehand.terminal.connection import TIMEOUT, CommandFailed, Connection, parsed, reachable
from minutehand.terminal.options import EnvFile, Json, Token, Workspace, connected
from minutehand.terminal.output import Output, joined

if TYPE_CHECKING:
    from minutehand.apps.beacon.models import Bundle
    from minutehand.apps.beacon.verify import Report

app = typer.Typer(
    help="Benchmarks of provider endpoints and their signed receipts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
COLUMNS = {
    "id": "ID",
    "status": "STATUS",
    "name": "SPEC",
    "version": "V",
    "regions": "REGIONS",
    "receipt_number": "RECEIPT",
    "created_at": "STARTED",
}
#: What to do next, by the API's stable words.
FIXES = {
    "receipt_not_found": "a run has receipts once it has ended; "
    "`minutehand beacon ls` shows its state",
}
#: What a check's state looks like, and the exit code of a verdict.
MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "not_made": ("–", "yellow")}  # noqa: RUF001
EXIT = {"passed": 0, "failed": 1, "not_made": 2}


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no id") from error


RunId = Annotated[str, typer.Argument(help="The run's id.", callback=_uuid)]


@app.command()
def verify(
    source: Annotated[
        str, typer.Argument(help="A bundle or receipt in a file, - for standard input, or an id.")
    ],
    *,
    keys: Annotated[
        str | None,
        typer.Option(help="Public keys (JWK set): a file or an address. For an id: the API's."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Pass though receipts, samples or spec are missing.")
    ] = False,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Verify receipts: signatures, keys, digests, chain. 0 passed, 1 failed, 2 not verifiable.

    With a file and a key file nothing is asked of anybody. Take the keys from whom you trust, not
    from whom you got the bundle. A bundle that lacks receipts, samples or its spec is not
    verifiable unless --partial is given; one receipt by itself is always a part.
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
def run(
    spec: Annotated[
        str, typer.Argument(help="A spec's id, or a file (- for standard input) with a spec.")
    ],
    *,
    name: Annotated[str, typer.Option(help="What to call a spec from a file.")] = "cli",
    key: Annotated[str | None, typer.Option(help="Idempotency key.")] = None,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Measure a spec; follow it with `minutehand watch JOB`."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        spec_id = spec if _is_id(spec) else _written(connection, spec, name)
        headers = {"idempotency-key": key} if key else {}
        started = connection.call("POST", f"/api/beacon/specs/{spec_id}/runs", headers=headers)
        output.value(
            started, text=f"run {started['id']}, job {started['job_id']}: {started['status']}"
        )


@app.command()
def ls(
    *,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    with connected(as_json, env_file, token, workspace) as (output, connection):
        rows = connection.call(
            "GET",
            "/api/beacon/runs",
            params={"workspace_id": connection.workspace, "limit": limit},
        )["runs"]
        if not as_json:
            for row in rows:
                row["regions"] = joined(region["region"] for region in row["regions"])
        output.table(rows, COLUMNS, empty="no runs")


@app.command()
def export(
    run_id: RunId,
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file to write to.")] = None,
    samples: Annotated[bool, typer.Option(help="With every sample.")] = True,
    token: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Write a run's bundle, for `minutehand beacon verify` wherever it is read."""
    with connected(as_json, env_file, token) as (output, connection):
        bundle = _bundle_of_run(connection, run_id, samples=samples)
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
        text = json.dumps(connection.call("GET", "/api/beacon/keys"), indent=1) + "\n"
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
        output.value(keys, text=f"retired {retired}: valid for an hour more, and listed for ever")


def _given(
    source: str, keys: str | None, token: str | None, env_file: Path | None
) -> tuple[Bundle, bool, Any]:
    """The bundle, whether it is one receipt alone, and the key set or None."""
    from minutehand.apps.beacon import verify as verifying

    if not _is_id(source):
        bundle, alone = verifying.read_given(_text(source))
        return bundle, alone, None if keys is None else _key_set(keys)
    with _connection(token, env_file) as connection:
        found = _bundle_of_any(connection, source)
        key_set = connection.call("GET", "/api/beacon/keys") if keys is None else _key_set(keys)
    return verifying.read_bundle(json.dumps(found)), False, key_set


@contextmanager
def _connection(token: str | None, env_file: Path | None) -> Iterator[Connection]:
    from minutehand.terminal.connection import load_values

    connection = Connection(load_values(env_file), token, None)
    try:
        yield connection
    finally:
        connection.close()


def _bundle_of_any(connection: Connection, found_id: str) -> Any:
    """The bundle of a run, or of the run a receipt belongs to."""
    try:
        return _bundle_of_run(connection, found_id)
    except CommandFailed as failed:
        if failed.code != "run_not_found":
            raise
    receipt = connection.call("GET", f"/api/beacon/receipts/{found_id}")
    return _bundle_of_run(connection, receipt["run_id"])


def _bundle_of_run(connection: Connection, run_id: str, *, samples: bool = True) -> Any:
    params = {"samples": str(samples).lower()}
    return connection.call("GET", f"/api/beacon/runs/{run_id}/bundle", params=params)


def _key_set(where: str) -> Any:
    """A JWK set from a file or an address.

    Raises:
        CommandFailed: It cannot be read.
        Unreadable: It is no JSON.
    """
    from minutehand.apps.beacon.verify import load_json

    if where.startswith(("https://", "http://")):
        with reachable(where):
            return parsed(httpx.get(where, timeout=TIMEOUT))
    return load_json(_text(where))


def _text(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(
            f"{source} cannot be read: {error}",
            code="unreadable",
            fix="name a file, - for standard input, or a run's or receipt's id to verify it, a "
            "spec's to run it",
        ) from error


def _written(connection: Connection, source: str, name: str) -> str:
    """Write the spec of a file; its id."""
    try:
        spec = json.loads(_text(source))
    except ValueError as error:
        raise CommandFailed(f"{source} is no JSON: {error}", code="unreadable") from error
    if not isinstance(spec, dict):
        raise CommandFailed(f"{source} holds no object", code="unreadable")
    body = {"name": name, **spec, "workspace_id": connection.workspace}
    return str(connection.call("POST", "/api/beacon/specs", json=body)["id"])


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


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
        output.text(line, lines=False)  # a line that a receipt brings would look like ours
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
    """The verdict in words; what could not be checked is named, whatever the exit code."""
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
