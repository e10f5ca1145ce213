"""One test's own project with enrichment's seed: a database, a Data API, the API, a worker.

Ticks are run by the tests themselves, so that what happens between two of them is certain.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.bench.scratch import scratch_settings
from minutehand.config import Settings
from minutehand.worker import Registry, TickSummary
from minutehand_apps.enrichment.processors import register
from minutehand_apps.enrichment.services import Enrichment
from tests.support.fake_aws import fake_aws
from tests.support.harness import AppHarness
from tests.support.project import ACME, ADA, Gateway, Project
from tests.support.renewed import Renewed
from tests.unit.enrichment.apollo_server import KEY, ApolloServer

GLOBEX = "22222222-2222-4222-8222-222222222222"
BOB = "aaaaaaaa-0000-4000-8000-000000000002"
EVE = "aaaaaaaa-0000-4000-8000-000000000003"
INITECH = "ac000000-0000-4000-8000-000000000001"
NOBODY_LTD = "ac000000-0000-4000-8000-000000000008"
SOYLENT = "9c000000-0000-4000-8000-000000000001"
PETER = "cc000000-0000-4000-8000-000000000001"
ROBERT = "dc000000-0000-4000-8000-000000000001"
BUCKET = "minutehand-test-uploads"


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """Amazon, on this machine: S3 and KMS."""
    with fake_aws() as endpoint:
        yield endpoint


@pytest.fixture
def gateway(renewed: Renewed) -> Gateway:
    """The Data API over this test's project, with the demo users and the seeds."""
    return renewed.gateway


@pytest.fixture
def settings(
    gateway: Gateway, tmp_path: Path, aws: str, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """The project's settings, offline Apollo as in local development."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return scratch_settings(gateway.url).model_copy(
        update={
            "sealing_key_file": str(tmp_path / "sealing.json"),
            "uploads_bucket": BUCKET,
            "aws_endpoint_url": aws,
            "environ": {"USE_MOCK_APOLLO": "true"},
        }
    )


@pytest.fixture
def project(settings: Settings, renewed: Renewed) -> Project:
    """Eyes on the tables, and plain SQL."""
    return Project(settings, renewed.database, renewed.gateway)


class Office(AppHarness):
    """The whole app: jobs are ordered, a tick is run, the tables are looked at."""

    def __init__(self, settings: Settings, project: Project) -> None:
        self.enrichment = Enrichment(settings, offline_call_seconds=0.01)
        registry = Registry()
        register(registry, settings, app=self.enrichment)
        super().__init__(
            project, settings, registry, self.enrichment, concurrency=5, grace_seconds=0.3
        )

    async def enqueue(
        self, job_type: str, payload: dict[str, Any], *, workspace: str = ACME, user: str = ADA
    ) -> str:
        """Create a job over HTTP."""
        body = {"workspace_id": workspace, "job_type": job_type, "payload": payload}
        answer = await self.call("POST", "/api/jobs", user=user, json=body)
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    async def tick(self, *, budget: float = 60.0) -> TickSummary:
        """Run one tick to its end."""
        summary = await self.worker.tick(budget_seconds=budget)
        assert summary.error is None
        return summary

    async def run(self, job_type: str, payload: dict[str, Any], **who: str) -> dict[str, Any]:
        """Create a job, run one tick, and look at the job's row."""
        job_id = await self.enqueue(job_type, payload, **who)
        await self.tick()
        return self.project.row(job_id)

    def account(self, account_id: str = INITECH) -> dict[str, Any]:
        """An account's row."""
        [row] = self.project.rows("select * from public.accounts where id = %s", account_id)
        return row

    def contact(self, contact_id: str = PETER) -> dict[str, Any]:
        """A contact's row."""
        [row] = self.project.rows("select * from public.contacts where id = %s", contact_id)
        return row

    def credits(self, workspace: str = ACME) -> int:
        """Credits counted so far."""
        [row] = self.project.rows(
            "select enrichment_credits_used as used from public.workspace_settings"
            " where workspace_id = %s",
            workspace,
        )
        used: int = row["used"]
        return used

    def logs(self, job_id: str) -> list[str]:
        """The job's log messages in order."""
        rows = self.project.rows(
            "select message from public.job_logs where job_id = %s order by id", job_id
        )
        return [row["message"] for row in rows]

    @contextmanager
    def accounts_refusing(self) -> Iterator[None]:
        """No account can be written meanwhile, as on a disk that is full."""
        self.project.run_sql(
            "create function public.crash() returns trigger language plpgsql as"
            " $$ begin raise exception 'the disk is full' using errcode = '53100'; end $$"
        )
        self.project.run_sql(
            "create trigger crash before update on public.accounts for each row"
            " execute function public.crash()"
        )
        yield
        self.project.run_sql("drop function public.crash cascade")

    def set_settings(self, **columns: Any) -> None:
        """Set Acme's settings by plain SQL."""
        for column, value in columns.items():
            self.project.run_sql(
                f"update public.workspace_settings set {column} = %s where workspace_id = %s",
                value,
                ACME,
            )


@pytest.fixture
async def office(settings: Settings, project: Project) -> AsyncIterator[Office]:
    """The app on a project of this test alone, with Apollo offline."""
    async with Office(settings, project).open() as office:
        yield office


@pytest.fixture
def bucket(aws: str, office: Office) -> None:
    """The uploads bucket."""
    s3 = boto3.client("s3", endpoint_url=aws, region_name="us-east-1")
    s3.create_bucket(Bucket=BUCKET)
    s3.close()


@pytest.fixture
async def apollo() -> AsyncIterator[ApolloServer]:
    """Apollo, on this machine."""
    async with ApolloServer() as server:
        yield server


@pytest.fixture
async def online(
    settings: Settings, project: Project, apollo: ApolloServer
) -> AsyncIterator[Office]:
    """The app with the real client, pointed at a local Apollo, and Acme with a key of its own."""
    live = settings.with_environ(USE_MOCK_APOLLO="false", APOLLO_BASE_URL=apollo.base_url)
    async with Office(live, project).open() as office:
        path = f"/api/workspaces/{ACME}/settings"
        stored = await office.call("PUT", path, json={"apollo_api_key": KEY})
        assert stored.status_code == 200, stored.text
        yield office
