"""What the enrichment app's unit tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.enrichment.apollo_server import ApolloServer


@pytest.fixture
async def apollo() -> AsyncIterator[ApolloServer]:
    """Apollo, on this machine."""
    async with ApolloServer() as server:
        yield server
