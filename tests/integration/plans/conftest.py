"""One project for this room's tests, a language model's server, and the app in one hand.

The database is shared: each test starts plans of its own and looks at those.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from functions.jobs.app import build_app
from infra.local.bench.scratch import scratch_settings
from infra.local.ports import reserve_port
from infra.local.postgres import Postgres
from shared.apps.plans.processors import register
from shared.apps.plans.services import Plans
from shared.config import Settings
from shared.worker import Registry, TickOptions, Worker
from shared.worker.testing import drain
from tests.support.databases import fresh_database
from tests.support.project import ACME, ADA, Gateway, Project
from tests.unit.ai.model_server import KEY, ModelServer

EVE = "aaaaaaaa-0000-4000-8000-000000000003"
GOAL = "Move the harbour museum into the old customs house before the spring season."
#: What the server answers, so that a plan has three phases.
ANSWERS: dict[str, Any] = {
    "understand": {
        "restated_goal": "The museum moves.",
        "assumptions": ["The house is dry."],
        "questions": [{"question": "Who pays?", "options": ["The city", "The museum"]}],
    },
    "outline": {
        "phases": [
            {"title": "Survey", "objective": "Know the house."},
            {"title": "Pack", "objective": "Have all packed."},
            {"title": "Open", "objective": "Be open."},
        ]
    },
    **{
        f"phase_{number}": {
            "steps": [{"title": f"Step of {number}", "detail": "Do it."}],
            "deliverable": "It is done.",
            "days": number,
        }
        for number in (1, 2, 3)
    },
    "risks": {"risks": [{"risk": "Rain.", "mitigation": "Tarpaulins."}]},
    "review": {"summary": "It can be done.", "gaps": [], "next_step": "Call the city."},
}


@pytest.fixture(scope="module")
def project(template: Postgres) -> Iterator[Project]:
    """A database behind a Data API, with anonymous visits allowed."""
    with fresh_database(template) as database:
        database.seed()
        gateway = Gateway(database.url, reserve_port())
        gateway.start()
        try:
            made = Project(scratch_settings(gateway.url), database, gateway)
            made.run_sql("update queue.settings set value = 'true' where name = 'allow_anonymous'")
            yield made
        finally:
            gateway.stop()


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """The language model."""
    async with ModelServer() as running:
        running.answers = dict(ANSWERS)
        yield running


class Desk:
    """The whole app: its API per user, and ticks on demand."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self.project = project
        self.plans = Plans(settings)
        registry = Registry()
        register(registry, settings, app=self.plans)
        self.worker = Worker(
            settings,
            registry=registry,
            options=TickOptions(concurrency=8, linger_seconds=0, grace_seconds=5),
        )
        self._app = build_app(settings)
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self._app), base_url="http://api.test"
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Desk]:
        """Be open until the test is over."""
        async with self._app.router.lifespan_context(self._app):
            await self.worker.register()
            yield self
        await self._http.aclose()
        await self.worker.aclose()
        await self.plans.aclose()

    async def call(
        self, method: str, path: str, *, user: str | None = ADA, **options: Any
    ) -> httpx.Response:
        """Call the API as a user, Ada unless another is named; as nobody for None."""
        headers = options.pop("headers", {})
        if user is not None:
            headers["Authorization"] = f"Bearer {self.project.token(user)}"
        return await self._http.request(method, f"/api/plans{path}", headers=headers, **options)

    async def start(self, **fields: Any) -> dict[str, Any]:
        """Start a plan of Acme's that asks nothing, unless told otherwise."""
        body = {"workspace_id": ACME, "goal": GOAL, "ask": False, **fields}
        answer = await self.call("POST", "", json=body)
        assert answer.status_code == 201, answer.text
        plan: dict[str, Any] = answer.json()
        return plan

    async def look(self, plan: dict[str, Any]) -> dict[str, Any]:
        """The plan as its members see it."""
        answer = await self.call("GET", f"/{plan['id']}")
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        return state

    async def report(self, plan: dict[str, Any]) -> dict[str, Any]:
        """The plan's report."""
        answer = await self.call("GET", f"/{plan['id']}/report")
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        return report

    async def ended(self, plan: dict[str, Any], *, others_died: bool = False) -> dict[str, Any]:
        """Tick, backoffs over at once, until the plan has ended or asks something.

        Args:
            others_died: Let leases lapse that nobody of this test holds any more, again and
                again: a dead worker's last report may still have been on its way.
        """
        give_up = time.monotonic() + 120
        while time.monotonic() < give_up:
            if others_died:
                self.lapse()
            await drain(self.worker)
            state = await self.look(plan)
            if state["status"] not in {"pending", "running"}:
                return state
            self.make_due()
            await asyncio.sleep(0.02)  # lapsed leases are looked for now and then
        raise AssertionError(f"the plan does not end: {state}")

    def lapse(self) -> None:
        """Let every lease be over."""
        self.project.run_sql(
            "update queue.leases set expires_at = queue.clock() - interval '1 second'"
        )

    def make_due(self) -> None:
        """Let every backoff be over."""
        self.project.run_sql(
            "update queue.deferred set run_at = queue.clock() - interval '1 second'"
        )


@pytest.fixture
async def settings(project: Project, server: ModelServer) -> Settings:
    """The project's, with the server as its language model."""
    return project.settings.model_copy(
        update={
            "language_model_url": server.url,
            "language_model_key": KEY,
            "language_model": "test-model",
            "language_model_prices": (1.0, 2.0),
            "allow_anonymous": True,
        }
    )


@pytest.fixture
async def desk(project: Project, settings: Settings) -> AsyncIterator[Desk]:
    """The app on this room's project, with a language model."""
    async with Desk(project, settings).open() as desk:
        yield desk
