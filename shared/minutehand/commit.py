"""Which commit a project's code is, as git says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from minutehand.project import Project

COMMIT = "MINUTEHAND_COMMIT"


def code_environment(project: Project, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variable by which workers say what they run; nothing where it is set, or without git.

    A commit with changes that are not committed ends in `-dirty`; untracked files do not count.
    """
    if environ.get(COMMIT) or not (commit := _git(project.root, "rev-parse", "HEAD")):
        return {}
    changed = _git(project.root, "status", "--porcelain", "--untracked-files=no")
    return {COMMIT: f"{commit}-dirty" if changed else commit}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, without blanks around it; None where it refuses or is missing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
