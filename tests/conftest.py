"""Fixtures every room shares: a Postgres, a fresh database per test, the whole stack.

The work is done in `tests/support`; each test process has servers of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.postgres import Postgres
from tests.support.databases import Database, build_template, fresh_database, start_scratch_server
from tests.support.stacks import RunningStack, running_stack


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
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The whole stack: `.supabase_url` and the like, `.sign_in(email)`, `.token(sub, role)`.

    Shared by the session: tests make their own rows and leave the parts running.
    """
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of the one stack in one process, and say that they need it."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stack)
            item.add_marker(pytest.mark.xdist_group("stack"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]
