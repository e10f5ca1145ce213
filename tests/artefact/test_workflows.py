"""The workflows: who may write, what runs there, which Pythons, and which Chromium is found."""

from __future__ import annotations

import os
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


def test_a_version_without_its_section_in_the_changelog_is_refused(repository: Path) -> None:
    """The section says what to do."""
    (repository / "CHANGELOG.md").write_text("## [Unreleased]\n")

    done = subprocess.run(
        [repository / ".ci" / "version", f"v{VERSION}"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "no section" in done.stderr


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    """An executable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def found_chromium(tmp_path: Path, **more: str) -> str:
    """What `.ci/chromium` prints on a machine that has only what a test put there."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("sh", "readlink", "head", "grep"):
        if not (tools / name).exists():
            (tools / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [str(shutil.which("sh")), ROOT / ".ci" / "chromium"],
        env={"PATH": f"{tmp_path / 'bin'}{os.pathsep}{tools}", "HOME": str(tmp_path), **more},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def test_a_chromium_is_found_on_debian_on_ubuntu_and_of_playwright(tmp_path: Path) -> None:
    """Ubuntu's own is a snap, which tests cannot drive: Chrome or Playwright's is taken."""
    assert found_chromium(tmp_path) == ""
    snap = '#!/bin/sh\nexec /snap/bin/chromium "$@"\n'
    program(tmp_path / "bin" / "chromium-browser", snap)
    assert found_chromium(tmp_path) == ""

    own = program(
        tmp_path / ".cache/ms-playwright/chromium_headless_shell-1200"
        "/chrome-headless-shell-linux64/chrome-headless-shell"
    )
    assert found_chromium(tmp_path) == str(own)
    chrome = program(tmp_path / "bin" / "google-chrome")
    assert found_chromium(tmp_path) == str(chrome)
    debian = program(tmp_path / "bin" / "chromium")
    assert found_chromium(tmp_path) == str(debian)
    shell = program(tmp_path / "bin" / "chromium-headless-shell")
    assert found_chromium(tmp_path) == str(shell)
    assert found_chromium(tmp_path, CHROMIUM="/opt/mine") == "/opt/mine"
