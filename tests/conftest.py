"""Fixtures every room shares: a Postgres, a fresh database per test, the whole stack.

The work is done in `tests/support`; each test process has servers of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.postgres import Postgres
from tests.support.databases import Database, build_template, fresh_database, start_scratch_server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A scratch Postgres of this test process; durability is off."""
    server = start_scratch_server(tmp_path_factory.mktemp("postgres"))
    try:
        yield server
    finally:
        server.destroy()


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> Postgres:
    """The server, with the template of hosted base, Realtime schema and all migrations."""
    build_template(postgres)
    return postgres


@pytest.fixture
def database(template: Postgres) -> Iterator[Database]:
    """A database of this test alone: `.url`, `.connect()`, `.as_role(role, claims)`, `.seed()`."""
    with fresh_database(template) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]
