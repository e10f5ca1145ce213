"""The engine of a fresh database with two workspaces, three members and one plain job type."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.observed import breaches
from tests.support.engine import INVARIANTS, Engine
from tests.support.renewed import Renewed


@pytest.fixture
def engine(renewed: Renewed) -> Iterator[Engine]:
    """A service session; when the test is over every invariant must still hold."""
    engine = Engine(renewed, renewed.session())
    engine.register("work", lease_seconds=60)
    yield engine
    assert breaches(engine.connection, **INVARIANTS) == {}
