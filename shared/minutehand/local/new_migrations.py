"""Applies migrations that are written while the stack is up, once their files have settled."""

from __future__ import annotations

from collections.abc import Callable

from minutehand.local.migrations import (
    MigrationFailed,
    apply_migrations,
    attach_extensions,
    find_migrations,
)
from minutehand.project import Project

Stamp = tuple[tuple[str, int, int], ...]


class NewMigrations:
    """What is in the migration folders, and what of it was applied.

    Args:
        owner_url: Of the role that shall own the objects, see `apply_migrations`.
        say: Told what was applied, and once what a file's mistake is.
    """

    def __init__(self, owner_url: str, project: Project, say: Callable[[str], None]) -> None:
        self._owner_url = owner_url
        self._project = project
        self._say = say
        self._done = self._stamp()
        self._seen = self._done

    def look(self) -> None:
        """Apply what is new and unchanged since the last check: an editor may still be writing."""
        stamp = self._stamp()
        settled = stamp == self._seen
        self._seen = stamp
        if not settled or stamp == self._done:
            return
        self._done = stamp
        try:
            applied = apply_migrations(self._owner_url, find_migrations(self._project))
        except MigrationFailed as failed:
            self._say(f"[bold red]migration not applied[/]: {_plain(str(failed))}")
            return
        if applied:
            attach_extensions(self._owner_url, self._project)
        for migration in applied:
            self._say(f"migration applied: {migration.path.name}")

    def _stamp(self) -> Stamp:
        found = []
        for migration in find_migrations(self._project):
            try:
                facts = migration.path.stat()
            except FileNotFoundError:
                continue  # removed meanwhile
            found.append((str(migration.path), facts.st_mtime_ns, facts.st_size))
        return tuple(found)


def _plain(text: str) -> str:
    """SQL's brackets are not the console's markup."""
    return text.replace("[", "\\[")
