"""The pages run where they are read: in a default install of each tenancy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from minutehand.cli.__main__ import app
from minutehand.docs import DEFAULT, JOB_TYPE, PAGES, TENANT, render, sql_blocks
from minutehand.install.project import Answers, plan_install
from minutehand.install.rewrite import Schemas
from minutehand.install.tenancy import Personal, Tenants, existing
from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from tests.install.projects import ADA, Hosted, HostedDatabase, bakery
from tests.install.test_install import NOON
from tests.support.extensions import PG_CRON, PG_NET, VAULT, create
from tests.support.paths import ROOT

TEAM = "33333333-3333-4333-8333-333333333333"
HELLO = [
    {
        "job_type": JOB_TYPE,
        "payload_schema": {
            "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}},
            "additionalProperties": False,
        },
    }
]  # fmt: skip
#: What is left in the queues that the page on adoption drains.
OTHER_QUEUES = (ROOT / "tests/fixtures/other_queues.sql").read_text("utf-8")


@pytest.fixture(
    scope="module",
    params=[
        Tenants(),
        Personal(),
        existing("organizations(id,name)", "memberships(organization_id,user_id,role)"),
    ],
    ids=lambda tenants: tenants.kind,
)
def placed(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HostedDatabase, str]]:
    """A default install with one tenant, and the tenant's id."""
    folder = bakery(tmp_path_factory.mktemp("pages"))
    kind = request.param.kind
    plan_install(folder, Answers(DEFAULT, request.param), now=NOON).apply()
    with Hosted(postgres, Path()).database() as database:
        files = migrations.migrations_in(folder / "supabase" / "migrations")
        migrations.apply_migrations(database.owner_url, files)
        database.sign_up()
        if kind == "workspaces":
            database.run("insert into minutehand.workspaces values (%s, 'Team')", TEAM)
        elif kind == "existing":
            database.run("insert into public.organizations values (%s, 'Team')", TEAM)
        database.run("select minutehand.register_job_types(%s)", json.dumps(HELLO))
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            create(connection, PG_CRON, PG_NET, VAULT)
            connection.execute(OTHER_QUEUES.encode())
            for name in ("nightly", "drain-greet"):
                connection.execute("select cron.schedule(%s, '0 3 * * *', 'select 1')", (name,))
        yield database, ADA if kind == "personal" else TEAM


def test_every_sql_block_runs(placed: tuple[HostedDatabase, str]) -> None:
    """As printed, in the dashboard's SQL editor; only the tenant is the reader's."""
    database, tenant = placed
    ran = {}
    for page in PAGES:
        blocks = sql_blocks(render(page.text, DEFAULT, tenant=tenant))
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            for block in blocks:
                # what a reader does when all is moved; pgmq itself is not on this server
                then = " ".join(re.findall(r"^-- then: (.*)", block, re.MULTILINE))
                later = [one for one in then.split(";") if one.strip() and "pgmq." not in one]
                try:
                    for statement in (block, *later):
                        connection.execute(statement.encode())
                except psycopg.Error as error:
                    pytest.fail(f"{page.path}: {error}\n{block}")
        ran[page.topic] = len(blocks)

    assert {topic for topic, number in ran.items() if number} == {
        "install", "sql", "own-data", "app", "context", "container", "adopt", "data",
    }  # fmt: skip
    assert sum(ran.values()) >= 14
    left = "select name, state::text, blocked from pgboss.job order by 1, 2"
    assert database.run(left) == [
        ("greet", "active", False), ("greet", "created", True), ("other", "created", False),
    ]  # fmt: skip
    assert database.run("select count(*) from pgmq.q_greet") == [(1,)]
    assert database.run("select id from public.kombu_message order by id") == [(3,), (4,)]
    of_others = "select jobname from cron.job where jobname not like 'minutehand-%'"
    assert database.run(of_others) == []
    [(cron, zone, payload)] = database.run(
        "select cron, timezone, payload from minutehand_engine.schedules where name = 'breakfast'"
    )
    assert (cron, zone, payload) == ("30 7 * * 1-5", "Europe/Berlin", {"name": "Ada"})
    moved = database.run(
        "select payload ->> 'name', count(*), bool_or(scheduled_for > now() + interval '1 hour')"
        " from minutehand.jobs where idempotency_key ~ '-' and payload ->> 'name' <> 'Eve'"
        " group by 1 order by 1"
    )
    assert [name for name, *_ in moved] == ["Ada", "Grace"]
    assert dict((name, late) for name, _, late in moved)["Grace"]
    assert database.run("select 1 from minutehand.jobs where payload ->> 'name' = 'Eve'") == []
    tagged = "select count(*) from minutehand_engine.job_tags where tag like 'user:%'"
    assert database.run(tagged) == [(0,)]


def test_pages_take_a_projects_names_and_leave_python_alone() -> None:
    """A module's name and a schema's are the same word."""
    text = (
        f"```sql\nselect minutehand.enqueue_job('{TENANT}', 'jobs.hello');\n```\n"
        "`select minutehand_engine.x()` and `minutehand.client`\n"
        "```python\nfrom minutehand.worker import Job  # jobs.hello\n```\n"
    )

    assert render(text, Schemas("app"), tenant="T", job_type="shop.pack") == (
        "```sql\nselect app.enqueue_job('T', 'shop.pack');\n```\n"
        "`select app_engine.x()` and `minutehand.client`\n"
        "```python\nfrom minutehand.worker import Job  # shop.pack\n```\n"
    )


def test_the_command_prints_a_page_of_this_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its schema, its tenants and a type of its own; a word that is no topic is searched for."""
    (tmp_path / "minutehand.toml").write_text(
        'apps = ["shop_jobs"]\nschema = "app"\ntenancy = "personal"\n'
    )
    (tmp_path / "shop_jobs").mkdir()
    (tmp_path / "shop_jobs" / "__init__.py").touch()
    (tmp_path / "shop_jobs" / "processors.py").write_text(
        "from pydantic import BaseModel\nfrom minutehand.worker import Registry\n"
        "class Pack(BaseModel):\n    name: str\n"
        "def register(registry: Registry, settings):\n"
        "    @registry.processor('shop.pack', payload=Pack)\n"
        "    async def pack(job, ctx) -> str:\n        return job.payload.name\n"
    )
    local = tmp_path / ".local"
    local.mkdir()
    (local / "env").write_text(f"DEMO_WORKSPACE_ID={ADA}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    page = CliRunner().invoke(app, ["docs", "sql"])
    found = CliRunner().invoke(app, ["docs", "idempotency", "--json"])
    missing = CliRunner().invoke(app, ["docs", "no such words"])

    assert f"select app.enqueue_job('{ADA}', 'shop.pack'" in page.stdout
    assert not re.search(r"minutehand\.\w+\(|jobs\.hello", page.stdout)
    assert "tenants are your users" in page.stderr
    assert "sql" in {hit["topic"] for hit in json.loads(found.stdout)}
    assert missing.exit_code == 1
