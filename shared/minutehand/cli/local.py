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
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Run the demo jobs.")] = True,
    supabase_url: Annotated[
        str | None,
        typer.Option(
            help="Run beside this Supabase, as of `supabase start`: worker, API and console only. "
            "Its keys come from the environment, as `supabase status -o env` prints them."
        ),
    ] = None,
) -> None:
    """Start the project's local stack, with reload of its processors, until Ctrl-C."""
    if importlib.util.find_spec("supabase_local") is None:  # of the extra `dev`
        raise ModuleNotFoundError(name="supabase_local")
    flags = [] if demo else ["--no-demo"]
    if supabase_url:
        flags += ["--supabase-url", supabase_url]
    os.chdir(Project.find().root)
    os.execv(sys.executable, [sys.executable, "-m", "minutehand.local", "up", *flags])
