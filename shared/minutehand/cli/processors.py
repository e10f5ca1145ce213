"""The processors of a project, loaded without a connection to anything."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.worker.registry import Registry

#: Processors are only inspected: nothing is called, so any address and key will do.
_UNUSED = {
    "SUPABASE_URL": "http://127.0.0.1:54321",
    "SUPABASE_PUBLISHABLE_KEY": "unused",
    "SUPABASE_WORKER_KEY": "unused",
}


def registry_of(project: Project) -> Registry:
    """The registry that holds them."""
    environ = {**_UNUSED, **os.environ, **project.environment}
    try:
        return load_processors(Settings.from_env(environ))
    except Exception as error:  # a user's module may raise anything
        raise CommandFailed(
            f"the processors cannot be loaded: {type(error).__name__}: {error}",
            code="no_processors",
            fix=place_of(error, project),
        ) from error


def place_of(error: Exception, project: Project) -> str | None:
    """Where to look: the innermost line of the project's own code; None where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"correct {error.filename}, line {error.lineno}"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(project.root)
        and "site-packages" not in frame.filename
    ]
    return f"correct {own[-1].filename}, line {own[-1].lineno}" if own else None
