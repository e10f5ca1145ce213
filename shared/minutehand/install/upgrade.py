"""Brings a project's installed migrations to this version: adds files, changes none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from minutehand.install.project import Answers, FileWrite, missing_files
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import (
    InstallError,
    installed,
    installed_release,
    not_installed,
    ordinal,
)
from minutehand.install.tenancy import ExistingTenants, PersonalTenants, Tenants
from minutehand.project import Project
from minutehand.version import VERSION


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade adds, and what it says."""

    since: str
    writes: tuple[FileWrite, ...]


def plan_upgrade(folder: Path, *, now: datetime, keep_edited: bool = False) -> Upgrade:
    """Compare the project's files with this version's.

    Args:
        keep_edited: Leave files that were edited as they are, and continue.

    Raises:
        InstallError: Nothing is installed, a newer version is, or a file was edited.
    """
    since = installed_release(folder)
    if since is None:
        raise not_installed(folder, fix="minutehand install")
    if ordinal(since) > ordinal(VERSION):
        raise InstallError(
            f"the project has files of {since}, newer than this {VERSION}",
            code="older_version",
            fix=f'pip install "minutehand>={since}"',
        )
    project = Project.at(folder)
    answers = Answers(Schemas(project.schema_), tenants_of(project), without=project.without)
    for file in () if keep_edited else installed(folder):
        if file.edited:
            name = file.path.name
            raise InstallError(
                f"{file.origin} in {name} was edited after it was installed",
                code="edited",
                fix="put the change into a migration of your own and restore the file (git checkout"
                f" -- supabase/migrations/{name}); or keep it: minutehand upgrade --keep-edited",
            )
    return Upgrade(since, tuple(missing_files(folder, answers, now=now)))


def tenants_of(project: Project) -> Tenants:
    """Who the tenants of an installed project are; their own part of it is never written again."""
    kinds: dict[str, type[Tenants]] = {"existing": ExistingTenants, "personal": PersonalTenants}
    return kinds.get(project.tenancy, Tenants)()
