"""Users' projects for the tests of the install, each with a database like a hosted one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY, Gateway, user_token
from minutehand.install.project import InstallOptions, plan_install
from minutehand.install.rewrite import Schemas
from minutehand.install.tenancy import Tenants
from supabase_local.migrations import apply_migrations, as_owner, migrations_in
from supabase_local.ports import reserve_port
from supabase_local.postgres import Postgres
from tests.support.databases import HOSTED, Database, fresh_database
from tests.support.engine import ADA, EVE, Json
from tests.support.postgres_tools import run_tool

#: The program of a worker that runs until no job is due.
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
#: The settings of roles in all databases.
ROLE_SETTINGS = "from pg_db_role_setting where setdatabase = 0"


def install(
    folder: Path, schema: str, tenants: Tenants | None = None, *, without: tuple[str, ...] = ()
) -> None:
    """Write the files of an install into a project's folder."""
    options = InstallOptions(Schemas(schema), tenants or Tenants(), without=without)
    plan_install(folder, options).apply()


class HostedDatabase(Database):
    """A database like that of a new hosted project."""

    @property
    def owner_url(self) -> str:
        """The address at which the role `postgres` signs in."""
        return self.server.url(database=self.name, user="postgres")

    def apply(self, project: Path) -> None:
        """Apply the project's migrations as `minutehand dev` does."""
        owner = as_owner(self.url)
        apply_migrations(owner, migrations_in(project / "supabase/migrations"))

    def as_owner(self, script: str) -> None:
        """Run a script as the dashboard's SQL editor does, as `postgres`."""
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            connection.execute(script.encode())

    def everything(self) -> list[str]:
        """Dump the definitions of all objects, without lines that differ between runs."""
        options = ("--schema-only", "--exclude-schema=supabase_migrations")
        lines = run_tool(self.server, "pg_dump", *options, self.url).splitlines()
        return [line for line in lines if not line.startswith(("\\restrict", "\\unrest"))]

    def sign_up(self) -> None:
        """Create accounts for the users Ada and Eve."""
        for user, email in ((ADA, "ada@acme.test"), (EVE, "eve@globex.test")):
            self.run("insert into auth.users (id, email) values (%s, %s)", user, email)


@contextmanager
def hosted_database(server: Postgres) -> Iterator[HostedDatabase]:
    """Create a project's database for the duration of the block.

    The settings of roles, which all databases of the server share, are restored.
    """
    with fresh_database(server, template=HOSTED) as made:
        hosted = HostedDatabase(server, made.name)
        kept = hosted.run(f"select setrole, setconfig {ROLE_SETTINGS}")
        try:
            yield hosted
        finally:
            hosted.run(f"delete {ROLE_SETTINGS}")
            for role, values in kept:
                hosted.run("insert into pg_db_role_setting values (0, %s, %s)", role, values)


@dataclass(frozen=True)
class Client:
    """A client of the Data API, as a browser in which one user is signed in."""

    url: str
    user: str
    schema: str

    def rpc(self, name: str, **arguments: Any) -> httpx.Response:
        """Call an SQL function through the Data API."""
        body = {f"p_{key}": value for key, value in arguments.items()}
        return httpx.post(f"{self.url}/rest/v1/rpc/{name}", json=body, headers=self._headers())

    def rows(self, table: str, **filters: str) -> list[Json]:
        """Read a table through the Data API, under row level security."""
        url = f"{self.url}/rest/v1/{table}"
        response = httpx.get(url, params=filters, headers=self._headers())
        assert response.status_code == 200, response.text
        return response.json()

    def _headers(self) -> dict[str, str]:
        return {
            "apikey": PUBLISHABLE_KEY,
            "authorization": f"Bearer {user_token(self.user)}",
            "accept-profile": self.schema,
            "content-profile": self.schema,
        }


@dataclass(frozen=True)
class Api:
    """The Data API of a project."""

    url: str
    schema: str
    #: The environment variables of the project's worker.
    env: dict[str, str]

    def of(self, user: str, schema: str | None = None) -> Client:
        """Return the client of a user."""
        return Client(self.url, user, schema or self.schema)


@contextmanager
def data_api(database: HostedDatabase, schema: str) -> Iterator[Api]:
    """Run a project's Data API during the block."""
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
