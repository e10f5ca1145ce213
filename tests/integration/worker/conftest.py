"""The engine of a fresh database, for workers that call it over a Data API or a connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.observed import breaches
from tests.support.engine import Engine
from tests.support.renewed import Renewed


@pytest.fixture
def engine(renewed: Renewed) -> Iterator[Engine]:
    """A service session; when the test is over every promise must hold of what it leaves."""
    made = Engine(renewed, renewed.session())
    yield made
    assert breaches(made.connection) == {}
