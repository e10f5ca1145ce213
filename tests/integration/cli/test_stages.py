"""A stage for a preview branch, added by one command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from minutehand.cli.deploy import parameters, placeholders
from minutehand.project import Project
from tests.support.command import Run
from tests.support.paths import ROOT

REF, KEY = "abcdefghijklmnopqrst", "sb_publishable_of_the_branch"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with the stages that an install writes."""
    shutil.copy(
        ROOT / "shared/minutehand/install/templates/minutehand.stages.yml",
        tmp_path / "minutehand.stages.yml",
    )
    (tmp_path / "minutehand.toml").write_text('apps = []\nschema = "minutehand"\n')
    monkeypatch.chdir(tmp_path)
    return Project.find()


run = Run(first=("stages",))


def test_a_preview_branch_gets_a_stage(project: Project) -> None:
    """Jobs enqueued in the branch's database would run nowhere else."""
    before = project.stages_file.read_text()

    said = run("add", "pr-42", "--project", REF, "--publishable-key", KEY).stdout

    assert "minutehand deploy pr-42" in said
    assert project.stages_file.read_text().startswith(before.rstrip("\n"))
    made = parameters("pr-42", project)
    assert (made["supabaseUrl"], made["supabasePublishableKey"]) == (
        f"https://{REF}.supabase.co",
        KEY,
    )
    assert "supabaseUrl" not in placeholders("pr-42", project)
    assert {row["stage"]: row["supabase"] for row in run.json("list")} == {
        **dict.fromkeys(("dev", "prod"), ""),
        "pr-42": f"https://{REF}.supabase.co",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dev", "--project", REF, "--publishable-key", KEY), "there is a stage dev already"),
        (("PR_42", "--project", REF, "--publishable-key", KEY), "cannot name a stage"),
        (("pr-42", "--project", "mine", "--publishable-key", KEY), "twenty small letters"),
        (("pr-42", "--project", REF, "--publishable-key", "sb_secret_x"), "sb_publishable_"),
    ],
)
def test_what_cannot_be_a_stage_is_refused(
    project: Project, words: tuple[str, ...], said: str
) -> None:
    """Before the file is touched."""
    before = project.stages_file.read_text()

    assert said in run("add", *words, code=1).stderr
    assert project.stages_file.read_text() == before
