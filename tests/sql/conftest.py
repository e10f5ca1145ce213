"""The engine of a fresh database with two workspaces, three members and one plain job type."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.engine import Engine, broken_invariants
from tests.support.renewed import RenewedDatabase


@pytest.fixture
def engine(seeded: RenewedDatabase) -> Iterator[Engine]:
    """A service session; when the test is over every invariant must still hold."""
    engine = Engine(seeded, seeded.session())
    engine.register("work", lease_seconds=60)
    yield engine
    assert broken_invariants(engine.connection) == {}
