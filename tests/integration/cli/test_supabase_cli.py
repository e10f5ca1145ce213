"""The schema goes to the stage's project: by a CLI that takes a project's name, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from minutehand.cli.supabase_cli import find_cli, project_ref
from minutehand.terminal.connection import CommandFailed

REF = "abcdefghijklmnopqrst"


def fake_cli(folder: Path, says: str) -> str:
    """A program named supabase that knows its version alone."""
    program = folder / "supabase"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return str(folder)


def test_a_missing_or_old_cli_is_refused(tmp_path: Path) -> None:
    """Without the schema the first tick fails; version 2 pushes to whatever the folder links."""
    with pytest.raises(CommandFailed, match="not installed") as missing:
        find_cli(str(tmp_path))
    for says in ("2.122.1", "dev"):
        with pytest.raises(CommandFailed, match=rf"is version {says}; 3\.0 or newer"):
            find_cli(fake_cli(tmp_path, says))

    assert missing.value.fix is not None
    assert find_cli(fake_cli(tmp_path, "3.1.0")) == tmp_path / "supabase"


def test_the_project_is_the_urls_own_or_the_named_one() -> None:
    """A domain of one's own does not show whose schema it is."""
    own = {"supabaseUrl": "https://data.example.com"}

    assert project_ref({"supabaseUrl": f"https://{REF}.supabase.co", "supabaseProject": "x"}) == REF
    assert project_ref({**own, "supabaseProject": REF}) == REF
    with pytest.raises(CommandFailed, match="does not show"):
        project_ref(own)
