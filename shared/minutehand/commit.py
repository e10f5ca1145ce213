"""Which commit a project's code is, and since when, as git says."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from minutehand.project import Project

COMMIT, DEPLOYED_AT = "MINUTEHAND_COMMIT", "MINUTEHAND_DEPLOYED_AT"


def code_environment(project: Project, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables by which workers say what they run; none that is set, and none without git.

    A commit with changes that are not committed ends in `-dirty`; untracked files do not count. It
    was deployed when the checkout came to it, by a pull, a commit or a roll-back: no start of a
    process changes that.
    """
    found: dict[str, str] = {}
    if not environ.get(COMMIT) and (commit := _git(project.root, "rev-parse", "HEAD")):
        changed = _git(project.root, "status", "--porcelain", "--untracked-files=no")
        found[COMMIT] = f"{commit}-dirty" if changed else commit
    if not environ.get(DEPLOYED_AT):
        moved = _git(project.root, "log", "-g", "-1", "--date=iso-strict", "--format=%gd", "HEAD")
        if moved and (instant := re.search(r"@\{(.+)\}", moved)):
            found[DEPLOYED_AT] = instant[1]
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, without blanks around it; None where it refuses or is missing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
