"""Options every command takes, and the frame each runs in: connect, run, say why it failed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from minutehand.terminal.connection import CommandFailed, Connection, load_values
from minutehand.terminal.ids import FEWEST, WHOLE, digits_of
from minutehand.terminal.output import Output

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file", "-e", envvar="MINUTEHAND_ENV_FILE",
        help="Addresses and keys; default: the environment, else .local/env.",
    ),
]  # fmt: skip
Token = Annotated[
    str | None, typer.Option("--token", help="Use this access token instead of signing in.")
]
Workspace = Annotated[str | None, typer.Option("--workspace", "-w", help="The workspace's id.")]


def _job_id(text: str | None) -> str | None:
    if text is None:
        return None
    if (digits := digits_of(text)) is None:
        raise typer.BadParameter(
            f"{text!r} must be a job's id, or {FEWEST} or more digits of one; "
            "`minutehand ls` lists them"
        )
    return str(uuid.UUID(digits)) if len(digits) == WHOLE else text


JobId = Annotated[
    str,
    typer.Argument(help="The job's id, or its first or last 6 digits or more.", callback=_job_id),
]
AnyJobId = Annotated[
    str | None,
    typer.Argument(
        help="A job's id, or 6 digits or more of it; without it, the workspace.", callback=_job_id
    ),
]


@contextmanager
def speaking(as_json: bool) -> Iterator[Output]:
    """An output; a failure is printed and ends the command with exit code 1."""
    output = Output(as_json=as_json)
    try:
        yield output
    except CommandFailed as failed:
        output.failure(str(failed), code=failed.code, fix=failed.fix)
        raise typer.Exit(1) from failed
    except KeyboardInterrupt as stopped:
        raise typer.Exit(130) from stopped


@contextmanager
def connected(
    as_json: bool,
    env_file: Path | None,
    token: str | None = None,
    workspace: str | None = None,
) -> Iterator[tuple[Output, Connection]]:
    """An output and a connection, closed at the end."""
    with speaking(as_json) as output:
        connection = Connection(load_values(env_file, token=token), token, workspace)
        try:
            yield output, connection
        finally:
            connection.close()


_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|min|h|d)")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> float:
    """`90s`, `5m`, `1h30m`, `2d` or plain seconds.

    Raises:
        CommandFailed: It is none of these.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _SPAN.findall(text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text:
        raise CommandFailed(
            f"{text!r} must be a time span such as 90s, 5m, 1h30m or 2d", code="bad_span"
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
