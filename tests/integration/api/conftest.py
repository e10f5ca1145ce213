"""Fixture: the API of a test's own project.

No worker runs, so jobs run only when a test runs them.
"""

from collections.abc import AsyncIterator

import pytest

from infra.bench.scratch import scratch_settings
from tests.contract.api import Api, serving_api
from tests.support.project import Project
from tests.support.renewed import Renewed


@pytest.fixture
async def api(renewed: Renewed) -> AsyncIterator[Api]:
    """The running API, whose event streams stay open. The queue has one job type."""
    settings = scratch_settings(renewed.gateway.url, apps=(), streaming=True)
    async with serving_api(Project(settings, renewed)) as made:
        made.engine.register(lease_seconds=60)
        yield made
