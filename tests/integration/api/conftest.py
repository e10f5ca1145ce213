"""The running stack's API, its users, and a worker's hand on jobs that no real worker takes."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand.local.users import ACME, ADA, BOB, EVE, GLOBEX
from minutehand.queue.client import QueueClient, UserQueue
from minutehand.queue.models import (
    Job,
    JobTypeSpec,
    Lease,
    LeaseRequest,
    LogLine,
    NewJob,
    Progress,
    ReportItem,
    SettleItem,
)
from minutehand.queue.worker_client import WorkerQueue
from tests.e2e.console.worker import delete
from tests.support.stacks import RunningStack

ACME_ID, GLOBEX_ID = str(ACME), str(GLOBEX)


@pytest.fixture
def settings(stack: RunningStack) -> Settings:
    """The stack's settings as its functions see them."""
    return Settings.from_env(stack.values)


Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[Client]:
    """Makes API clients: `client(token)`; closed at the end of the test."""
    made: list[httpx.AsyncClient] = []

    def make(token: str | None = None, *, timeout: float = 60.0) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        made.append(
            httpx.AsyncClient(
                base_url=stack.api_url,
                headers=headers,
                timeout=timeout,
                trust_env=False,
                limits=httpx.Limits(max_connections=300),
            )
        )
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


@pytest.fixture
def ada(client: Client, stack: RunningStack) -> httpx.AsyncClient:
    """The API as a manager of Acme."""
    return client(stack.sign_in(ADA.email))


@pytest.fixture
def bob(client: Client, stack: RunningStack) -> httpx.AsyncClient:
    """The API as a member of Acme."""
    return client(stack.sign_in(BOB.email))


@pytest.fixture
def eve(client: Client, stack: RunningStack) -> httpx.AsyncClient:
    """The API as a manager of Globex."""
    return client(stack.sign_in(EVE.email))


@dataclass
class Hand:
    """A worker in the test's hand: it alone takes jobs of its type."""

    queue: WorkerQueue
    user: UserQueue
    job_type: str
    worker_id: str

    async def enqueue(self, payload: dict[str, Any] | None = None) -> Job:
        """A pending job of Acme."""
        return (await self.user.enqueue(self.job_type, payload, workspace_id=ACME_ID)).job

    async def enqueue_many(self, count: int) -> list[Job]:
        """Pending jobs of Acme."""
        jobs = [NewJob(job_type=self.job_type, payload={"n": n}) for n in range(count)]
        return [
            made.job for made in (await self.user.enqueue_many(jobs, workspace_id=ACME_ID)).jobs
        ]

    async def lease(self, limit: int = 1) -> list[Lease]:
        """Take jobs; asks again, as a worker does, where the stack's own worker was in between."""
        tick_id = str(uuid.uuid4())
        give_up = time.monotonic() + 60
        for call in itertools.count(1):
            request = LeaseRequest(
                worker_id=self.worker_id,
                tick_id=tick_id,
                call=call,
                limit=limit,
                job_types=(self.job_type,),
            )
            response = await self.queue.lease(request)
            if response.leases or response.next_due_in_ms != 0 or time.monotonic() > give_up:
                break
            await asyncio.sleep(0.02)
        return list(response.leases)

    async def report(self, lease: Lease, percentage: float, *lines: str) -> None:
        """Report progress and log lines."""
        item = ReportItem(
            job_id=lease.job.id,
            fence=lease.fence,
            progress=Progress(percentage=percentage),
            logs=tuple(LogLine(level="info", message=line) for line in lines),
        )
        await self.queue.report([item], worker_id=self.worker_id, tick_id=str(uuid.uuid4()))

    async def settle(self, lease: Lease, outcome: Any = "completed", **fields: Any) -> None:
        """End the attempt."""
        item = SettleItem(job_id=lease.job.id, fence=lease.fence, outcome=outcome, **fields)
        await self.queue.settle([item], worker_id=self.worker_id, tick_id=str(uuid.uuid4()))


@pytest.fixture
async def hand(settings: Settings, stack: RunningStack) -> AsyncIterator[Hand]:
    """Jobs of a type made for this test."""
    queue, users = WorkerQueue(settings), QueueClient(settings)
    name = uuid.uuid4().hex[:12]
    job_type = f"test_{name}"
    await queue.register_job_types([JobTypeSpec(job_type=job_type, max_concurrency=1000)])
    yield Hand(queue, users.acting_as(stack.sign_in(ADA.email)), job_type, f"hand-{name}")
    await queue.aclose()
    await users.aclose()
    forget_type(stack, job_type)


def forget_type(stack: RunningStack, job_type: str) -> None:
    """Delete a type and its jobs: to the next tests' health and doctor no worker serves it."""
    for table in ("public.jobs", "queue.job_types"):
        delete(stack, f"delete from {table} where job_type = %s", job_type)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error body, whole and matching its header."""
    body: dict[str, Any] = response.json()
    assert set(body) == {"error", "code", "detail", "request_id"}, body
    assert body["error"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return body
