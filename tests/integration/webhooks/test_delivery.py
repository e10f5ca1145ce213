"""Deliveries from a job's event to a subscriber's server, through queue, worker and network."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from standardwebhooks import Webhook

from infra.bench.scratch import scratch_settings
from minutehand.webhooks.processors import register
from minutehand.webhooks.secrets import WebhookSecrets
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.testing import drain
from tests.support.engine import ACME, Engine, Json
from tests.support.misbehaving import MisbehavingServer, Request, write
from tests.support.project import Project
from tests.support.renewed import Renewed


class Endpoint(MisbehavingServer):
    """A subscriber's server. It returns the listed statuses first, and then 200."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[int] = []
        self.received: list[Request] = []
        self.is_packed = False

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.received.append(request)
        status = self.statuses.pop(0) if self.statuses else 200
        result: Any = {} if status == 200 else {"error": "no such list"}
        if self.is_packed:
            body = gzip.compress(json.dumps(result).encode())
            write(writer, status, body, headers={"content-encoding": "gzip"})
        else:
            write(writer, status, result)


class Nothing(BaseModel):
    """A payload without content."""


async def work(_job: Job[Nothing], _ctx: JobContext) -> dict[str, bool]:
    """Run a job, which creates events."""
    return {"done": True}


@dataclass
class Post:
    """A project with a worker and webhooks."""

    project: Project
    engine: Engine
    worker: Worker
    secrets: WebhookSecrets

    async def subscribe(self, url: str, **webhook: Any) -> str:
        """Create a webhook of Acme and return its secret."""
        secret = await self.secrets.create(ACME)
        self.engine.put_webhook(url=url, sealed_secret=secret.sealed, **webhook)
        return secret.plain

    def listed(self) -> Json:
        """Return the only webhook as its managers see it."""
        [webhook] = self.engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
        return webhook

    async def settle(self) -> list[Json]:
        """Run the worker until no job is due, and return the rows of the deliveries in order.

        Maintenance reads events a second late, so this function also calls maintenance.
        """
        for _ in range(3):
            await drain(self.worker)
            self.project.sql("update queue.tasks set done_at = '-infinity'")
            self.engine.maintain()
        await drain(self.worker)
        return self.project.sql(
            "select *, extract(epoch from next_retry_at - updated_at)::float as wait"
            " from jobs where job_type = 'webhook_delivery' order by created_at, id"
        )


@asynccontextmanager
async def posting(project: Project, *, stage: str = "local") -> AsyncIterator[Post]:
    """Run a worker that knows its stage, such as `local`."""
    settings = project.settings.model_copy(update={"stage": stage})
    registry = Registry()
    webhooks = register(registry, settings)
    registry.processor("work", payload=Nothing)(work)
    options = TickOptions(concurrency=5, linger_seconds=0, grace_seconds=0.3)
    worker = Worker(settings, registry=registry, options=options)
    await worker.register()
    engine = Engine(project.database, project.database.session())
    try:
        yield Post(project, engine, worker, WebhookSecrets(settings))
    finally:
        await worker.aclose()
        await webhooks.aclose()


@pytest.fixture
def project(renewed: Renewed, tmp_path: Path) -> Project:
    """A database with a Data API. Its settings allow webhooks to this machine."""
    key_file = str(tmp_path / "sealing.json")
    settings = scratch_settings(renewed.gateway.url, sealing_key_file=key_file)
    made = Project(settings, renewed)
    made.sql("update queue.settings set value = 'true' where name = 'webhook_private_addresses'")
    return made


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """A subscriber's running server."""
    async with Endpoint() as running:
        yield running


async def test_each_event_arrives_signed_and_in_order_per_job(
    project: Project, endpoint: Endpoint
) -> None:
    """Each event of three concurrent jobs is delivered with a valid signature.

    A job's events arrive in order.
    """
    async with posting(project) as post:
        secret = await post.subscribe(f"{endpoint.origin}/in")
        jobs = [project.insert("work") for _ in range(3)]

        rows = await post.settle()

    events = [json.loads(received.body) for received in endpoint.received]
    for job_id in jobs:
        story = [event["type"] for event in events if event["data"]["job_id"] == job_id]
        assert story == ["job.created", "job.leased", "job.completed"]
    for received in endpoint.received:
        Webhook(secret).verify(received.body, received.headers)
    assert len({received.headers["webhook-id"] for received in endpoint.received}) == 9
    assert [row["result"] for row in rows] == [{"sent": True, "status": 200}] * 9
    assert post.listed()["last_status"] == 200


async def test_a_failure_is_sent_again_under_the_same_id(
    project: Project, endpoint: Endpoint
) -> None:
    """A failed delivery is sent again with the same id and body, and later events of the job wait.

    The body of a compressed response is not read.
    """
    async with posting(project) as post:
        await post.subscribe(f"{endpoint.origin}/in", event_types=["job.created", "job.completed"])
        endpoint.statuses = [500]
        project.insert("work")
        row, later = await post.settle()
        assert (later["status"], len(endpoint.received)) == ("pending", 1)
        result = 'the endpoint answered 500: {"error": "no such list"}'
        assert (row["status"], row["error_message"]) == ("pending", result)
        assert post.listed()["last_answer"] == result
        assert 8 <= row["wait"] <= 12
        assert post.listed()["failures"] == 1
        endpoint.statuses, endpoint.is_packed = [500], True
        project.make_due()
        row, _ = await post.settle()
        assert row["error_message"] == "the endpoint answered 500"
        project.make_due()
        post.engine.advance(3600)

        row, _ = await post.settle()

    assert (row["status"], row["attempts"]) == ("completed", 3)
    first, second, third, *_ = endpoint.received
    at, later_at = (int(each.headers["webhook-timestamp"]) for each in (first, third))
    assert later_at - at >= 3600, "the signature has not the time of the database's clock"
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["accept-encoding"] == "identity"
    assert first.body == second.body
    assert post.listed()["failures"] == 0


async def test_a_delivery_fails_with_the_webhook_that_it_disables(
    project: Project, endpoint: Endpoint
) -> None:
    """An endpoint that answers 410 is gone."""
    async with posting(project) as post:
        await post.subscribe(f"{endpoint.origin}/in", event_types=["job.created"])
        endpoint.statuses = [410]
        project.insert("work")

        [row] = await post.settle()

    assert (row["status"], post.listed()["enabled"]) == ("failed", False)


async def test_the_error_of_a_connection_is_named(project: Project) -> None:
    """A delivery that fails at the TLS handshake stores that error."""

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"plain text")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    async with server, posting(project) as post:
        port = server.sockets[0].getsockname()[1]
        await post.subscribe(f"https://127.0.0.1:{port}")
        project.insert("work")

        rows = await post.settle()

    assert "could not be reached: [SSL: WRONG_VERSION_NUMBER]" in rows[0]["error_message"]


@pytest.mark.parametrize(("stage", "is_set"), [("prod", True), ("local", False)])
async def test_this_machine_is_refused_outside_development(
    project: Project, endpoint: Endpoint, stage: str, is_set: bool
) -> None:
    """The stage `local` and the setting together allow an address that is not public."""
    url = endpoint.origin.replace("http", "https", 1)
    async with posting(project, stage=stage) as post:
        await post.subscribe(url, event_types=["job.created"])
        post.engine.set(webhook_private_addresses=is_set)
        project.insert("work")

        [row] = await post.settle()

    assert row["status"] == "pending"
    assert "resolves to an address that is not public" in row["error_message"]
    assert endpoint.received == []
