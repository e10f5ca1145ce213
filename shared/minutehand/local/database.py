"""Applies the migrations of the engine and of the apps, and the seeds, to a local database."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import psycopg

from minutehand.app import find_apps
from minutehand.install.catalog import record_catalog, record_file
from minutehand.local.migrations import find_migrations, find_recorded
from minutehand.project import Project
from minutehand.resources import checkout
from supabase_local.config import Config
from supabase_local.migrations import MigrationFailed, apply_migrations


def apply_project(url: str, project: Project | None = None) -> list[Path]:
    """Apply a project's pending migrations. In a checkout, also record the database's objects.

    Args:
        url: URL of the database. `apply_migrations` documents the errors.
        project: By default, this is the project of the current folder.
    """
    project = project or Project.find()
    migrations = find_migrations(project)
    if checkout() != project.root:
        return apply_migrations(url, migrations)
    applied = apply_recorded(url, find_recorded(project), record_file(project.root))
    return [*applied, *apply_migrations(url, migrations)]


def apply_recorded(url: str, parts: Mapping[str, Iterable[Path]], record: Path) -> list[Path]:
    """Apply the SQL of each part (the engine or an app), and record the objects that it creates."""
    new_files: list[Path] = []
    for name, files in parts.items():
        if changed := apply_migrations(url, files):
            with psycopg.connect(url, autocommit=True) as connection:
                record_catalog(connection, record, name)
        new_files += changed
    return new_files


def check_engine(url: str, project: Project) -> None:
    """Raise MigrationFailed if the engine is not installed in the database."""
    with psycopg.connect(url) as connection:
        function = f"{project.schema_}.lease_jobs"
        row = connection.execute("select to_regproc(%s)", (function,)).fetchone()
    if row is None or row[0] is None:
        raise MigrationFailed(
            f"Minutehand is not installed in schema {project.schema_}. `minutehand install` copies"
            " its migrations into supabase/migrations"
        )


def seed_files(project: Project | None = None) -> list[Path]:
    """List the seeds of a project and of its apps, in the order in which they run."""
    project = project or Project.find()
    app_seeds = (path for app in find_apps(project.apps) for path in app.files("seeds"))
    return [*Config.read(project.root).seeds(), *app_seeds]
