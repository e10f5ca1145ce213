"""`minutehand init`, which creates files for a processor and its test, and overwrites no file.

`minutehand init` writes the files into the package that minutehand.toml names. In a clone of
Minutehand's repository, the command creates a new app.
"""

import keyword
import os
import re
from typing import Annotated

import typer

from minutehand.install.own_tables import own_tables
from minutehand.install.project import Plan, package_folder, processor_files
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output


@verb
def init(
    output: Output,
    job_type: Annotated[str, typer.Argument(help="<app>.<verb>, e.g. greetings.send.")],
    reads: Annotated[
        str,
        typer.Option(help="Your tables in `public` that the processor reads, e.g. leads,notes."),
    ] = "",
    writes: Annotated[
        str, typer.Option(help="Your tables in `public` that the processor reads and writes.")
    ] = "",
    tenant: Annotated[
        str,
        typer.Option(
            help="The column of the tenant's id in these tables; default: the name that your "
            "memberships use."
        ),
    ] = "",
) -> None:
    """Scaffold a processor and its test; with --reads or --writes, one that uses your tables."""
    app, _, name = job_type.partition(".")
    match = re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*", job_type)
    if not match or keyword.iskeyword(app) or keyword.iskeyword(name):
        raise CommandFailed(
            f"{job_type!r} must be <app>.<verb> in lower case, without Python keywords",
            code="bad_name",
            fix="e.g. greetings.send",
        )
    project = Project.find()
    folders = (
        (source, package)
        for package in project.packages
        for source in project.import_roots
        if package_folder(source, package).is_dir()
    )
    source, package = next(folders, (project.root / "shared", f"minutehand_apps.{app}"))
    if reads or writes:
        plan = own_tables(
            project, source, package, job_type, reads=reads, writes=writes, tenant=tenant
        )
    else:
        plan = Plan(tuple(processor_files(source, package, job_type)), ('{"name": "Ada"}',))
    plan.apply()
    paths = [str(write.path.relative_to(project.root)) for write in plan.files]
    lines = [
        *paths,
        f"Its tests: pytest {os.path.relpath(package_folder(source, package))}",
        "A running local stack loads it within seconds, a deployed stack at the next deploy.",
        f"Run it: minutehand enqueue {job_type} '{plan.hints[0]}' --watch",
    ]
    output.value({"job_type": job_type, "written": paths}, text="\n".join(lines))
