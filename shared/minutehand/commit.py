"""Which commit a project's code is, as git says, and where its files can be read in a browser."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from minutehand.project import Project

COMMIT, SOURCE = "MINUTEHAND_COMMIT", "MINUTEHAND_SOURCE"
#: What stands between a repository's address and a commit, by its host; GitHub's elsewhere.
_BLOB = {"gitlab": "/-/blob/", "bitbucket": "/src/"}


def code_environment(project: Project, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables by which workers say what they run; those that are set already stay.

    Without git, or outside a repository, nothing. A commit with changes that are not committed
    ends in `-dirty`, and has no address. Untracked files do not count.
    """
    if environ.get(COMMIT):
        return {name: environ[name] for name in (COMMIT, SOURCE) if environ.get(name)}
    commit = _git(project.root, "rev-parse", "HEAD")
    if not commit:
        return {}
    if _git(project.root, "status", "--porcelain", "--untracked-files=no"):
        return {COMMIT: f"{commit}-dirty"}
    base = repository_url(_git(project.root, "remote", "get-url", "origin") or "")
    if base is None:
        return {COMMIT: commit}
    host = base.split("/")[2]
    blob = next((each for name, each in _BLOB.items() if name in host), "/blob/")
    folder = source_folder(project).relative_to(project.root).as_posix()
    inside = (_git(project.root, "rev-parse", "--show-prefix") or "") + folder
    return {COMMIT: commit, SOURCE: f"{base}{blob}{commit}/{inside}".rstrip("/.")}


def source_folder(project: Project) -> Path:
    """The folder below which tracebacks name files: that of the project's own packages."""
    names = {app.partition(".")[0] for app in project.apps}
    for root in reversed(project.import_roots):
        if any((root / name).is_dir() or (root / f"{name}.py").is_file() for name in names):
            return root
    return project.root


def repository_url(remote: str) -> str | None:
    """A remote as git names it, as an address for browsers, without credentials; None for others.

    `git@github.com:acme/app.git` is `https://github.com/acme/app`.
    """
    found = re.fullmatch(
        r"(?:(?:https?|ssh|git)://)?(?:[^@/]+@)?([A-Za-z0-9.-]+\.[A-Za-z0-9-]+)(?::\d+(?=/))?[:/]"
        r"([A-Za-z0-9._~/+-]+?)(?:\.git)?/?",
        remote.strip(),
    )
    return f"https://{found[1]}/{found[2].lstrip('/')}" if found else None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, without blanks around it; None where it refuses or is missing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
