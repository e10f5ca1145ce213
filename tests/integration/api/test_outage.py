"""The Data API goes away and comes back: requests say so, streams wait, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.requests import Request

from infra.bench.scratch import user_token
from minutehand.queue import WorkerQueue
from minutehand.queue.models import JobTypeSpec
from minutehand.web.caller import Caller
from minutehand.web.services import Pace, Services
from minutehand.web.sse import JobFeed, answer
from tests.integration.api.conftest import ACME_ID, error_of
from tests.support.project import ADA, Gateway, settings_at
from tests.support.renewed import Renewed


@pytest.fixture
def gateway(renewed: Renewed) -> Gateway:
    """A Data API that the test may stop."""
    return renewed.gateway


@pytest.fixture
async def services(gateway: Gateway) -> AsyncIterator[Services]:
    """The API's dependencies over it, without Realtime."""
    settings = settings_at(gateway.url)
    queue = WorkerQueue(settings)
    await queue.register_job_types([JobTypeSpec(job_type="work")])
    await queue.aclose()
    services = Services(settings, pace=Pace(streaming=True, poll=0.05))
    yield services
    await services.aclose()


def client_of(services: Services) -> httpx.AsyncClient:
    from minutehand.functions.jobs.app import build_app

    return httpx.AsyncClient(
        transport=httpx.ASGITransport(build_app(services.settings, services=services)),
        base_url="http://api.test",
        headers={"authorization": f"Bearer {user_token(ADA)}"},
        timeout=60,
    )


async def test_requests_in_an_outage_are_a_503_and_work_again_after_it(
    services: Services, gateway: Gateway, renewed: Renewed
) -> None:
    """In the same process: its connections are dead, and it notices."""
    body = {"workspace_id": ACME_ID, "job_type": "work"}
    async with client_of(services) as api:
        before = await api.post("/api/jobs", json=body)
        gateway.stop()
        during = await api.post("/api/jobs", json=body, headers={"Idempotency-Key": "once"})
        gateway.start()
        after = await api.post("/api/jobs", json=body, headers={"Idempotency-Key": "once"})

    assert (before.status_code, after.status_code) == (201, 201)
    assert (during.status_code, error_of(during)["code"]) == (503, "unavailable")
    assert int(during.headers["retry-after"]) >= 1
    with renewed.database.connect() as connection:
        row = connection.execute("select count(*) from public.jobs").fetchone()
    assert row == (2,)


class Listening:
    """A new job, and a stream of it to its end."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._chunks: list[bytes] = []
        self._begun = asyncio.Event()
        self.ended: asyncio.Future[None]
        self.job_id = ""

    async def begin(self) -> None:
        """Return once something was heard."""
        token = user_token(ADA)
        queue = self._services.queue.acting_as(token)
        job = (await queue.enqueue(ACME_ID, "work")).job
        self.job_id = job.id
        self.ended = asyncio.ensure_future(self._listen(JobFeed(queue, job.id, after=0), token))
        await asyncio.wait_for(self._begun.wait(), 60)

    async def _listen(self, feed: JobFeed, token: str) -> None:
        expires_at = datetime.now(UTC) + timedelta(minutes=5)
        caller = Caller(UUID(str(ADA)), "authenticated", token, expires_at)
        scope = {"type": "http", "method": "GET", "headers": []}

        async def stay() -> Any:
            await asyncio.Event().wait()

        async def hear(message: Any) -> None:
            self._chunks.append(message.get("body", b""))
            if b"data: " in self._chunks[-1]:
                self._begun.set()

        response = await answer(Request(scope, stay), self._services, caller, feed)
        await response(scope, stay, hear)

    @property
    def text(self) -> str:
        """What was heard."""
        return b"".join(self._chunks).decode()


async def test_a_stream_ends_though_what_it_lacks_is_no_longer_kept(
    services: Services, renewed: Renewed
) -> None:
    """Also where no message wakes it: its own look finds that the job has ended."""
    listening = Listening(services)
    await listening.begin()
    with renewed.database.connect() as connection, connection.transaction():
        connection.execute("select public.cancel_job(%s)", (listening.job_id,))
        connection.execute(
            "delete from queue.job_events where job_id = %s and seq > 1", (listening.job_id,)
        )

    await asyncio.wait_for(listening.ended, 60)

    assert "event: job.cancelled" not in listening.text
    assert '"reason":"cancelled"' in listening.text


async def test_a_stream_continues_after_an_outage(
    services: Services, gateway: Gateway, renewed: Renewed
) -> None:
    """What happened meanwhile comes when the database can be asked again, in order."""
    listening = Listening(services)
    await listening.begin()
    gateway.stop()
    with renewed.database.connect() as connection:
        connection.execute("select public.cancel_job(%s)", (listening.job_id,))
    gateway.start()
    await asyncio.wait_for(listening.ended, 60)

    lines = listening.text.splitlines()
    ids = [each.removeprefix("id: ") for each in lines if each.startswith("id: ")]
    assert ids == [str(number) for number in range(1, len(ids) + 1)]
    assert "event: job.cancelled" in listening.text
    assert '"reason":"cancelled"' in listening.text
