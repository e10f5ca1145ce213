"""A queue over HTTP for the worker's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from infra.local.bench.scratch import scratch_settings
from infra.local.ports import reserve_port
from shared.queue import QueueClient, UserQueue, WorkerQueue
from shared.worker import Registry, TickOptions, Worker
from tests.support.databases import Database
from tests.support.project import Gateway, Project


@pytest.fixture
def gateway(database: Database) -> Iterator[Gateway]:
    """The Data API over this test's database."""
    database.seed()
    running = Gateway(database.url, reserve_port())
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def project(gateway: Gateway, database: Database) -> Project:
    """Everything a worker needs to know."""
    return Project(scratch_settings(gateway.url), database, gateway)


@pytest.fixture
async def worker_queue(project: Project) -> AsyncIterator[WorkerQueue]:
    """The worker's doors."""
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
async def worker(project: Project, registry: Registry) -> AsyncIterator[Worker]:
    """A worker that does not wait for the future."""
    made = Worker(
        project.settings,
        registry=registry,
        options=TickOptions(concurrency=5, linger_seconds=0, grace_seconds=0.3),
    )
    yield made
    await made.aclose()
