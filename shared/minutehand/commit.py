"""The commit of a project's code and the time of its deploy, which git reports."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from minutehand.project import Project

COMMIT, DEPLOYED_AT = "MINUTEHAND_COMMIT", "MINUTEHAND_DEPLOYED_AT"


def code_environment(project: Project, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables in which workers find the commit of their code and its deploy's time.

    Variables that are already set are not returned. Without git, no variables are returned. The
    name of a commit ends in `-dirty` if tracked files have uncommitted changes. The deploy's time
    is the time at which a pull, a commit or a roll-back moved the checkout to the commit, so that a
    restart of a process does not change it.
    """
    values: dict[str, str] = {}
    if not environ.get(COMMIT) and (commit := _git(project.root, "rev-parse", "HEAD")):
        changed = _git(project.root, "status", "--porcelain", "--untracked-files=no")
        values[COMMIT] = f"{commit}-dirty" if changed else commit
    if not environ.get(DEPLOYED_AT):
        moved = _git(project.root, "log", "-g", "-1", "--date=iso-strict", "--format=%gd", "HEAD")
        if moved and (timestamp := re.search(r"@\{(.+)\}", moved)):
            values[DEPLOYED_AT] = timestamp[1]
    return values


def _git(folder: Path, *arguments: str) -> str | None:
    """Return git's output without surrounding blanks. Return None if git fails or is missing."""
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
