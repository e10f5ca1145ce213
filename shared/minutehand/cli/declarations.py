"""`minutehand types --out`: TypeScript types of a project's job types, from their models."""

from __future__ import annotations

import os
from pathlib import Path

from minutehand.cli.typescript import TypedJob, write_declarations
from minutehand.config import ConfigurationError, Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.output import Output

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

    Raises:
        CommandFailed: With `check` the file is not up to date, or it cannot be used.
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
    """The job types that people enqueue, by name; the platform's own are omitted.

    Raises:
        CommandFailed: A processor's module cannot be imported or refuses the settings.
    """
    environ = {**_UNUSED, **os.environ, **project.environment}
    try:
        registry = load_processors(Settings.from_env(environ))
    except (ConfigurationError, ImportError) as error:
        raise CommandFailed(
            f"the processors cannot be loaded: {error}", code="no_processors"
        ) from error
    kinds = sorted((kind for kind in registry if not kind.internal), key=lambda kind: kind.name)
    return [TypedJob(kind.name, kind.adapter.json_schema(), kind.result_schema()) for kind in kinds]
