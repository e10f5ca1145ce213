"""A project for the worker's tests."""

from __future__ import annotations

import pytest

from tests.support.project import Project, settings_at
from tests.support.renewed import Renewed


@pytest.fixture
def project(renewed: Renewed) -> Project:
    """Everything a worker needs to know; a test may stop its Data API."""
    return Project(settings_at(renewed.gateway.url), renewed.database, renewed.gateway)
