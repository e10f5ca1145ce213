"""The types that the console's pages are checked against are those of the OpenAPI document."""

from __future__ import annotations

import pytest

from infra.release.console_types import ENGINE, written

pytestmark = pytest.mark.lint


def test_the_engine_and_each_app_have_the_types_of_their_own_routes() -> None:
    """`make check` writes them before `tsc` reads the pages; none is kept."""
    files = written()
    routes = {
        path: {line for line in text.splitlines() if line.startswith('  "')}
        for path, text in files.items()
    }

    assert len(files) == 6
    assert any('"GET /api/jobs"' in line for line in routes[ENGINE])
    for path, own in routes.items():
        assert own
        assert path == ENGINE or not own & routes[ENGINE]
