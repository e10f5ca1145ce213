"""Fixtures: a new database for workers that call it over a Data API or a connection."""

from collections.abc import Iterator

import pytest

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY
from tests.contract.observed import breaches
from tests.support.engine import Engine
from tests.support.renewed import Renewed


@pytest.fixture
def engine(renewed: Renewed) -> Iterator[Engine]:
    """A database session with the service's role. After the test, invariants are checked."""
    made = Engine(renewed, renewed.session())
    yield made
    assert breaches(made.connection) == {}


@pytest.fixture
def environ(engine: Engine) -> dict[str, str]:
    """The environment variables of a host, which its worker reads."""
    assert isinstance(engine.database, Renewed)
    return {
        "SUPABASE_URL": engine.database.gateway.url,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "MINUTEHAND_SCHEMA": "public",
    }
