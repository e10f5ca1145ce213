"""The runtime under another schema name: the Data API's profile, doctor, the console's settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.bench.scratch import PUBLISHABLE_KEY, Gateway, scratch_settings, user_token
from minutehand.cli.doctor import database as of_database
from minutehand.cli.doctor import service
from minutehand.cli.doctor.findings import Finding, Target, Verdict
from minutehand.functions.jobs.app import build_app as writing_app
from minutehand.functions.status.app import build_app as reading_app
from minutehand.install.project import Answers, plan_install
from minutehand.install.tenancy import Personal
from minutehand.local import migrations
from minutehand.local.ports import reserve_port
from minutehand.local.postgres import Postgres
from minutehand.local.site import console_config
from minutehand.queue import QueueClient
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError
from minutehand.web.services import Services
from tests.install.projects import ADA, Hosted, HostedDatabase
from tests.install.test_install import NOON
from tests.install.test_tenancies import OURS


@pytest.fixture
def installed(postgres: Postgres, tmp_path: Path) -> Iterator[HostedDatabase]:
    """A project in `tmp_path` whose jobs are in the schema minutehand, and its database."""
    plan_install(tmp_path, Answers(OURS, Personal()), now=NOON).apply()
    with Hosted(postgres, Path()).database() as database:
        files = migrations.migrations_in(tmp_path / "supabase" / "migrations")
        migrations.apply_migrations(database.owner_url, files)
        yield database


def target(database: HostedDatabase, root: Path, url: str = "") -> Target:
    """The project as doctor looks at it."""
    values = {
        "DATABASE_URL": database.url,
        "SUPABASE_URL": url,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
    }
    return Target(values, root=root)


def test_doctor_asks_and_advises_in_the_projects_own_names(
    installed: HostedDatabase, tmp_path: Path
) -> None:
    """A healthy database has nothing wrong; what is broken is named as it is called here."""
    looked = target(installed, tmp_path)

    def look() -> dict[str, Finding]:
        # only a running worker registers types, and the scratch server's WAL is another matter
        checks = [check for check in of_database.CHECKS if check.name != "job-types"]
        return {check.name: check.run(looked) for check in checks}

    try:
        assert [found for found in look().values() if found.verdict is Verdict.FAIL] == []
        installed.run("revoke execute on function minutehand.get_job from authenticated")
        installed.run("grant select on minutehand_engine.leases to anon")
        found = look()
    finally:
        looked.close()

    assert found["grants"].fix == (
        "grant execute on function minutehand.get_job to authenticated; or "
        "start `minutehand dev` again, or beside `supabase start`: supabase migration up"
    )
    assert found["engine-tables"].fix == "revoke all on minutehand_engine.leases from anon"


async def test_a_schema_that_the_data_api_does_not_expose_is_named(
    installed: HostedDatabase, tmp_path: Path
) -> None:
    """As PostgREST says it, PGRST106; exposed, the same check is content."""
    found = {}
    for schema in ("public", "minutehand"):
        gateway = Gateway(installed.url, reserve_port(), schema=schema)
        gateway.start()
        try:
            looked = target(installed, tmp_path, gateway.url)
            found[schema] = (service.supabase(looked), service.exposed_schemas(looked))
            settings = scratch_settings(gateway.url).model_copy(
                update={"schema_name": "minutehand", "apps": ()}
            )
            client = QueueClient(settings)
            try:
                if schema == "public":
                    with pytest.raises(QueueError, match="minutehand"):
                        await client.acting_as(None).get_job(ADA)
            finally:
                await client.aclose()
        finally:
            gateway.stop()

    refused, accepted = found["public"][0], found["minutehand"][0]
    assert (refused.verdict, accepted.verdict) == (Verdict.FAIL, Verdict.OK)
    assert "to `[api] schemas` of supabase/config.toml" in (refused.fix or "")
    assert {hidden.verdict for _, hidden in found.values()} == {Verdict.OK}
    assert "minutehand_engine" in found["minutehand"][1].detail


async def test_every_call_names_the_schema() -> None:
    """Reads by one header, functions by the other; a project may expose others first."""
    seen: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.headers["accept-profile"], request.headers["content-profile"]))
        return httpx.Response(200, json=[])

    for schema in ("minutehand", "public"):
        transport = httpx.MockTransport(answer)
        api = DataApi("http://127.0.0.1:1", schema=schema, transport=transport)
        await api.rpc("get_job", {}, headers={}, repeatable=False)
        await api.select("jobs", [], headers={})
        await api.aclose()

    assert seen == [("minutehand",) * 2] * 2 + [("public",) * 2] * 2


async def test_the_api_writes_and_reads_there(installed: HostedDatabase) -> None:
    """Every kind of read: a job, its events and lines, a workspace's feed, a stream's page."""
    installed.sign_up()
    installed.run("""select minutehand.register_job_types('[{"job_type": "x"}]')""")
    gateway = Gateway(installed.url, reserve_port(), schema="minutehand")
    gateway.start()
    settings = scratch_settings(gateway.url, schema="minutehand")
    services = Services(settings.model_copy(update={"apps": ()}))
    try:
        transports = [
            httpx.ASGITransport(build(services.settings, services=services))
            for build in (writing_app, reading_app)
        ]
        headers = {"authorization": f"Bearer {user_token(ADA)}"}
        write, read = (
            httpx.AsyncClient(transport=transport, base_url="http://api.test", headers=headers)
            for transport in transports
        )
        async with write, read:
            body = {"workspace_id": ADA, "job_type": "x"}
            made = await write.post("/api/jobs", json=body)
            job = f"/api/jobs/{made.json()['id']}"
            asked = [
                await read.get(path)
                for path in (
                    "/api/jobs", job, f"{job}/events", f"{job}/logs", f"{job}/explain",
                    f"/api/workspaces/{ADA}/events",
                )
            ]  # fmt: skip
    finally:
        await services.aclose()
        gateway.stop()

    assert made.status_code == 201, made.text
    assert [answer.status_code for answer in asked] == [200] * len(asked)
    assert [event["type"] for event in asked[2].json()["events"]] == ["job.created"]


def test_the_console_gets_the_schema() -> None:
    """Its client selects from there."""
    settings = scratch_settings("http://127.0.0.1:1")

    named = console_config(settings.model_copy(update={"schema_name": "minutehand"}), {})
    assert (named["schema"], console_config(settings, {})["schema"]) == ("minutehand", "public")
