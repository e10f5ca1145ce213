"""`minutehand types --out`: TypeScript types of a project's job types, from their models."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from minutehand.cli.typescript import TypedJob, write_declarations
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.output import Output
from minutehand.worker.registry import Registry

#: Processors are only inspected: nothing is called, so any address and key will do.
_UNUSED = {
    "SUPABASE_URL": "http://127.0.0.1:54321",
    "SUPABASE_PUBLISHABLE_KEY": "unused",
    "SUPABASE_WORKER_KEY": "unused",
}


def write(output: Output, out: Path, *, check: bool) -> None:
    """Write payload and result types for TypeScript: `enqueue` then knows your job types.

    They come from the processors' models, as published to the database. Put the file where your
    tsconfig.json includes it, and `--check` into your continuous integration.
    """
    jobs = find_typed_jobs(Project.find())
    text = write_declarations(jobs)
    try:
        present = out.read_text("utf-8") if out.is_file() else None
        if check and present != text:
            raise CommandFailed(
                f"{out} is {'missing' if present is None else 'out of date'}",
                code="out_of_date",
                fix=f"minutehand types --out {out}",
            )
        if present != text:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text, "utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{out} cannot be used: {error}", code="no_file") from error
    changed = present != text
    output.value(
        {"file": str(out), "job_types": [job.name for job in jobs], "changed": changed},
        text=f"{out}: {len(jobs)} job types, {'written' if changed else 'up to date'}",
    )


def find_typed_jobs(project: Project) -> list[TypedJob]:
    """The job types that people enqueue, by name; the platform's own are omitted."""
    kinds = sorted(
        (kind for kind in registry_of(project) if not kind.internal), key=lambda kind: kind.name
    )
    return [TypedJob(kind.name, kind.adapter.json_schema(), kind.result_schema()) for kind in kinds]


def registry_of(project: Project) -> Registry:
    """The processors of a project, without a connection to anything."""
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
