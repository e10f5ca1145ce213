"""The engine of a fresh database with two workspaces, three members and one plain job type."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from infra.bench.scratch import scratch_settings
from tests.contract.api import Api, serving_api
from tests.contract.observed import breaches
from tests.sql.conftest import ada, bob, engine, eve
from tests.support.engine import Engine
from tests.support.project import Project
from tests.support.renewed import Renewed
from tests.support.stacks import RunningStack

__all__ = ["ada", "bob", "engine", "eve"]

Sql = Callable[..., list[tuple[Any, ...]]]

settings.register_profile(
    "tests",
    settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # this check depends on the machine
)
settings.load_profile("tests")


@pytest.fixture
def project(renewed: Renewed) -> Project:
    """A project without apps, whose engine has one type."""
    settings = scratch_settings(renewed.gateway.url).model_copy(update={"apps": ()})
    made = Project(settings, renewed)
    Engine(made.database, made.database.session()).register("work", lease_seconds=60)
    return made


@pytest.fixture
async def api(project: Project) -> AsyncIterator[Api]:
    """The functions of the project. After the test, all invariants of the queue are checked."""
    async with serving_api(project) as made:
        yield made
    assert breaches(project.database.session()) == {}


@pytest.fixture
def portal(stack: RunningStack) -> Iterator[httpx.Client]:
    """The stack's API as the demo's manager calls it, for the guides."""
    token = stack.sign_in(stack.demo_email)
    with httpx.Client(
        base_url=stack.api_url, headers={"Authorization": f"Bearer {token}"}, timeout=120
    ) as client:
        yield client


@pytest.fixture
def sql(stack: RunningStack) -> Iterator[Sql]:
    """Return the output of psql, for the guides."""
    with stack.connect() as connection:
        yield lambda statement, *args: connection.execute(
            statement.encode(), args or None
        ).fetchall()
