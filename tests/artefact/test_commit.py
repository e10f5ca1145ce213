"""Which commit a project says its workers run, and where its files are read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from minutehand.commit import code_environment, repository_url
from minutehand.project import Project


def git(folder: Path, *arguments: str) -> str:
    """Run git with an identity of its own."""
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in a folder of a repository, its app below src."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "remote", "add", "origin", "git@github.com:acme/app.git")
    (tmp_path / "service" / "src" / "billing").mkdir(parents=True)
    (tmp_path / "service" / "src" / "billing" / "__init__.py").touch()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    return Project(root=tmp_path / "service", apps=("billing",))


def test_a_commit_and_where_its_files_are_read(project: Project) -> None:
    """Below the folder that tracebacks name files from."""
    commit = git(project.root, "rev-parse", "HEAD")

    assert code_environment(project, {}) == {
        "MINUTEHAND_COMMIT": commit,
        "MINUTEHAND_SOURCE": f"https://github.com/acme/app/blob/{commit}/service/src",
    }


def test_what_is_not_committed_has_no_address(project: Project) -> None:
    """Its lines are in no commit; a file that git does not have changes nothing."""
    (project.root / "notes.txt").touch()
    assert "MINUTEHAND_SOURCE" in code_environment(project, {})
    (project.root / "src" / "billing" / "__init__.py").write_text("changed = True\n", "utf-8")

    [(name, commit)] = code_environment(project, {}).items()
    assert (name, commit[40:]) == ("MINUTEHAND_COMMIT", "-dirty")


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("git@github.com:acme/app.git", "https://github.com/acme/app"),
        ("https://ada:token@git.example.com/app.git", "https://git.example.com/app"),
        ("ssh://git@git.example.com:2222/acme/app", "https://git.example.com/acme/app"),
        ("/srv/git/app.git", None),
    ],
)
def test_a_remote_as_an_address_without_credentials(remote: str, url: str | None) -> None:
    """A token in a remote must not reach a page."""
    assert repository_url(remote) == url
