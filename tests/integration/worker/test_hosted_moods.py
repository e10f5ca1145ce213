"""What a hosted Data API does now and then, on request: an empty schema cache, other timeouts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from minutehand.local.ports import reserve_port
from minutehand.local.worker import run_worker
from minutehand.queue import QueueUnavailable, WorkerQueue
from minutehand.worker import Registry, Worker
from tests.support.project import Gateway, Project, settings_at

Start = Callable[..., Gateway]


@pytest.fixture
def start(project: Project) -> Iterator[Start]:
    """Another Data API over the project's database, with these switches."""
    started: list[Gateway] = []

    def one(**switches: str) -> Gateway:
        url = project.database.url
        gateway = Gateway(url, reserve_port(), schema="public", switches=switches)
        started.append(gateway)
        gateway.start()
        return gateway

    yield one
    for gateway in started:
        gateway.stop()


async def test_a_worker_outlasts_an_empty_schema_cache(start: Start) -> None:
    """After a restart no function is known for a while: its calls are repeated, not given up."""
    gateway = start(DATA_API_EMPTY_CACHE_SECONDS="8")
    settings = settings_at(gateway.url)
    secret = {"apikey": settings.supabase_secret_key or ""}
    async with httpx.AsyncClient(base_url=f"{gateway.url}/rest/v1", headers=secret) as client:
        first = await client.post("/rpc/queue_health", json={})
        table = await client.get("/jobs")
    queue = WorkerQueue(settings)

    give_up = time.monotonic() + 60
    health = None
    while health is None and time.monotonic() < give_up:
        try:
            health = await queue.health()
        except QueueUnavailable:
            continue
    await queue.aclose()

    assert (first.status_code, first.json()["code"]) == (404, "PGRST202")
    assert (table.status_code, table.json()["code"]) == (404, "PGRST205")
    assert health is not None


async def test_a_good_start_logs_no_complaint(
    start: Start, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """The schema cache is a moment behind the migrations: the first log is a newcomer's."""
    gateway = start(DATA_API_EMPTY_CACHE_SECONDS="3")
    worker = Worker(settings_at(gateway.url), registry=Registry())
    running = asyncio.create_task(run_worker(worker, asyncio.Event(), project.database.url))
    begun = "Worker loop started"
    try:
        give_up = time.monotonic() + 60
        with caplog.at_level("INFO"):
            while begun not in caplog.messages and not running.done():
                assert time.monotonic() < give_up
                await asyncio.sleep(0.05)
            assert await worker.queue.health()
    finally:
        worker.stop()
        await running
        await worker.aclose()

    assert begun in caplog.messages
    assert [line.getMessage() for line in caplog.records if line.levelname != "INFO"] == []


def test_a_roles_timeout_ends_its_statements(start: Start, project: Project) -> None:
    """A hosted project may give its users less time than they had here."""
    gateway = start(DATA_API_STATEMENT_TIMEOUTS="authenticated=1ms")
    settings = settings_at(gateway.url)
    headers = {
        "apikey": settings.supabase_publishable_key,
        "Authorization": f"Bearer {project.token()}",
        "Content-Profile": settings.schema_name,
    }

    answers = [
        httpx.post(f"{gateway.url}/rest/v1/rpc/list_jobs", json={}, headers=headers)
        for _ in range(5)
    ]

    assert {answer.json()["code"] for answer in answers if not answer.is_success} == {"57014"}
