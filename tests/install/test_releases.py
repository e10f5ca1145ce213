"""A released migration never changes, and a new one can be pushed after the released ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from infra.release import releases
from minutehand.install.sources import ordinal
from minutehand.version import VERSION
from tests.support.paths import ROOT


def test_no_released_file_has_changed() -> None:
    """The list in supabase/RELEASES.json against the files."""
    assert releases.problems() == []


def test_the_version_is_said_in_one_place() -> None:
    """The wheel takes it from there, the npm archive and the changelog follow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "shared/minutehand/version.py"
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
    assert all(ordinal(known) <= ordinal(VERSION) for known in releases.read())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with one engine file, one app and release 0.1.0 of both."""
    for name in (
        "supabase/migrations/20261201000000_create.sql",
        "shared/minutehand_apps/chat/migrations/20261201000500_chat.sql",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("select 1;\n")
    (tmp_path / releases.LIST).write_text("{}")
    (tmp_path / "CHANGELOG.md").write_text("## [0.1.1]\n- b\n\n## [0.1.0]\n- a\n")
    assert releases.release("0.1.0", tmp_path) == []
    return tmp_path


def test_a_changed_removed_or_early_file_is_found(tree: Path) -> None:
    """By name, before anybody's upgrade meets it."""
    (tree / "supabase/migrations/20261201000000_create.sql").write_text("select 3;\n")
    (tree / "shared/minutehand_apps/chat/migrations/20261201000500_chat.sql").unlink()
    (tree / "supabase/migrations/20261201000100_early.sql").write_text("select 4;\n")
    (tree / "supabase/migrations/20261201000500_same.sql").write_text("select 5;\n")
    (tree / "supabase/migrations/30000101_short.sql").write_text("select 6;\n")

    found = "\n".join(releases.problems(tree))

    assert "20261201000000_create.sql was released with 0.1.0 and has changed" in found
    assert "20261201000500_chat.sql was released with 0.1.0 and is missing" in found
    assert "20261201000100_early.sql is new and must sort after 20261201000500" in found
    assert "20261201000500_same.sql is new and must sort after 20261201000500" in found
    assert "30000101_short.sql must begin with a timestamp" in found


def test_a_release_needs_its_changes_written_and_a_new_number(tree: Path) -> None:
    """And leaves the list as it was when anything stands against it."""
    listed = (tree / releases.LIST).read_text()

    assert "0.1.0 is released already" in releases.release("0.1.0", tree)
    assert "0.0.9 must come after 0.1.0" in releases.release("0.0.9", tree)
    assert "CHANGELOG.md must have a section ## [0.2.0]" in releases.release("0.2.0", tree)
    (tree / "supabase/migrations/20261201000000_create.sql").write_text("select 3;\n")
    assert "has changed" in "".join(releases.release("0.1.1", tree))
    assert (tree / releases.LIST).read_text() == listed
