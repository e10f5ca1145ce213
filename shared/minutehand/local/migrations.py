"""Lists the SQL files of a project: migrations (in a checkout, the current schemas) and seeds.

This module only lists files, so that it does not import `supabase_local`.
"""

from collections.abc import Collection
from pathlib import Path

from minutehand.app import built_in, find_apps
from minutehand.install.catalog import ENGINE
from minutehand.install.sources import migration_files, version_of
from minutehand.project import Project
from minutehand.resources import checkout


def find_migrations(project: Project | None = None) -> list[Path]:
    """List the SQL files that create a project's database, in the order of their execution.

    In a checkout, the files are the current schemas of the engine and the apps. In a project, the
    files are the project's migrations, which contain the installed engine.
    """
    project = project or Project.find()
    if checkout() != project.root:
        return migration_files(project.root / "supabase" / "migrations")
    apps = (app.folder / "schemas" for app in find_apps(project.apps))
    return migration_files(project.root / "supabase" / "schemas", *apps)


def find_applied(project: Project, versions: Collection[str]) -> list[Path]:
    """List the SQL files that created a database whose applied migrations have these versions.

    A checkout creates its local database from the current schemas, and the database of its hosted
    project from the migrations of the releases.
    """
    present = find_migrations(project)
    if checkout() != project.root or any(
        version_of(migration) in versions for migration in present
    ):
        return present
    return history(project)


def history(project: Project) -> list[Path]:
    """List the migrations of all releases, which the hosted project of this checkout applies."""
    apps = (app.folder / "migrations" for app in find_apps(project.apps))
    return migration_files(project.root / "supabase" / "migrations", *apps)


def find_recorded(project: Project) -> dict[str, list[Path]]:
    """List a checkout's SQL files of the engine and of Minutehand's apps, by name of the part."""
    app_folders = {app.name: app.folder for app in built_in(project.apps)}
    migrations = find_migrations(project)
    return {
        name: [migration for migration in migrations if migration.is_relative_to(folder)]
        for name, folder in {ENGINE: project.root / "supabase", **app_folders}.items()
    }
