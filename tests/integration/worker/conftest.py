"""A queue over HTTP for the worker's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from minutehand.queue import QueueClient, UserQueue, WorkerQueue
from minutehand.worker import Registry, TickOptions, Worker
from tests.support.project import Gateway, Project, settings_at
from tests.support.renewed import Renewed
from tests.support.virtual_time import LeapingClock


@pytest.fixture
def gateway(renewed: Renewed) -> Gateway:
    """The Data API over this test's project; a test may stop it."""
    return renewed.gateway


@pytest.fixture
def project(renewed: Renewed) -> Project:
    """Everything a worker needs to know."""
    return Project(settings_at(renewed.gateway.url), renewed.database, renewed.gateway)


@pytest.fixture
async def worker_queue(project: Project) -> AsyncIterator[WorkerQueue]:
    """The worker's functions."""
    queue = WorkerQueue(project.settings)
    yield queue
    await queue.aclose()


@pytest.fixture
async def ada(project: Project) -> AsyncIterator[UserQueue]:
    """The queue as Ada, a manager of Acme, sees it."""
    client = QueueClient(project.settings)
    yield client.acting_as(project.token())
    await client.aclose()


@pytest.fixture
def registry() -> Registry:
    """Processors of this test alone."""
    return Registry()


@pytest.fixture
def clock() -> LeapingClock:
    """The worker's: a test lets a deadline come at once, with seconds left for what follows it."""
    return LeapingClock()


@pytest.fixture
async def worker(
    project: Project, registry: Registry, clock: LeapingClock
) -> AsyncIterator[Worker]:
    """A worker that does not wait for the future."""
    made = Worker(
        project.settings,
        registry=registry,
        clock=clock,
        options=TickOptions(concurrency=5, linger_seconds=0, grace_seconds=0.3),
    )
    yield made
    await made.aclose()
