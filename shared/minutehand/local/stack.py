"""The stack of `minutehand dev`, which is Minutehand and, unless one already runs, a Supabase."""

import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import psycopg
from rich.markup import escape

from minutehand.app import find_apps
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.install.sources import TENANCY_ORIGIN
from minutehand.local.database import apply_project, check_engine, seed_files
from minutehand.local.environment import (
    choose_ports,
    contract,
    demo_values,
    for_children,
    sealing_key,
)
from minutehand.local.migrations import find_migrations
from minutehand.local.parts import companions, service_parts
from minutehand.local.users import ADA, DEMO_USERS, EVE, create_demo_users
from minutehand.project import Project
from minutehand.resources import checkout, resource
from supabase_local.environment import PREFERRED_POSTGRES
from supabase_local.logs import Logs, Say
from supabase_local.migrations import PartMissing
from supabase_local.parts import supabase_parts
from supabase_local.postgres import Postgres
from supabase_local.stack import Stack as SupabaseStack, StackFailed
from supabase_local.state import StateFolder, write_private

#: Seconds between attempts to apply the migrations while a table of the tenants does not exist.
WAIT_SECONDS = 1.0


class Stack(SupabaseStack):
    """All processes of a local stack.

    Args:
        state: Folder with the stack's state, which the caller has locked.
        say: Function that prints a message for people.
        parent_env: Environment variables of the launcher process.
        scratch: True to disable the database's durability, for tests.
        prefer_known: True to use the documented ports if they are free.
        remote: Settings of a Supabase that already runs. With such settings, the stack starts only
            the worker, the API and the console.
    """

    def __init__(
        self,
        state: StateFolder,
        logs: Logs,
        say: Say,
        *,
        parent_env: Mapping[str, str],
        scratch: bool = False,
        prefer_known: bool = True,
        remote: Mapping[str, str] | None = None,
    ) -> None:
        self.project = project = Project.find()
        self._is_remote = remote is not None
        postgres = None
        if remote is None:
            port = PREFERRED_POSTGRES if prefer_known else None
            postgres = Postgres(state.path, scratch=scratch, preferred_port=port)
        self.database_url = postgres.url() if postgres else (remote or {}).get("DATABASE_URL", "")
        ports = choose_ports(prefer_known=prefer_known)
        keys = remote or {**state.secrets(), **demo_values(project.tenancy)}
        values = contract(ports, keys, self.database_url, state.path, project)
        write_private(Path(values["SEALING_KEY_FILE"]), sealing_key(keys))
        # start no servers of apps if a running Supabase has no demo accounts
        has_no_demo = remote is not None and "DEMO_EMAIL" not in remote
        app_parts, variables = companions([] if has_no_demo else find_apps(project.apps))
        values |= variables
        parts = [*service_parts(ports["api"], ports["aws"], state.path), *app_parts]
        if postgres is not None:
            parts += supabase_parts(
                gateway_port=ports["gateway"],
                realtime_port=ports["realtime"],
                site_url=values["CONSOLE_URL"],
                schemas=[project.schema_],
            )
        super().__init__(
            state,
            logs,
            say,
            root=project.root,
            values=values,
            environment=for_children(values, parent_env, project),
            parts=parts,
            postgres=postgres,
        )

    async def start(self) -> None:
        """Start all processes. Raise StackFailed if a process ends or does not respond."""
        if self._is_remote:
            await self._check_remote()
        await super().start()

    def migrations(self) -> list[Path]:
        """List the project's migrations, or in a checkout the current schemas."""
        return find_migrations(self.project)

    def apply(self, owner: str) -> list[Path]:
        """Apply the pending migrations, and check that the engine is installed.

        If the project's own tables of tenants do not exist, wait until another tool, such as
        Prisma, has created them.
        """
        is_waiting = False
        while True:
            try:
                files = apply_project(owner, self.project)
                break
            except PartMissing as failed:
                if self._stopping or f"{TENANCY_ORIGIN}/existing" not in str(failed):
                    raise
                if not is_waiting:
                    self._explain_wait(failed)
                is_waiting = True
                time.sleep(WAIT_SECONDS)
        check_engine(owner, self.project)
        return files

    def _explain_wait(self, failed: PartMissing) -> None:
        assert self.postgres is not None
        address = self.postgres.url(user="postgres")
        self.say(f"[yellow]{escape(str(failed.__cause__).splitlines()[0])}[/]")
        self.say("waiting for your tenants' tables. If another tool creates them, run it with")
        self.say(f"DATABASE_URL={address}")

    def before_seeds(self, url: str) -> None:
        """Create the demo accounts for the project's kind of tenants.

        If a trigger of the project rejects the accounts, the stack starts without demo accounts.
        """
        accounts = {"workspaces": DEMO_USERS, "personal": (ADA, EVE)}.get(self.project.tenancy, ())
        try:
            create_demo_users(url, accounts)
        except psycopg.OperationalError:  # the database is unavailable
            raise
        except psycopg.DatabaseError as error:
            self.say(f"[yellow]no demo account: {escape(str(error).splitlines()[0])}[/]")
            for values in (self.values, self.environment):
                for name in demo_values():
                    values.pop(name, None)
            self.state.write_env(self.values)

    def seeds(self) -> list[Path]:
        """List the seeds of the demo, of the project and of the apps."""
        return [*self._demo_seed(), *seed_files(self.project)]

    def _demo_seed(self) -> list[Path]:
        """Return the seed with workspaces for the demo accounts.

        In a checkout, return no file, because the project's own seed creates the workspaces.
        """
        has_demo = self.project.tenancy == "workspaces" and "DEMO_EMAIL" in self.values
        if not has_demo or checkout() == self.project.root:
            return []
        text = (resource("seed") / "seed.sql").read_text("utf-8")
        text = rewrite(text, Schemas(self.project.schema_))
        seed = self.state.path / "demo_seed.sql"
        seed.write_text(text, "utf-8")
        return [seed]

    async def _check_remote(self) -> None:
        url, key = self.values["SUPABASE_URL"], self.values["SUPABASE_PUBLISHABLE_KEY"]
        headers = {"apikey": key, "accept-profile": self.project.schema_}
        async with httpx.AsyncClient(timeout=10, headers=headers) as client:
            try:
                response = await client.get(f"{url}/rest/v1/jobs?select=id&limit=1")
            except httpx.TransportError as error:
                raise StackFailed(f"no Supabase responds at {url}. Run `supabase start`") from error
        if response.status_code in {404, 406}:
            raise StackFailed(
                f"{url} has no Minutehand in schema {self.project.schema_}. Run `minutehand"
                " install`, then `supabase migration up`, and expose the schema in"
                " supabase/config.toml"
            )
