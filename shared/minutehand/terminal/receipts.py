"""What verbs about signed receipts share: where they and public keys come from, and the verdict."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.text import Text

from minutehand.signing.verify import (
    KeySet,
    Report,
    Unreadable,
    load_json,
    read_keys,
    read_lines,
)
from minutehand.terminal.connection import (
    TIMEOUT,
    CommandFailed,
    Connection,
    load_values,
    parsed,
    reachable,
)
from minutehand.terminal.inputs import read_text
from minutehand.terminal.options import connected, verb
from minutehand.terminal.output import Output

#: What a check's state looks like, and the exit code of a verdict.
MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "not_made": ("–", "yellow")}  # noqa: RUF001
EXIT = {"passed": 0, "failed": 1, "not_made": 2}

Out = Annotated[Path | None, typer.Option("--out", "-o", help="A file to write to.")]
Keys = Annotated[
    str | None,
    typer.Option(help="Public keys (JWK set): a file or an address; else the API's own."),
]
Kid = Annotated[str, typer.Argument(help="The key's id, as the verb `keys` lists it.")]


def is_file(source: str) -> bool:
    """Whether a source names a file or standard input, not a job."""
    return source == "-" or "/" in source or source.endswith((".json", ".ndjson")) or (
        Path(source).exists()
    )  # fmt: skip


def _key_set(where: str) -> Any:
    """A JWK set from a file or an address.

    Raises:
        CommandFailed: It cannot be read.
        Unreadable: It is not JSON.
    """
    if where.startswith(("https://", "http://")):
        with reachable(where):
            return parsed(httpx.get(where, timeout=TIMEOUT))
    return load_json(read_text(where))


def _published(path: str, env_file: Path | None, token: str | None) -> Any:
    """The keys of the deployment that this machine knows; None if there is none or it is down.

    Keys are public: no one has to be signed in for them.
    """
    try:
        values = load_values(env_file, token=token)
        return _key_set(values.get("API_URL", "").rstrip("/") + path)
    except CommandFailed:
        return None


def chain_of(connection: Connection, path: str) -> list[Any]:
    """The workspace's chain of receipts, page by page.

    Raises:
        Unreadable: It has none.
    """
    lines: list[Any] = []
    while True:
        first = lines[-1]["number"] + 1 if lines else 1
        params = {"workspace_id": connection.workspace, "from": first}
        with reachable("the API"):
            answer = connection.api.get(path, params=params)
        if answer.is_error:
            parsed(answer)  # raises what it says
        if lines and not answer.text:
            return lines
        lines += read_lines(answer.text)


def write(output: Output, text: str, out: Path | None, what: str) -> None:
    """Write a file, or to standard output."""
    if out is None:
        sys.stdout.write(text)
        return
    out.write_text(text, "utf-8")
    output.note(f"{what} in {out}")


def document(value: Any) -> str:
    """A bundle or a key set as it is written."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def add_key_verbs(app: typer.Typer, path: str, chain: str) -> None:
    """Add the verbs about the keys of a chain of receipts, which the API lists at a path."""

    @app.command("keys")
    @verb
    def show_keys(output: Output, connection: Connection, *, out: Out = None) -> None:
        """Write the public keys that verify receipts (JWK set)."""
        write(output, document(connection.get(path)), out, "public keys")

    @app.command("rotate-key")
    @verb
    def rotate_key(output: Output, connection: Connection) -> None:
        """Have a new key sign from the next receipt on; needs the operator's secret key."""
        keys = connection.rpc("retire_signing_key", {"p_chain": chain}, as_operator=True)
        retired = keys["keys"][0]["kid"] if keys["keys"] else "none"
        output.value(
            keys, text=f"retired {retired}: valid for another hour, and listed permanently"
        )

    @app.command("revoke-key")
    @verb
    def revoke_key(output: Output, connection: Connection, kid: Kid) -> None:
        """Trust nothing more that a stolen key signs; needs the operator's secret key."""
        keys = connection.rpc("revoke_signing_key", {"p_kid": kid}, as_operator=True)
        output.value(keys, text=f"revoked {kid}: valid up to the last number of each chain")


def verify_source(
    output: Output,
    file: str | None,
    keys: str | None,
    *,
    path: str,
    deployment: tuple[Path | None, str | None, str | None],
    export: Callable[[Connection], str],
    judge: Callable[[str, KeySet | None], Report],
    every: bool | None = None,
) -> NoReturn:
    """Verify a file, or what the API exports, and end the command with the verdict.

    Args:
        keys: A file or an address; None takes the deployment's own.
        path: Where the API lists its keys.
        deployment: The options --env-file, --token and --workspace.
        every: Whether checks that passed are listed too; None for a short report alone.
    """
    try:
        if file is not None:
            text = read_text(file)
            found = _published(path, *deployment[:2]) if keys is None else _key_set(keys)
        else:
            with connected(*deployment) as connection:
                text = export(connection)
                found = connection.get(path) if keys is None else _key_set(keys)
        report = judge(text, None if found is None else read_keys(found))
    except (CommandFailed, Unreadable) as failed:
        code = failed.code if isinstance(failed, CommandFailed) else "unreadable"
        fix = failed.fix if isinstance(failed, CommandFailed) else None
        output.failure(str(failed), code=code, fix=fix)
        raise typer.Exit(2) from failed
    _tell(output, report, every=len(report.checks) < 100 if every is None else every)


def _tell(output: Output, report: Report, *, every: bool) -> NoReturn:
    """Each check on a line, or of a long chain those that did not pass; then the verdict's exit."""
    told = report.as_json()
    if not output.answered(told):
        for check in told["checks"]:
            if check["state"] == "passed" and not every:
                continue
            mark, colour = MARKS[check["state"]]
            line = Text(f"{mark} ", style=colour)
            line.append(f"{check['subject']}: {check['check']}")
            if check["detail"]:
                line.append(f" · {check['detail']}", style="dim")
            output.text(line, lines=False)  # a line from a receipt would look like ours
        states = [check["state"] for check in told["checks"]]
        _, colour = MARKS[report.verdict]
        output.out.print(
            Text(
                f"{_words(report)}: {states.count('passed')} checks passed, "
                f"{states.count('failed')} failed, {states.count('not_made')} could not be made",
                style=f"bold {colour}",
            )
        )
    raise typer.Exit(EXIT[report.verdict])


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
