"""`minutehand doctor`; what it looks with takes half a second to import, and its help does not."""

from __future__ import annotations

from typing import Annotated

import typer

from minutehand.terminal.options import EnvFile, Region, verb
from minutehand.terminal.output import Output


@verb
def doctor(
    output: Output,
    *,
    stage: Annotated[
        str | None,
        typer.Option(help="Also check this deployed stage, and prove it with a throw-away job."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only this check; repeatable.")
    ] = None,
    region: Region = "us-east-1",
    env_file: EnvFile = None,
) -> None:
    """Find what is misconfigured and name its fix; nothing stays changed."""
    from minutehand.cli.doctor.report import report

    if report(output, stage, only or (), region, env_file):
        raise typer.Exit(1)
