"""`minutehand init`: one more processor and its test, ready to run; it overwrites nothing.

It goes into the package that minutehand.toml names, in the clone into an app of its own.
"""

from __future__ import annotations

import keyword
import os
import re
from typing import Annotated

import typer

from minutehand.install.own_tables import own_tables
from minutehand.install.project import Plan, package_folder, processor_files
from minutehand.install.sources import InstallError
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output


@verb
def init(
    output: Output,
    job_type: Annotated[str, typer.Argument(help="<app>.<verb>, e.g. greetings.send.")],
    reads: Annotated[str, typer.Option(help="Own tables of public, e.g. leads,notes.")] = "",
    writes: Annotated[str, typer.Option(help="As --reads; what is written is read as well.")] = "",
    tenant: Annotated[
        str, typer.Option(help="Their column of the tenant's id; default: as in your memberships.")
    ] = "",
) -> None:
    """Scaffold one processor and its test, or with --reads, --writes one over tables of yours."""
    app, _, name = job_type.partition(".")
    named = re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*", job_type)
    if not named or keyword.iskeyword(app) or keyword.iskeyword(name):
        raise CommandFailed(
            f"{job_type!r} must be <app>.<verb> in lower case, no words of Python",
            code="bad_name",
            fix="e.g. greetings.send",
        )
    project = Project.find()
    homes = (
        (source, package)
        for package in project.packages
        for source in project.import_roots
        if package_folder(source, package).is_dir()
    )
    source, package = next(homes, (project.root / "shared", f"minutehand_apps.{app}"))
    try:
        if reads or writes:
            plan = own_tables(
                project, source, package, job_type, reads=reads, writes=writes, tenant=tenant
            )
        else:
            plan = Plan(tuple(processor_files(source, package, job_type)), ('{"name": "Ada"}',))
        plan.apply()
    except InstallError as error:
        raise CommandFailed(str(error), code=error.code, fix=error.fix) from error
    written = [str(write.path.relative_to(project.root)) for write in plan.writes]
    lines = [
        *written,
        f"Its tests: pytest {os.path.relpath(package_folder(source, package))}",
        "A running local stack finds it within seconds, a deployed one with the next deploy.",
        f"Run it: minutehand enqueue {job_type} '{plan.notes[0]}' --watch",
    ]
    output.value({"job_type": job_type, "written": written}, text="\n".join(lines))
