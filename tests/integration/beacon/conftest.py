"""One project for these tests, three provider servers, and beacon's API and worker in one hand.

The database is shared: each test submits specs of its own and looks at those.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from minutehand.config import Settings
from minutehand.worker import Registry, publishing, remote
from minutehand.worker.testing import drain
from minutehand_apps.beacon import outbox
from minutehand_apps.beacon.local import HOMES
from minutehand_apps.beacon.local.provider_server import Faults, ProviderServer
from minutehand_apps.beacon.outbox import Outbox
from minutehand_apps.beacon.processors import register
from minutehand_apps.beacon.services import Beacon
from tests.support.harness import AppHarness, serving
from tests.support.project import ACME, Project, project_of_a_room
from tests.support.renewed import Renewed

GLOBEX = "22222222-2222-4222-8222-222222222222"
EVE = "aaaaaaaa-0000-4000-8000-000000000003"
QUESTIONS = [
    "What is the capital of France?",
    {"id": "m1", "question": "What is two and two?", "category": "mathematics"},
]
ENDED = ("completed", "failed", "cancelled")
_names = itertools.count(1)


@pytest.fixture(scope="module")
def project(renewed_project: Renewed, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A seeded database behind a Data API."""
    made = project_of_a_room(renewed_project)
    keys: Path = tmp_path_factory.mktemp("keys") / "sealing.json"
    made.settings = made.settings.model_copy(update={"sealing_key_file": str(keys)})
    return made


class Providers:
    """The three providers of the local stack, each a real HTTP server on a port of its own."""

    def __init__(self) -> None:
        self.by_name = {name: ProviderServer(name, seed=1) for name in HOMES}
        self.urls: dict[str, str] = {}

    @property
    def variable(self) -> str:
        """BEACON_PROVIDERS for them."""
        return json.dumps(
            [
                {"name": name, "url": self.urls[name], "regions": list(homes)}
                for name, homes in HOMES.items()
            ]
        )

    def faults(self, name: str | None, region: str = "*", **faults: Any) -> None:
        """Have one misbehave in a region, or all of them."""
        for each in self.by_name if name is None else [name]:
            self.by_name[each].faults[region] = Faults(**faults)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Providers]:
        """Serve until the block is left."""
        async with AsyncExitStack() as stack:
            for name, provider in self.by_name.items():
                self.urls[name] = await stack.enter_async_context(serving(provider.app))
            yield self


class Station(AppHarness):
    """The whole app: its API, and a worker that ticks when it is told to."""

    below = "/api/v1"

    def __init__(
        self, project: Project, providers: Providers, *, settings: Settings | None = None
    ) -> None:
        settings = (settings or project.settings).with_environ(BEACON_PROVIDERS=providers.variable)
        self.beacon = Beacon(settings)
        registry = Registry()
        register(registry, settings, app=self.beacon)
        super().__init__(project, settings, registry, self.beacon, grace_seconds=2)

    def spec(self, **fields: Any) -> dict[str, Any]:
        """A job spec with an id of its own; `constraints` are merged."""
        constraints = {
            "regions": ["us-east", "eu-west"],
            "min_regions": 1,
            **fields.pop("constraints", {}),
        }
        return {
            "jobspec_id": f"spec-{next(_names)}",
            "version": "1",
            "benchmark": {"name": "trivia"},
            "constraints": constraints,
            "questions": QUESTIONS,
            **fields,
        }

    async def submit(self, **fields: Any) -> dict[str, Any]:
        """Submit a spec for Acme."""
        body = {"workspace_id": ACME, **self.spec(**fields)}
        answer = await self.call("POST", "/jobs", json=body)
        assert answer.status_code == 202, answer.text
        submitted: dict[str, Any] = answer.json()
        return submitted

    async def look(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job as its members see it."""
        answer = await self.call("GET", f"/jobs/{job['id']}")
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        return state

    async def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        """Tick, backoffs over at once, until the job has ended."""
        return await self.tick_until(lambda: self.look(job), lambda state: state["status"] in ENDED)

    async def publish(self) -> int:
        """Move what is due from the outbox into the queue, without running anything."""
        return await self.outbox.run()

    @property
    def outbox(self) -> Outbox:
        """The publisher behind the worker's runs."""
        publish = self.worker.registry.publishers["beacon"]
        outbox: Outbox = publish.__self__  # type: ignore[attr-defined]
        return outbox

    async def reconcile(self) -> dict[str, int]:
        """Reconcile now, whoever did before."""
        self.project.run_sql("delete from beacon.reconciliations")
        return await self.outbox.reconcile()

    async def tick(self) -> None:
        """Tick until nothing is due."""
        await drain(self.worker)

    async def receipt(self, execution: dict[str, Any]) -> dict[str, Any]:
        """An execution's receipt."""
        answer = await self.call("GET", f"/executions/{execution['id']}/receipt")
        assert answer.status_code == 200, answer.text
        receipt: dict[str, Any] = answer.json()
        return receipt

    def chain(self) -> list[dict[str, Any]]:
        """Acme's receipts in order; fails if the chain has a gap or a wrong link."""
        rows = self.project.rows(
            "select * from public.beacon_receipts where workspace_id = %s order by number", ACME
        )
        assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
        assert [row["previous"] for row in rows] == [None, *(row["digest"] for row in rows)][:-1]
        return rows


@pytest.fixture(autouse=True)
def _patient_publisher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Production asks again a moment later; most tests look at what one call has done."""
    monkeypatch.setattr(outbox, "CLAIM_SECONDS", 60.0)
    monkeypatch.setattr(publishing, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(remote, "CANCEL_SECONDS", 60.0)


@pytest.fixture
async def providers() -> AsyncIterator[Providers]:
    """What is asked."""
    async with Providers().open() as running:
        yield running


@pytest.fixture
async def station(project: Project, providers: Providers) -> AsyncIterator[Station]:
    """The app on this project."""
    project.run_sql("delete from beacon.provider_health")
    async with Station(project, providers).open() as station:
        yield station
