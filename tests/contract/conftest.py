"""Fixtures: a new database with two workspaces, three members and one job type named `work`."""

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
    suppress_health_check=[HealthCheck.too_slow],  # a slow machine would fail this check
)
settings.load_profile("tests")


@pytest.fixture
def project(renewed: Renewed) -> Project:
    """A project without the example apps. Its queue has one job type, `work`."""
    settings = scratch_settings(renewed.gateway.url, apps=())
    made = Project(settings, renewed)
    Engine(made.database, made.database.session()).register(lease_seconds=60)
    return made


@pytest.fixture
async def api(project: Project) -> AsyncIterator[Api]:
    """The project's running API. After the test, the fixture checks the invariants of the queue."""
    async with serving_api(project) as made:
        yield made
    assert breaches(project.database.session()) == {}


@pytest.fixture
def portal(stack: RunningStack) -> Iterator[httpx.Client]:
    """An HTTP client of the whole stack that is signed in as the demo workspace's manager."""
    token = stack.sign_in(stack.demo_email)
    with httpx.Client(
        base_url=stack.api_url, headers={"Authorization": f"Bearer {token}"}
    ) as client:
        yield client


@pytest.fixture
def sql(stack: RunningStack) -> Sql:
    """A function that runs an SQL statement in the stack's database and returns the rows."""
    return stack.run
