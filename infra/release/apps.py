"""Writes the migration of each app from its schemas: `python -m infra.release.apps`.

A project copies an app and never upgrades the copy, so that an app's migration is the app's current
schema, without a history. When an app's schema changes, the migration's file keeps its name. The
migration of a new app gets the version after the newest migration. If an app needs a newer release
of the engine, first delete the app's migration, so that the new file gets a later version.
"""

from pathlib import Path

from infra.release.texts import Part, apps_of
from minutehand.local.migrations import history
from minutehand.project import Project
from supabase_local.migrations import migrations_in, version_of

ROOT = Path(__file__).resolve().parents[2]
HEAD = "-- Written by `python -m infra.release.apps` from schemas: do not edit it.\n"


def migration_text(app: Part) -> str:
    """Return the migration that creates an app's schemas."""
    return "\n".join([HEAD, *(path.read_text() for path in app.schemas)])


def main() -> None:
    """Write the migration of each app."""
    for app in apps_of(ROOT):
        folder = app.home / "migrations"
        folder.mkdir(exist_ok=True)
        newest = max(int(version_of(path)) for path in history(Project.at(ROOT)))
        new_path = folder / f"{newest + 1}_{app.name}.sql"
        path = next(iter(migrations_in(folder)), new_path)
        path.write_text(migration_text(app))


if __name__ == "__main__":
    main()
