"""The workflows: who may write, what runs there, which Pythons, and which Chromium is found."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from minutehand.version import VERSION
from tests.support.paths import ROOT

WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text("utf-8"))
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}
#: Programs that a job with a token that may write may start: none of them runs our code.
HARMLESS = {
    "(cd", "cp", "exit", "gh", "git", "grep", "release", "sha256sum",
}  # fmt: skip


def jobs() -> list[tuple[str, str, dict[str, Any]]]:
    """Every job with the names of its workflow and of itself."""
    return [
        (file, name, job)
        for file, workflow in WORKFLOWS.items()
        for name, job in workflow["jobs"].items()
    ]


def may_write(file: str, job: dict[str, Any]) -> bool:
    """Whether the job's token may change anything."""
    rights = job.get("permissions", WORKFLOWS[file]["permissions"])
    return "write" in rights.values()


def test_what_may_write_runs_nothing_that_was_resolved_or_built() -> None:
    """A package that was taken over would otherwise find a token that publishes."""
    writing = [(file, name, job) for file, name, job in jobs() if may_write(file, job)]

    assert {(file, name) for file, name, _ in writing} == {
        ("dependencies.yml", "propose"),
        ("release.yml", "publish"),
    }
    for file, name, job in writing:
        assert job["needs"], (file, name)
        for step in job["steps"]:
            assert step.get("uses", "actions/").startswith("actions/"), (file, name)
            assert "setup-python" not in step.get("uses", "")
            for line in step.get("run", "").splitlines():
                assert line.split()[0] in HARMLESS, (file, line)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The files that a tag is compared with."""
    for name in (".ci/version", "shared/minutehand/version.py"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    (tmp_path / "CHANGELOG.md").write_text(f"## [{VERSION}] - 2026-01-01\n")
    return tmp_path


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        (f"v{VERSION}", ""),
        ("v9.9.9", f"tag v{VERSION}, or change it"),
        (VERSION, f"tag v{VERSION}"),
        ("", "tag v"),
    ],
)
def test_a_tag_that_differs_from_the_version_is_refused(
    repository: Path, tag: str, told: str
) -> None:
    """Before anything is built."""
    done = subprocess.run(
        [repository / ".ci" / "version", tag], capture_output=True, text=True, check=False
    )

    assert (done.returncode == 0) == (told == "")
    assert told in done.stderr
