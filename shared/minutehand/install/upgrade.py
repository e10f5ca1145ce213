"""Upgrades a project's migrations to this version by new files, without changing existing files."""

from pathlib import Path

from minutehand.app import built_in
from minutehand.install.errors import InstallError
from minutehand.install.project import Plan, plan_migrations
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import ordinal, require_installed, sources_since, upgrade_migrations
from minutehand.project import Project
from minutehand.version import VERSION


def plan_upgrade(folder: Path, *, keep_edited: bool) -> tuple[str, Plan]:
    """Return the installed release, and plan the migrations that the project does not have.

    Args:
        keep_edited: True to continue and keep the edits if someone has edited installed files.

    Raises:
        InstallError: The engine is not installed, a newer version is installed, or someone has
            edited an installed file.
    """
    parts = require_installed(folder)
    since = max((part.version for part in parts), key=ordinal)
    if ordinal(since) > ordinal(VERSION):
        raise InstallError(
            f"the project has files of {since}, which is newer than this version, {VERSION}",
            code="older_version",
            fix=f'pip install "minutehand>={since}"',
        )
    project = Project.at(folder)
    for part in () if keep_edited else parts:
        if part.is_modified:
            name = part.path.name
            raise InstallError(
                f"{part.origin} in {name} was edited after it was installed",
                code="edited",
                fix="put the change into a migration of your own and restore the file (git checkout"
                f" -- supabase/migrations/{name}); or keep it: minutehand upgrade --keep-edited",
            )
    schemas, apps = Schemas(project.schema_), built_in(project.without)
    missing = sources_since(since, schemas, apps)
    migrations = upgrade_migrations(missing, schemas, apps) if missing else []
    return since, Plan(tuple(plan_migrations(folder, migrations)))
