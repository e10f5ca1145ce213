"""The commit and the deploy time that a project's workers report."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from minutehand.commit import code_environment
from minutehand.project import Project


def git(folder: Path, *arguments: str) -> str:
    """Run git as the user Ada."""
    author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    return subprocess.check_output(["git", *author, *arguments], cwd=folder, text=True).strip()


def test_a_commit_and_what_is_not_committed(tmp_path: Path) -> None:
    """A worker's commit says whether files were changed since, and ignores untracked files.

    Variables of a pipeline have precedence.
    """
    project = Project(root=tmp_path)
    assert code_environment(project, {}) == {}
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").touch()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    (tmp_path / "notes.txt").touch()
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert code_environment(project, {})["MINUTEHAND_COMMIT"] == commit

    (tmp_path / "a.py").write_text("changed = True\n")
    assert code_environment(project, {})["MINUTEHAND_COMMIT"] == f"{commit}-dirty"
    environ = {"MINUTEHAND_COMMIT": "x", "MINUTEHAND_DEPLOYED_AT": "2026-01-01T00:00:00Z"}
    assert code_environment(project, environ) == {}


def test_a_checkout_is_deployed_when_it_comes_to_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deploy time is the time at which the checkout came to its commit.

    A roll-back to an older commit is also a deploy.
    """
    project = Project(root=tmp_path)
    git(tmp_path, "init", "-q")
    instants = []
    for hour, action in enumerate(
        (
            ("commit", "-q", "--allow-empty", "-m", "one"),
            ("commit", "-q", "--allow-empty", "-m", "two"),
            ("checkout", "-q", "HEAD~1"),
        )
    ):
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2026-01-01T0{hour}:00:00+00:00")
        git(tmp_path, *action)
        times = [code_environment(project, {})["MINUTEHAND_DEPLOYED_AT"] for _ in range(2)]
        assert times[0] == times[1]
        instants.append(datetime.fromisoformat(times[0]))

    assert instants == [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(3)]
