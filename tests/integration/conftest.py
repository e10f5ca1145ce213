"""What the rooms that need a queue over HTTP share: one project, put back before every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from minutehand.local.postgres import Postgres
from tests.support.renewed import Renewed


@pytest.fixture(scope="session")
def renewed_project(postgres: Postgres) -> Iterator[Renewed]:
    """The database and its Data API, for all tests of this process."""
    made = Renewed(postgres)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def renewed(renewed_project: Renewed) -> Renewed:
    """The same as after the seeds, whatever a test before did to it."""
    renewed_project.renew()
    return renewed_project
