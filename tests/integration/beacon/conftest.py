"""One project for this room's tests, a provider endpoint, and beacon's API and worker in one hand.

The database is shared: each test writes specs and runs of its own and looks at those.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions.jobs.app import build_app
from infra.local.bench.scratch import scratch_settings
from infra.local.ports import reserve_port
from infra.local.postgres import Postgres
from shared.apps.beacon.processors import register
from shared.apps.beacon.services import Beacon
from shared.apps.webhooks.processors import Webhooks
from shared.apps.webhooks.processors import register as register_webhooks
from shared.config import Settings
from shared.worker import Registry, TickOptions, Worker
from shared.worker.testing import drain
from tests.integration.beacon.provider import Provider
from tests.support.databases import fresh_database
from tests.support.project import ACME, ADA, Gateway, Project

GLOBEX = "22222222-2222-4222-8222-222222222222"
EVE = "aaaaaaaa-0000-4000-8000-000000000003"
_names = itertools.count()


@pytest.fixture(scope="module")
def project(template: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A database behind a Data API, where this machine may be measured and told."""
    with fresh_database(template) as database:
        database.seed()
        gateway = Gateway(database.url, reserve_port())
        gateway.start()
        try:
            keys: Path = tmp_path_factory.mktemp("keys") / "sealing.json"
            settings = scratch_settings(gateway.url).model_copy(
                update={"sealing_key_file": str(keys), "worker_secret_tokens": ("operator",)}
            )
            made = Project(settings, database, gateway)
            made.run_sql(
                "update queue.settings set value = 'true'"
                " where name in ('webhook_private_addresses', 'beacon_private_addresses')"
            )
            yield made
        finally:
            gateway.stop()


class Station:
    """The whole app: its API per user, and ticks on demand."""

    def __init__(self, project: Project, settings: Settings | None = None) -> None:
        self.project = project
        self.settings = settings or project.settings
        self.beacon = Beacon(self.settings)
        self.webhooks = Webhooks(self.settings, answer_seconds=2)
        registry = Registry()
        register(registry, self.settings, app=self.beacon)
        register_webhooks(registry, self.settings, app=self.webhooks)
        self.worker = Worker(
            self.settings,
            registry=registry,
            options=TickOptions(concurrency=8, linger_seconds=0, grace_seconds=0.3),
        )
        self._app = build_app(self.settings)
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self._app), base_url="http://api.test"
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Station]:
        """Be open until the test is over."""
        async with self._app.router.lifespan_context(self._app):
            await self.worker.register()
            yield self
        await self._http.aclose()
        await self.worker.aclose()
        await self.beacon.aclose()
        await self.webhooks.aclose()

    async def call(
        self, method: str, path: str, *, user: str | None = ADA, **options: Any
    ) -> httpx.Response:
        """Call the API as a user, Ada unless another is named."""
        headers = options.pop("headers", {})
        if user is not None:
            headers["Authorization"] = f"Bearer {self.project.token(user)}"
        return await self._http.request(method, f"/api/beacon{path}", headers=headers, **options)

    async def write(self, url: str, **fields: Any) -> dict[str, Any]:
        """Write a spec of Acme's under a name of its own."""
        body = {
            "workspace_id": ACME,
            "name": f"spec {next(_names)}",
            "target": {"url": url},
            "regions": ["eu-west-1"],
            "samples": 6,
            "warm_up": 0,
            "concurrency": 2,
            "timeout_ms": 5000,
            **fields,
        }
        answer = await self.call("POST", "/specs", json=body)
        assert answer.status_code == 201, answer.text
        spec: dict[str, Any] = answer.json()
        return spec

    async def start(self, url: str, **fields: Any) -> dict[str, Any]:
        """Write a spec and start a run of it."""
        spec = await self.write(url, **fields)
        answer = await self.call("POST", f"/specs/{spec['id']}/runs")
        assert answer.status_code == 201, answer.text
        run: dict[str, Any] = answer.json()
        return run

    async def ended(self, run: dict[str, Any]) -> dict[str, Any]:
        """Tick until nothing is due; the run as it stands then."""
        await drain(self.worker)
        return await self.look(run)

    async def look(self, run: dict[str, Any]) -> dict[str, Any]:
        """The run as its members see it."""
        answer = await self.call("GET", f"/runs/{run['id']}")
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        return state

    async def bundle(self, run: dict[str, Any]) -> dict[str, Any]:
        """The run's bundle."""
        bundle: dict[str, Any] = (await self.call("GET", f"/runs/{run['id']}/bundle")).json()
        return bundle

    def make_due(self) -> None:
        """Let every wait and backoff be over."""
        self.project.run_sql(
            "update queue.deferred set run_at = queue.clock() - interval '1 second'"
        )

    def chain(self) -> list[dict[str, Any]]:
        """Acme's receipts in order; fails if the chain has a gap or a wrong link."""
        rows = self.project.rows(
            "select * from public.beacon_receipts where workspace_id = %s order by number", ACME
        )
        assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
        assert [row["previous"] for row in rows] == [None, *(row["digest"] for row in rows)][:-1]
        return rows


@pytest.fixture
async def station(project: Project) -> AsyncIterator[Station]:
    """The app on this room's project."""
    async with Station(project).open() as station:
        yield station


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """What is measured."""
    async with Provider().open() as running:
        yield running
