"""A project of one test's own, an endpoint on this machine, and a worker that delivers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from standardwebhooks import Webhook

from infra.bench.scratch import PUBLISHABLE_KEY, scratch_settings
from minutehand.queue.data_api import DataApi
from minutehand.webhooks.processors import Webhooks, register
from minutehand.webhooks.secrets import WebhookSecrets
from minutehand.worker import Job, JobContext, Registry, TickOptions, Worker
from minutehand.worker.testing import drain
from tests.support.project import ACME, Project
from tests.support.renewed import Renewed


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The message."""
        event: dict[str, Any] = json.loads(self.body)
        return event

    def is_signed_with(self, secret: str) -> bool:
        """Verify as a receiver would."""
        return bool(Webhook(secret).verify(self.body, self.headers))


@dataclass
class Endpoint:
    """A subscriber's server: answers as scripted, then 200."""

    #: Status lines.
    answers: list[str] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    port: int = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Endpoint]:
        """Serve until the test is over."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    @property
    def url(self) -> str:
        """Where to post."""
        return f"http://127.0.0.1:{self.port}/in"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append(Received(headers, body))
        answer = self.answers.pop(0) if self.answers else "200 OK"
        writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


class Nothing(BaseModel):
    """No payload."""


async def work(_job: Job[Nothing], _ctx: JobContext) -> dict[str, bool]:
    """Something that makes events."""
    return {"done": True}


class Post:
    """Jobs, a worker and the subscriptions in one hand."""

    def __init__(self, project: Project, *, stage: str = "local") -> None:
        self.project = project
        settings = project.settings.model_copy(update={"stage": stage})
        self._secrets = WebhookSecrets(settings)
        self.webhooks = Webhooks(settings)
        registry = Registry()
        register(registry, settings, app=self.webhooks)
        registry.processor("work", payload=Nothing)(work)
        self.worker = Worker(
            settings,
            registry=registry,
            options=TickOptions(concurrency=5, linger_seconds=0, grace_seconds=0.3),
        )
        self._api = DataApi(settings.supabase_url)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Post]:
        """Work until the test is over."""
        await self.worker.register()
        yield self
        await self.worker.aclose()
        await self.webhooks.aclose()
        await self._api.aclose()

    async def call(self, function: str, **arguments: Any) -> Any:
        """Call a function as Ada."""
        return await self._api.rpc(
            function,
            {"p_workspace_id": ACME, **arguments},
            headers={
                "apikey": PUBLISHABLE_KEY,
                "Authorization": f"Bearer {self.project.token()}",
            },
            repeatable=False,
        )

    async def subscribe(self, url: str, **webhook: Any) -> dict[str, Any]:
        """Make a webhook of Acme's; returns it with its secret."""
        secret = await self._secrets.make(ACME)
        made: dict[str, Any] = await self.call(
            "put_webhook", p_webhook={"url": url, "sealed_secret": secret.sealed, **webhook}
        )
        return {**made, "secret": secret.plain}

    async def listed(self) -> dict[str, Any]:
        """The one webhook as its managers see it."""
        [webhook] = (await self.call("list_webhooks"))["webhooks"]
        assert isinstance(webhook, dict)
        return webhook

    async def settle(self) -> list[dict[str, Any]]:
        """Tick until nothing is due; returns the deliveries' rows in order.

        The last events are read by maintenance, a second after they happened: it is due at once.
        """
        for _ in range(3):
            await drain(self.worker)
            self.project.run_sql("update queue.tasks set done_at = '-infinity', was_idle = false")
        return self.project.rows(
            "select *, extract(epoch from next_retry_at - updated_at)::float as wait"
            " from public.jobs where job_type = 'webhook_delivery' order by created_at, id"
        )


@pytest.fixture
def project(renewed: Renewed, tmp_path: Path) -> Project:
    """A database behind a Data API; the engine lets webhooks lead to this machine."""
    key_file = {"sealing_key_file": str(tmp_path / "sealing.json")}
    settings = scratch_settings(renewed.gateway.url).model_copy(update=key_file)
    made = Project(settings, renewed, renewed.gateway)
    made.run_sql(
        "update queue.settings set value = 'true' where name = 'webhook_private_addresses'"
    )
    return made


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """A subscriber."""
    async with Endpoint().open() as running:
        yield running


@pytest.fixture
async def post(project: Project) -> AsyncIterator[Post]:
    """A worker in development, as patient as the engine allows."""
    async with Post(project).open() as open_:
        yield open_
