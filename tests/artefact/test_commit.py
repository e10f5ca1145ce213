"""Which commit a project says its workers run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from minutehand.commit import code_environment
from minutehand.project import Project


def git(folder: Path, *arguments: str) -> str:
    """Run git with an identity of its own."""
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    return subprocess.check_output(["git", *who, *arguments], cwd=folder, text=True).strip()


def test_a_commit_and_what_is_not_committed(tmp_path: Path) -> None:
    """A file that git does not have changes nothing; a pipeline's own word stays."""
    project = Project(root=tmp_path)
    assert code_environment(project, {}) == {}
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").touch()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    (tmp_path / "notes.txt").touch()
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert code_environment(project, {}) == {"MINUTEHAND_COMMIT": commit}

    (tmp_path / "a.py").write_text("changed = True\n", "utf-8")
    assert code_environment(project, {}) == {"MINUTEHAND_COMMIT": f"{commit}-dirty"}
    assert code_environment(project, {"MINUTEHAND_COMMIT": "x"}) == {}
