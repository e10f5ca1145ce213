"""Upgrades a project's migrations to this version by new files, without changing existing files."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from minutehand.app import built_in
from minutehand.install.project import Plan, plan_migrations
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import (
    InstallError,
    installed,
    installed_release,
    not_installed,
    ordinal,
    sources_since,
    upgrade_migrations,
)
from minutehand.project import Project
from minutehand.version import VERSION


def plan_upgrade(folder: Path, *, now: datetime, keep_edited: bool) -> tuple[str, Plan]:
    """Return the installed release, and plan the migrations that the project does not have.

    Args:
        keep_edited: True to continue and keep the edits if someone has edited installed files.

    Raises:
        InstallError: The engine is not installed, a newer version is installed, or someone has
            edited an installed file.
    """
    since = installed_release(folder)
    if since is None:
        raise not_installed(folder, fix="minutehand install")
    if ordinal(since) > ordinal(VERSION):
        raise InstallError(
            f"the project has files of {since}, which is newer than this version, {VERSION}",
            code="older_version",
            fix=f'pip install "minutehand>={since}"',
        )
    project = Project.at(folder)
    for file in () if keep_edited else installed(folder):
        if file.is_modified:
            name = file.path.name
            raise InstallError(
                f"{file.origin} in {name} was edited after it was installed",
                code="edited",
                fix="put the change into a migration of your own and restore the file (git checkout"
                f" -- supabase/migrations/{name}); or keep it: minutehand upgrade --keep-edited",
            )
    schemas, apps = Schemas(project.schema_), built_in(project.without)
    missing = sources_since(since, schemas, apps)
    migrations = upgrade_migrations(missing, schemas, apps) if missing else []
    return since, Plan(tuple(plan_migrations(folder, migrations, now=now)))
