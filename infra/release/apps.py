"""Write each app's one migration from its schemas: `python -m infra.release.apps`.

An app is copied, not upgraded, so it has no history: its migration is its present text. The file
keeps its name. An app without one gets the next version after the newest migration; delete a file
to have it written after a release of the engine that it needs.
"""

from __future__ import annotations

from pathlib import Path

from infra.release.texts import Part, apps_of
from minutehand.local.migrations import history
from minutehand.project import Project
from supabase_local.migrations import migrations_in, version_of

ROOT = Path(__file__).resolve().parents[2]
HEAD = "-- Written by `python -m infra.release.apps` from schemas: do not edit it.\n"


def text_of(app: Part) -> str:
    """Return the migration of an app's schemas."""
    return "\n".join([HEAD, *(path.read_text("utf-8") for path in app.schemas)])


def main() -> None:
    """Write the migration of every app."""
    for app in apps_of(ROOT):
        folder = app.home / "migrations"
        folder.mkdir(exist_ok=True)
        newest = max(int(version_of(each)) for each in history(Project.at(ROOT)))
        new = folder / f"{newest + 1}_{app.name}.sql"
        path = next(iter(migrations_in(folder)), new)
        path.write_text(text_of(app), "utf-8")


if __name__ == "__main__":
    main()
