"""`minutehand up`: the local stack in the foreground, in place of this process."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from minutehand.project import Project


def up(
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Exit when the demo jobs have ended.")
    ] = False,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Run the demo jobs.")] = True,
    on_lambda: Annotated[
        bool, typer.Option("--lambda", help="Run the functions as Lambda does.")
    ] = False,
) -> None:
    """Start the local stack, until Ctrl-C."""
    flags = [
        *(["--once"] if once else []),
        *([] if demo else ["--no-demo"]),
        *(["--lambda"] if on_lambda else []),
    ]
    os.chdir(Project.find().root)
    os.execv(sys.executable, [sys.executable, "-m", "minutehand.local", "up", *flags])
