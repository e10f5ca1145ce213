"""One project for this room's tests, a provider endpoint, and beacon's API and worker in one hand.

The database is shared: each test writes specs and runs of its own and looks at those.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from minutehand.apps.beacon.processors import register
from minutehand.apps.beacon.services import Beacon
from minutehand.config import Settings
from minutehand.local.postgres import Postgres
from minutehand.webhooks.processors import Webhooks
from minutehand.webhooks.processors import register as register_webhooks
from minutehand.worker import Registry
from minutehand.worker.testing import drain
from tests.integration.beacon.provider import Provider
from tests.support.desk import AppDesk
from tests.support.project import ACME, Project, project_of_a_room

GLOBEX = "22222222-2222-4222-8222-222222222222"
EVE = "aaaaaaaa-0000-4000-8000-000000000003"
_names = itertools.count()


@pytest.fixture(scope="module")
def project(template: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A database behind a Data API, where this machine may be measured and told."""
    opened = ("webhook_private_addresses", "beacon_private_addresses")
    with project_of_a_room(template, *opened) as made:
        keys: Path = tmp_path_factory.mktemp("keys") / "sealing.json"
        made.settings = made.settings.model_copy(
            update={"sealing_key_file": str(keys), "worker_secret_tokens": ("operator",)}
        )
        yield made


class Station(AppDesk):
    """The whole app, where runs are ordered, and the webhooks that tell of them."""

    below = "/api/beacon"

    def __init__(self, project: Project, settings: Settings | None = None) -> None:
        settings = settings or project.settings
        beacon = Beacon(settings)
        webhooks = Webhooks(settings, answer_seconds=2)
        registry = Registry()
        register(registry, settings, app=beacon)
        register_webhooks(registry, settings, app=webhooks)
        super().__init__(project, settings, registry, beacon, webhooks, grace_seconds=0.3)

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
