"""Fixtures every room shares: a Postgres, a fresh database per test, the whole stack.

The work is done in `tests/support`; each test process has servers of its own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import httpx._config as defaults
import httpx._transports.default as transports
import pytest

from minutehand.local.postgres import Postgres
from tests.support.databases import (
    SEEDED,
    Database,
    build_seeded_template,
    build_template,
    fresh_database,
    start_scratch_server,
)
from tests.support.stacks import RunningStack, running_stack

#: A narrow terminal that started the tests must not cut what commands print into a pipe.
os.environ.pop("COLUMNS", None)
#: Long, and late in the alphabet: begun first, so that no process is left with one at the end.
LONG_FILES = (
    "tests/sql/test_machine.py",
    "tests/artefact/test_package.py",
    "tests/integration/worker/test_tick.py",
)


@pytest.fixture(scope="session", autouse=True)
def _one_tls_context() -> Iterator[None]:
    """Else httpx reads all certificates of the machine for each client, 20 ms, HTTPS or not."""
    with pytest.MonkeyPatch.context() as patch:
        create = functools.cache(httpx.create_ssl_context)
        patch.setattr(transports, "create_ssl_context", create)
        yield


@pytest.fixture(scope="session", autouse=True)
def _patient_http() -> Iterator[None]:
    """Where a test names no timeout it is a safety net: a busy machine may take httpx's 5 s."""
    limit = defaults.DEFAULT_TIMEOUT_CONFIG
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "read", "write", "pool"):
            patch.setattr(limit, name, 60.0)
        yield


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
def seeded_template(template: Postgres) -> Postgres:
    """The server, with the second template: the first one with demo users and seeds."""
    build_seeded_template(template)
    return template


@pytest.fixture
def seeded(seeded_template: Postgres) -> Iterator[Database]:
    """A database of this test alone that has the demo users and the seeds already."""
    with fresh_database(seeded_template, template=SEEDED) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The whole stack: `.supabase_url` and the like, `.sign_in(email)`, `.token(sub, role)`.

    Shared by the session: tests make their own rows and leave the parts running.
    """
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        give_acme_key(running)
        yield running


@pytest.fixture
def acme_key(stack: RunningStack) -> None:
    """Acme's working offline Apollo key, whatever a test before did to it."""
    give_acme_key(stack)


def give_acme_key(stack: RunningStack) -> None:
    """Set the key as the demo does, through the API."""
    answer = httpx.put(
        f"{stack.api_url}/api/workspaces/{stack.demo_workspace_id}/settings",
        headers={"Authorization": f"Bearer {stack.sign_in(stack.demo_email)}"},
        json={"apollo_api_key": "test-key-acme-0042"},
    )
    assert answer.status_code == 200, answer.text


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests need the stack, and put the long files first, see `--dist loadfile`."""
    order = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.nodeid.split("::")[0], len(order)))
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stack)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]
