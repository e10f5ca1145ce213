"""Brings a project's installed migrations to this version: adds files, changes none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from minutehand.install.project import Answers, Write, missing_files
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import (
    ENGINE_ORIGIN,
    Installed,
    InstallError,
    changelog,
    installed,
    not_installed,
    ordinal,
    sections_between,
    sources,
)
from minutehand.install.tenancy import Existing, Personal, Tenants
from minutehand.project import Project, Tenancy
from minutehand.version import VERSION


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade adds, and what it says."""

    since: str
    writes: tuple[Write, ...]
    #: Sections of the changelog after `since`, newest first.
    changes: str


def plan_upgrade(folder: Path, *, now: datetime, keep_edited: bool = False) -> Upgrade:
    """Compare the project's files with this version's.

    Args:
        keep_edited: Leave files that were edited as they are, and continue.

    Raises:
        InstallError: Nothing is installed, a newer version is, or a file was edited.
    """
    have = installed(folder)
    if not any(file.origin.startswith(f"{ENGINE_ORIGIN}/") for file in have):
        raise not_installed(folder, fix="minutehand install")
    since = max((file.version for file in have), key=ordinal)
    if ordinal(since) > ordinal(VERSION):
        raise InstallError(
            f"the project has files of {since}, newer than this {VERSION}",
            code="older_version",
            fix=f'pip install "minutehand>={since}"',
        )
    project = Project.at(folder)
    schemas = Schemas(project.schema_)
    answers = Answers(schemas, tenants_of(project))
    if not keep_edited:
        _check_unchanged(have, answers)
    return Upgrade(
        since,
        tuple(missing_files(folder, answers, now=now)),
        sections_between(changelog(), since, VERSION),
    )


def tenants_of(project: Project) -> Tenants:
    """Who the tenants of an installed project are; their own part of it is never written again."""
    kinds: dict[Tenancy, type[Tenants]] = {
        "existing": Existing,
        "personal": Personal,
        "workspaces": Tenants,
    }
    return kinds[project.tenancy]()


def _check_unchanged(have: list[Installed], answers: Answers) -> None:
    written = sources(answers.schemas, answers.tenants)
    known = {source.origin: source.digest for source in written}
    for file in have:
        name = file.path.name
        if file.edited:
            raise InstallError(
                f"{file.origin} in {name} was edited after it was installed",
                code="edited",
                fix="put the change into a migration of your own and restore the file (git checkout"
                f" -- supabase/migrations/{name}); or keep it: minutehand upgrade --keep-edited",
            )
        if file.expected is not None and known.get(file.origin) != file.expected:
            raise InstallError(
                f"{name} does not have the {file.origin} of {VERSION}: released files never change",
                code="other_build",
                fix="install a released version of minutehand, with the answers in minutehand.toml"
                " as they were; or keep it: minutehand upgrade --keep-edited",
            )
