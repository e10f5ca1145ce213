"""The engine of a fresh database with two workspaces, three members and one plain job type."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.databases import Database
from tests.support.engine import Engine, broken_invariants


@pytest.fixture
def engine(seeded: Database) -> Iterator[Engine]:
    """A service session; when the test is over every invariant must still hold."""
    with seeded.connect() as connection:
        engine = Engine(seeded, connection)
        engine.register("work", lease_seconds=60)
        yield engine
        assert broken_invariants(connection) == {}
