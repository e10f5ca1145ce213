"""The types that the console's pages are checked against are those of the OpenAPI document."""

from __future__ import annotations

from infra.release.console_types import ENGINE, written


def test_the_types_of_the_routes_are_written_again_after_a_change() -> None:
    """Run `python -m infra.release.console_types` when this fails."""
    files = written()

    assert [path.name for path, text in files.items() if path.read_text("utf-8") != text] == []
    assert ENGINE in files
    assert len(files) == 6
