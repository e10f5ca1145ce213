"""Projects that are not ours, and a hosted database for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY, Gateway, user_token
from infra.release.catalogue import catalogue
from infra.release.supabase_cli import push
from minutehand.install.rewrite import Schemas
from minutehand.local.ports import reserve_port
from minutehand.local.postgres import Postgres
from tests.support.databases import HOSTED, create_clone, drop

ADA = "aaaaaaaa-0000-4000-8000-000000000001"
EVE = "aaaaaaaa-0000-4000-8000-000000000003"
ACME = "11111111-1111-4111-8111-111111111111"
GLOBEX = "22222222-2222-4222-8222-222222222222"
_numbers = itertools.count(1)

#: A worker that runs until nothing is due.
WORK = """\
import asyncio, os
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.worker import TickOptions, Worker
from minutehand.worker.testing import drain


async def main():
    settings = Settings.from_env(os.environ)
    options = TickOptions(concurrency=5, linger_seconds=0)
    worker = Worker(settings, registry=load_processors(settings), options=options)
    await worker.register()
    await drain(worker)
    await worker.aclose()


asyncio.run(main())
"""

FIRST_SQL = """\
create table public.organizations (
  id uuid primary key default gen_random_uuid(),
  name text not null
);
create table public.memberships (
  organization_id uuid not null references public.organizations (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  role text not null default 'member',
  primary key (organization_id, user_id)
);
create table public.jobs (id bigint generated always as identity primary key, title text not null);
create table public.accounts (id uuid primary key default gen_random_uuid(), iban text);
create table public.notes (id uuid primary key default gen_random_uuid(), said text);
alter table public.organizations enable row level security;
alter table public.memberships enable row level security;
alter table public.jobs enable row level security;
alter table public.accounts enable row level security;
alter table public.notes enable row level security;
create extension if not exists citext with schema extensions;
create extension if not exists pg_net;
alter table public.accounts add column email extensions.citext unique;
insert into storage.buckets (id, name, public) values ('cakes', 'cakes', true);
create policy "own folder" on storage.objects for select to authenticated
  using (bucket_id = 'cakes' and (select auth.uid())::text = (storage.foldername(name))[1]);
create policy "everybody reads adverts" on public.jobs
  for select to anon, authenticated using (true);
grant select on public.jobs to anon, authenticated;
insert into public.jobs (title) values ('Baker');
"""
#: Two people with passwords as every tutorial makes them, each with an organization.
SEED = f"""\
insert into auth.users (instance_id, id, aud, role, email, encrypted_password, email_confirmed_at,
  raw_app_meta_data, raw_user_meta_data, created_at, updated_at, confirmation_token)
select '00000000-0000-0000-0000-000000000000', id, 'authenticated', 'authenticated', email,
  extensions.crypt('password123', extensions.gen_salt('bf')), now(), '{{}}', '{{}}', now(), now(),
  '' from (values ('{ADA}'::uuid, 'ada@acme.test'), ('{EVE}', 'eve@globex.test')) as _ (id, email);
insert into public.organizations values ('{ACME}', 'Acme'), ('{GLOBEX}', 'Globex');
insert into public.memberships values
  ('{ACME}', '{ADA}', 'owner'), ('{GLOBEX}', '{EVE}', 'owner');
"""
SECOND_SQL = "alter table public.accounts add column owner uuid references auth.users (id);\n"
CONFIG = 'project_id = "bakery"\n\n[api]\nschemas = ["public"]\n\n[db]\nmajor_version = 17\n'


def bakery(folder: Path) -> Path:
    """Organizations, seed, table jobs, extensions and storage of its own; a file of tomorrow."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    files = {
        "supabase/migrations/20250101120000_create_bakery.sql": FIRST_SQL,
        f"supabase/migrations/{tomorrow:%Y%m%d%H%M%S}_own_accounts.sql": SECOND_SQL,
        "supabase/seed.sql": SEED,
        "supabase/config.toml": CONFIG,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@dataclass
class HostedDatabase:
    """One project's database."""

    name: str
    url: str
    owner_url: str
    cli: Path

    def push(self, project: Path, *flags: str) -> str:
        """Run the real `supabase db push`; return what it said."""
        return push(self.cli, project, self.owner_url, *flags)

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute(statement.encode(), values or None)
            return found.fetchall() if found.description else []

    def as_owner(self, script: str) -> None:
        """Run a script as the dashboard's SQL editor does, as `postgres`."""
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            connection.execute(script.encode())

    def own_catalogue(self) -> list[str]:
        """What `public` holds, and the policies of Realtime."""
        return catalogue(self.url, Schemas("public"))

    def everything(self) -> list[str]:
        """Every schema, relation, function, policy, trigger and role of the project."""
        return [row[0] for row in self.run(EVERYTHING)]

    def sign_up(self) -> None:
        """Let Ada and Eve have accounts."""
        for user, email in ((ADA, "ada@acme.test"), (EVE, "eve@globex.test")):
            self.run("insert into auth.users (id, email) values (%s, %s)", user, email)


EVERYTHING = """
select 'schema ' || nspname || coalesce(nspacl::text, '') from pg_namespace
  where nspname !~ '^pg_(temp|toast)' and nspname <> 'supabase_migrations'
union all select 'relation ' || oid::regclass || ' ' || relkind::text || coalesce(relacl::text, '')
  from pg_class where relnamespace::regnamespace::text !~ '^(pg_|information_schema|supabase_migr)'
union all select 'function ' || oid::regprocedure from pg_proc
  where pronamespace::regnamespace::text !~ '^(pg_|information_schema)'
union all select 'policy ' || polrelid::regclass || ' ' || polname from pg_policy
union all select 'trigger ' || tgrelid::regclass || ' ' || tgname from pg_trigger
  where not tgisinternal
union all select 'constraint ' || conrelid::regclass || ' ' || conname from pg_constraint
  where conrelid <> 0 and connamespace::regnamespace::text !~ '^(pg_|information_schema|supabase_m)'
union all select 'published ' || tablename from pg_publication_tables
union all select 'type ' || oid::regtype from pg_type
  where typnamespace::regnamespace::text !~ '^(pg_|information_schema|supabase_migrations)'
order by 1
"""


@dataclass(frozen=True)
class Hosted:
    """A server whose databases begin as hosted projects do."""

    postgres: Postgres
    cli: Path

    @contextmanager
    def database(self) -> Iterator[HostedDatabase]:
        """One project's database, dropped at the end."""
        name = f"hosted_{next(_numbers)}"
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            create_clone(connection, name, template=HOSTED)
            url = self.postgres.url(database=name)
            owner = self.postgres.url(database=name, user="postgres")
            try:
                yield HostedDatabase(name, url, owner, self.cli)
            finally:
                drop(connection, name)


@dataclass(frozen=True)
class Client:
    """What a browser of the project would send to the Data API, as one user."""

    url: str
    user: str
    schema: str

    def rpc(self, name: str, **arguments: Any) -> httpx.Response:
        """Call a function."""
        named = {f"p_{key}": value for key, value in arguments.items()}
        return httpx.post(f"{self.url}/rest/v1/rpc/{name}", json=named, headers=self._headers())

    def rows(self, table: str, **filters: str) -> list[dict[str, Any]]:
        """Read a table under row level security."""
        url = f"{self.url}/rest/v1/{table}"
        answer = httpx.get(url, params=filters, headers=self._headers())
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found

    def _headers(self) -> dict[str, str]:
        return {
            "apikey": PUBLISHABLE_KEY,
            "authorization": f"Bearer {user_token(self.user)}",
            "accept-profile": self.schema,
            "content-profile": self.schema,
        }


@dataclass(frozen=True)
class Api:
    """A project's Data API."""

    url: str
    schema: str
    #: What a worker of the project reads.
    env: dict[str, str]

    def of(self, user: str, schema: str | None = None) -> Client:
        """A user's client."""
        return Client(self.url, user, schema or self.schema)


@contextmanager
def data_api(database: HostedDatabase, schema: str) -> Iterator[Api]:
    """The project's Data API, for the length of the block."""
    gateway = Gateway(database.url, reserve_port(), schema=schema)
    gateway.start()
    try:
        env = {
            "SUPABASE_URL": gateway.url,
            "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
            "SUPABASE_SECRET_KEY": SECRET_KEY,
            "SUPABASE_JWT_SECRET": JWT_SECRET,
            "MINUTEHAND_APPS": "jobs",
            "MINUTEHAND_SCHEMA": schema,
        }
        yield Api(gateway.url, schema, env)
    finally:
        gateway.stop()
