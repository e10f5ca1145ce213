"""A backend below the root, bigint keys, declared schemas, transactions of its own: to a job."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import psycopg

from infra.release.upgrades import WORK
from infra.release.wheels import Environment
from tests.install.projects import ADA, CONFIG, EVE, Hosted, HostedDatabase, data_api
from tests.install.test_projects import (
    add_leads,
    check_leads,
    check_stranger,
    enqueue,
    in_dev,
    remove,
    upgrade_to_second,
    with_own_table,
)  # fmt: skip

TABLES = """\
create extension if not exists "uuid-ossp" with schema extensions;
create table public.people (id bigint generated always as identity primary key,
  account uuid not null unique references auth.users (id) on delete cascade);
create table public.companies (id bigint generated always as identity primary key, name text);
create table public.company_members (company_id bigint not null references public.companies (id)
  on delete cascade, person_id bigint not null references public.people (id) on delete cascade,
  role text not null default 'owner', primary key (company_id, person_id));
create table public.notes (id uuid primary key default extensions.uuid_generate_v4(), said text);
"""
#: A processor whose module registers it, as one does that needs a client of its own.
LATE = """\
from pydantic import BaseModel
from minutehand.worker import Job, JobContext


class Late(BaseModel):
    pass


def register(registry, settings):
    assert settings.supabase_url

    @registry.processor("jobs.late", payload=Late)
    async def late(job: Job[Late], ctx: JobContext) -> str:
        return "registered inside"
"""


def test_a_backend_with_number_keys_beside_a_frontend(
    environment: Environment, newer: Environment, hosted: Hosted, tmp_path: Path
) -> None:
    """The refusal's own statement mends it; tenants are joined over keys and profiles."""
    backend = tmp_path / "backend"
    files = {
        "supabase/config.toml": CONFIG,
        "supabase/schemas/tables.sql": TABLES,
        "supabase/migrations/20250101120000_tables.sql": TABLES,
        "frontend/package.json": "{}",
        "backend/api/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    wanted = ("install", "--yes", "--tenancy", "existing")

    refused = environment.minutehand(backend, *wanted, code=1)["error"]
    statement = refused[refused.index("alter table") :]
    (tmp_path / "supabase/migrations/20250102120000_tenant.sql").write_text(statement)
    environment.minutehand(backend, *wanted)
    (backend / "jobs/processors/late.py").write_text(LATE)
    with_own_table(environment, backend, "company_id bigint references public.companies")

    with hosted.database() as database:
        database.push(tmp_path)
        database.sign_up()
        for user in (ADA, EVE):
            database.run("insert into public.people (account) values (%s)", user)
            database.run("insert into public.companies (name) values (%s)", user)
        database.run("insert into public.company_members (company_id, person_id) values (1, 1)")
        database.run("insert into public.company_members (company_id, person_id) values (2, 2)")
        [(tenant,)] = database.run("select job_tenant::text from public.companies where id = 1")
        add_leads(database, "1", "2")
        with data_api(database, "minutehand") as api:
            env = {**api.env, "PYTHONPATH": str(backend)}
            environment.run(tmp_path, "-c", WORK, env=env)
            job, late = enqueue(api.of(ADA), tenant, "Ada"), in_their_transaction(database, tenant)
            environment.run(tmp_path, "-c", WORK, env=env)

            check_leads(api.of(ADA), database)
            rows = api.of(ADA).rows("jobs", job_type="like.jobs.*")
            assert {row["id"]: row["result"] for row in rows} == {
                job: {"greeting": "Hello, Ada!"},
                late: "registered inside",
            }
            check_stranger(api.of(ADA), api.of(EVE), tenant)
        upgrade_to_second(newer, tmp_path, database)
        remove(newer, tmp_path, database)


def in_their_transaction(database: HostedDatabase, tenant: str) -> str:
    """Enqueue with a write of theirs, twice; the first is rolled back, and its job with it."""
    call = "select minutehand.enqueue_job(%s, 'jobs.late', '{}') -> 'job' ->> 'id'"
    with psycopg.connect(database.owner_url) as connection:
        connection.execute("insert into public.notes (said) values ('no')")
        connection.execute(call, (tenant,))
        connection.rollback()
        connection.execute("insert into public.notes (said) values ('yes')")
        row = connection.execute(call, (tenant,)).fetchone()
        assert row is not None
        connection.commit()
        assert connection.execute("select said from public.notes").fetchall() == [("yes",)]
    return str(UUID(row[0]))


def test_a_package_of_a_source_folder_runs_in_dev(environment: Environment, tmp_path: Path) -> None:
    """The stack imports it from where `source` says, in a path with a space."""
    project = tmp_path / "My Projects"
    (project / "services" / "api").mkdir(parents=True)
    (project / "supabase").mkdir()
    (project / "supabase" / "config.toml").write_text(CONFIG)
    environment.minutehand(project / "services", "install", "--yes", "--tenancy", "personal")
    assert 'source = "services"' in (project / "minutehand.toml").read_text()

    with in_dev(environment, project) as stack, stack.connect() as connection:
        result = connection.execute("select result from minutehand.jobs").fetchall()

    assert result == [({"greeting": "Hello, Ada!"},)]
