"""The schema goes to the stage's project: by a CLI that was found, and to no other project."""

from __future__ import annotations

from pathlib import Path

import pytest

from minutehand.cli import supabase_cli
from minutehand.cli.supabase_cli import SupabaseCli, how_to_migrate
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed

REF = "abcdefghijklmnopqrst"
OTHER = "zyxwvutsrqponmlkjihg"


@pytest.mark.parametrize("linked", [None, OTHER])
def test_version_2_refuses_a_folder_that_is_linked_elsewhere(
    tmp_path: Path, linked: str | None
) -> None:
    """It would push to the linked project, whatever the stage says."""
    (tmp_path / "supabase" / ".temp").mkdir(parents=True)
    (tmp_path / "supabase" / "config.toml").write_text('project_id = "bakery"\n')
    if linked is not None:
        (tmp_path / "supabase" / ".temp" / "project-ref").write_text(linked)
    programs = tmp_path / "bin"
    programs.mkdir()
    there = SupabaseCli.find(fake_cli(programs, "2.122.1"))

    with pytest.raises(CommandFailed) as caught:
        there.push(REF, Project.at(tmp_path))

    assert caught.value.code == "linked_elsewhere"
    assert caught.value.fix is not None
    assert f"supabase link --project-ref {REF}" in caught.value.fix


def fake_cli(folder: Path, says: str) -> str:
    """A program named supabase that knows its version alone."""
    program = folder / "supabase"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return str(folder)


def test_a_missing_or_old_cli_is_refused(tmp_path: Path) -> None:
    """Without the schema the first tick fails, after minutes of CloudFormation."""
    with pytest.raises(CommandFailed) as missing:
        SupabaseCli.find(str(tmp_path))
    with pytest.raises(CommandFailed) as old:
        SupabaseCli.find(fake_cli(tmp_path, "1.226.4"))
    with pytest.raises(CommandFailed, match=r"is version dev; 2\.0 or newer"):
        SupabaseCli.find(fake_cli(tmp_path, "dev"))

    assert missing.value.code == "no_supabase_cli"
    assert old.value.code == "old_supabase_cli"
    assert missing.value.fix == old.value.fix == supabase_cli.INSTALL


def test_the_way_to_migrate_names_its_target() -> None:
    """A plain push would go wherever the CLI's version sends it."""
    url = f"https://{REF}.supabase.co/"

    assert how_to_migrate(url) == f"supabase db push --remote={REF}"
    assert how_to_migrate(url, "prod") == "minutehand deploy prod"
    assert how_to_migrate("http://127.0.0.1:54321").endswith("supabase migration up")
