"""The API of a test's own project, whose worker runs only on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from infra.bench.scratch import scratch_settings
from tests.contract.api import Api, serving_api
from tests.support.project import Project
from tests.support.renewed import Renewed


@pytest.fixture
async def api(renewed: Renewed) -> AsyncIterator[Api]:
    """The API over real sockets, with streams that stay open. The engine has one type."""
    settings = scratch_settings(renewed.gateway.url).model_copy(
        update={"apps": (), "streaming": True}
    )
    async with serving_api(Project(settings, renewed)) as made:
        made.engine.register("work", lease_seconds=60)
        yield made
