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
    other = run.json("add", "pr-43", "--project", REF, "--publishable-key", KEY)

    assert "minutehand deploy pr-42" in said
    assert other == {"stage": "pr-43", "supabaseUrl": f"https://{REF}.supabase.co"}
    assert project.stages_file.read_text().startswith(before.rstrip("\n"))
    made = parameters("pr-42", project)
    assert (made["supabaseUrl"], made["supabasePublishableKey"]) == (
        f"https://{REF}.supabase.co",
        KEY,
    )
    assert "supabaseUrl" not in placeholders("pr-42", project)
    assert {row["stage"]: row["supabase"] for row in run.json("list")} == {
        **dict.fromkeys(("dev", "prod"), ""),
        **dict.fromkeys(("pr-42", "pr-43"), f"https://{REF}.supabase.co"),
    }


@pytest.mark.parametrize(
    ("name", "ref", "key", "code"),
    [
        ("dev", REF, KEY, "stage_exists"),
        ("default", REF, KEY, "stage_exists"),
        ("PR_42", REF, KEY, "bad_stage"),
        ("pr-42", "mine", KEY, "wrong_project"),
        ("pr-42", f"{REF}a", KEY, "wrong_project"),
        ("pr-42", REF, "sb_secret_x", "bad_key"),
        ("pr-42", REF, f"{KEY}: x", "bad_key"),
    ],
)
def test_what_cannot_be_a_stage_is_refused(
    project: Project, name: str, ref: str, key: str, code: str
) -> None:
    """Before the file is touched."""
    before = project.stages_file.read_text()

    refused = run.refused("add", name, "--project", ref, "--publishable-key", key)

    assert refused["code"] == code
    assert project.stages_file.read_text() == before
