"""A released migration never changes, and a new one can be pushed after the released ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.release import releases


def test_no_released_file_has_changed() -> None:
    """The list in supabase/RELEASES.json against the files."""
    assert releases.problems() == []


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
