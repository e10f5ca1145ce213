"""The workflows: who may write, what runs there, which Pythons, and which Chromium is found."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.mutate.defects import defects
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


def test_what_is_published_is_what_was_built_and_its_hashes_are_checked() -> None:
    """The second job takes the first one's files and no others."""
    build, publish = (WORKFLOWS["release.yml"]["jobs"][name] for name in ("build", "publish"))
    ran = [step["run"] for step in build["steps"] if "run" in step]

    assert ran[0] == '.ci/version "$GITHUB_REF_NAME"'  # before anything is installed
    assert ran.index(".ci/run") < ran.index("make package STAGE=prod") < ran.index("make dist")
    assert [s["uses"].split("@")[0] for s in publish["steps"] if "uses" in s] == [
        "actions/download-artifact"
    ]
    last = publish["steps"][-1]["run"]
    assert last.index("sha256sum --check --strict") < last.index("gh release create")


def test_every_python_that_is_promised_is_tested() -> None:
    """From the oldest to the newest."""
    matrix = WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]

    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_compatibility_is_tried_weekly_with_the_last_release_in_sight() -> None:
    """A release is found by its tag, which a shallow clone lacks."""
    workflow = WORKFLOWS["compatibility.yml"]
    job = workflow["jobs"]["postgres"]

    assert workflow[True]["schedule"] == [{"cron": "41 3 * * 3"}]  # YAML reads `on` as true
    assert job["steps"][0]["with"]["fetch-depth"] == 0
    assert job["steps"][-1]["run"] == "make compatibility"


def test_other_random_histories_are_tried_weekly() -> None:
    """The suite runs the same thirty each time, or it could not be repeated.

    And whole what the suite does in part.
    """
    workflow = WORKFLOWS["machine.yml"]

    assert workflow[True]["schedule"] == [{"cron": "23 4 * * 6"}]
    assert workflow["jobs"]["machine"]["steps"][-1]["run"] == "make machine"
    assert workflow["jobs"]["weekly"]["steps"][-1]["run"] == "make weekly"
    told = subprocess.run(
        ["make", "--dry-run", "machine", "SEED=7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "MACHINE_EXAMPLES=500 MACHINE_SEED=7" in told


def test_planted_defects_are_tried_weekly() -> None:
    """All of them: a survivor makes the run red."""
    workflow = WORKFLOWS["mutate.yml"]

    assert workflow[True]["schedule"] == [{"cron": "41 2 * * 0"}]
    job = workflow["jobs"]["mutate"]
    assert job["steps"][-1] == {"run": "make mutate", "env": {"ARGS": "${{ matrix.part }}:"}}
    parts = {"machine", *(each.part for each in defects())}
    assert set(job["strategy"]["matrix"]["part"]) == parts


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
