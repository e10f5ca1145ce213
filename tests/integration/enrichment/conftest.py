"""Fixtures of the enrichment app: a database with seed data, a Data API, the API and a worker.

Tests run the worker themselves, so that the state between two runs is certain.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.bench.scratch import scratch_settings
from minutehand.config import Settings
from minutehand_apps.enrichment.processors import register
from minutehand_apps.enrichment.services import Enrichment
from tests.integration.enrichment.apollo_server import KEY, ApolloServer
from tests.support.engine import ACME, Json
from tests.support.harness import AppHarness
from tests.support.project import Project
from tests.support.renewed import Renewed

INITECH = "ac000000-0000-4000-8000-000000000001"
UNKNOWN_LTD = "ac000000-0000-4000-8000-000000000008"
SOYLENT = "9c000000-0000-4000-8000-000000000001"
PETER = "cc000000-0000-4000-8000-000000000001"
SETTINGS = f"/api/workspaces/{ACME}/settings"


@pytest.fixture
def project(renewed: Renewed, tmp_path: Path) -> Project:
    """A database with seed data, a Data API, and the offline client of Apollo."""
    settings = scratch_settings(
        renewed.gateway.url,
        sealing_key_file=str(tmp_path / "sealing.json"),
        environ={"USE_MOCK_APOLLO": "true"},
    )
    return Project(settings, renewed)


class Office(AppHarness):
    """The enrichment app, with functions to enqueue jobs, run the worker and read the tables."""

    def __init__(self, settings: Settings, project: Project) -> None:
        self.enrichment = Enrichment(settings, offline_call_seconds=0.01)
        super().__init__(project, settings, register, self.enrichment, grace_seconds=0.3)

    async def enqueue(self, record_id: str = INITECH, kind: str = "account") -> str:
        """Create the enrichment job of a record over HTTP, and return the job's id."""
        payload = {f"{kind}_id": record_id}
        body = {"workspace_id": ACME, "job_type": f"enrich_{kind}", "payload": payload}
        return (await self.ok("POST", "/api/jobs", json=body))["id"]

    async def tick(self, job_id: str) -> Json:
        """Run the worker until it has leased the job once more, and return the job's row."""
        fence = self.project.row(job_id)["fence"]
        while True:
            summary = await self.worker.tick(budget_seconds=60)
            assert summary.error is None
            row = self.project.row(job_id)
            if row["fence"] > fence:
                return row
            await asyncio.sleep(0.1)  # due jobs become ready once a second

    async def run(self, *of: str) -> Json:
        """Create a job, run the worker until it has leased the job, and return the job's row."""
        return await self.tick(await self.enqueue(*of))

    def record(self, table: str, record_id: str) -> Json:
        """Read the row of an account or a contact."""
        [row] = self.project.sql(f"select * from {table} where id = %s", record_id)
        return row

    def credits(self) -> int:
        """The credits that were counted for the workspace Acme so far."""
        [row] = self.project.sql(
            "select enrichment_credits_used as used from workspace_settings"
            " where workspace_id = %s",
            ACME,
        )
        return row["used"]


@pytest.fixture
async def office(project: Project) -> AsyncIterator[Office]:
    """The running enrichment app with the offline client of Apollo."""
    async with Office(project.settings, project).open() as office:
        yield office


@pytest.fixture
async def apollo() -> AsyncIterator[ApolloServer]:
    """The running local server of Apollo's API."""
    async with ApolloServer() as server:
        yield server


@pytest.fixture
async def online(project: Project, apollo: ApolloServer) -> AsyncIterator[Office]:
    """The running app with the real client, the local Apollo server and a key of Acme."""
    live = project.settings.with_environ(USE_MOCK_APOLLO="false", APOLLO_BASE_URL=apollo.base_url)
    async with Office(live, project).open() as office:
        await office.ok("PUT", SETTINGS, json={"apollo_api_key": KEY})
        yield office
