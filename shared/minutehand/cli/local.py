"""`minutehand dev`, which replaces this process by the project's local stack."""

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
            help="Run only the worker, the API and the console, with this Supabase. The "
            "environment must have its keys. A running `supabase start` is found without it."
        ),
    ] = None,
) -> None:
    """Run the project's local stack and reload its processors, until Ctrl-C."""
    if importlib.util.find_spec("supabase_local") is None:  # the extra `dev` installs this package
        raise ModuleNotFoundError(name="supabase_local")
    flags = [] if demo else ["--no-demo"]
    if supabase_url:
        flags += ["--supabase-url", supabase_url]
    os.chdir(Project.find().root)
    os.execv(sys.executable, [sys.executable, "-m", "minutehand.local", *flags])
