"""The migrations and seeds of a project: its own, or in the checkout the engine's and the apps'.

Only file names are read here, so that the command can do so without a local Supabase.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from minutehand.app import built_in, find_apps
from minutehand.install.catalog import ENGINE
from minutehand.install.sources import FILE_NAME
from minutehand.project import Project
from minutehand.resources import checkout


def find_migrations(project: Project | None = None) -> list[Path]:
    """List what makes a project's database, in the order of applying.

    In the checkout the present text of the engine and of the apps; else the project's migrations,
    which hold what was installed.
    """
    project = project or Project.find()
    if checkout() != project.root:
        return _sorted(project.root / "supabase" / "migrations")
    apps = (app.folder / "schemas" for app in find_apps(project.apps))
    return _sorted(project.root / "supabase" / "schemas", *apps)


def find_applied(project: Project, applied: Collection[str]) -> list[Path]:
    """List the files of a project of which a database has these versions.

    The checkout's own stack is built from the present text, a hosted project of its from history.
    """
    present = find_migrations(project)
    if checkout() != project.root or any(version_of(each) in applied for each in present):
        return present
    return history(project)


def history(project: Project) -> list[Path]:
    """List what a hosted project of this checkout applies: the migrations of each release."""
    apps = (app.folder / "migrations" for app in find_apps(project.apps))
    return _sorted(project.root / "supabase" / "migrations", *apps)


def version_of(migration: Path) -> str:
    """Return the version that a migration's file name begins with."""
    return migration.name.partition("_")[0]


def find_recorded(project: Project) -> dict[str, list[Path]]:
    """List the files of the engine and of this package's apps in a checkout, by their name."""
    homes = {app.name: app.folder for app in built_in(project.apps)}
    wanted = find_migrations(project)
    return {
        name: [each for each in wanted if each.is_relative_to(home)]
        for name, home in {ENGINE: project.root / "supabase", **homes}.items()
    }


def seeds_of_apps(project: Project) -> list[Path]:
    """List the apps' own seeds, in the order in which they run."""
    return [path for app in find_apps(project.apps) for path in app.files("seeds")]


def _sorted(*folders: Path) -> list[Path]:
    found = (path for folder in folders for path in folder.glob("*.sql"))
    files = (path for path in found if path.is_file() and FILE_NAME.match(path.name))
    return sorted(files, key=lambda path: path.name)
