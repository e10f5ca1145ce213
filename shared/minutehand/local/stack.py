"""The whole stack as one object: started in parallel, watched, healed aloud, stopped to the last.

Parts are described in `parts`; what they serve is brought up to date by `migrations`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path

import httpx
import psycopg
from rich.markup import escape

from minutehand.app import find_apps
from minutehand.local import migrations
from minutehand.local.environment import (
    PREFERRED_POSTGRES,
    Ports,
    contract,
    demo_values,
    for_children,
    sealing_key,
)
from minutehand.local.parts import Part, companions, service_parts
from minutehand.local.users import ADA, EVE, create_demo_users
from minutehand.node import node_home
from minutehand.project import Project
from minutehand.resources import checkout, resource
from supabase_local.logs import Logs, Say
from supabase_local.postgres import Postgres
from supabase_local.processes import spawn, stop
from supabase_local.state import StateFolder, write_private

RESTARTS, WITHIN_SECONDS = 5, 60.0
READY_SECONDS = 90.0
#: Between two looks at what runs and at the migrations: ten a second cost more than the API.
LOOK_SECONDS = 0.4


class StackFailed(Exception):
    """The stack cannot come up, or cannot stay up; the message says which part and why."""


class Stack:
    """Every process of the stack.

    Args:
        state: The folder it lives in; the caller holds its lock.
        say: Called with sentences for a person.
        scratch: Trade the database's durability for speed; for tests.
        prefer_known: Take the documented ports when they are free.
        remote: Values of a Supabase that runs already; only worker, API and console start then.
    """

    def __init__(
        self,
        state: StateFolder,
        logs: Logs,
        say: Say,
        *,
        inherited: Mapping[str, str],
        scratch: bool = False,
        prefer_known: bool = True,
        remote: Mapping[str, str] | None = None,
    ) -> None:
        self._state = state
        self._logs = logs
        self._say = say
        self._stopping = False
        self._files: dict[Path, int] = {}
        self._deaths: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RESTARTS))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._remote = remote
        port = PREFERRED_POSTGRES if prefer_known else None
        self.postgres = (
            Postgres(state.path, scratch=scratch, preferred_port=port) if remote is None else None
        )
        self.database_url = (remote or {}).get("DATABASE_URL", "")
        if self.postgres is not None:
            self.database_url = self.postgres.url()
        self.ports = Ports.choose(prefer_known=prefer_known)
        self.project = Project.find()
        keys = remote or {**state.secrets(), **demo_values(self.project.tenancy)}
        self.values = contract(self.ports, keys, self.database_url, state.path, self.project)
        write_private(Path(self.values["SEALING_KEY_FILE"]), sealing_key(keys))
        # local servers for the apps' services are started only with a whole stack, or for a demo
        alone = remote is not None and "DEMO_EMAIL" not in remote
        of_apps, variables = companions([] if alone else find_apps(self.project.apps))
        self.values |= variables
        self._companions = tuple(part.name for part in of_apps)
        self._environment = for_children(self.values, inherited, self.project)
        node_home(self._say)
        parts = service_parts(self.ports)
        parts += of_apps
        wanted = {part.name for part in parts}
        if remote is not None:
            wanted = {"api", "aws", *self._companions}
        self._parts = {part.name: part for part in parts if part.name in wanted}

    @property
    def env_file(self) -> Path:
        """Where tools read the addresses."""
        return self._state.env_file

    async def start(self) -> None:
        """Start everything; StackFailed if a part ends or does not answer a real request."""
        self._state.write_env(self.values)
        if self._remote is not None:
            await self._check_remote()
        # they wait for the database by themselves, and their imports take longer than its start
        for name in ("gateway", "aws", *self._companions):
            if name in self._parts:
                self._spawn(self._parts[name])
        if self.postgres is not None:
            await self._start_postgres(self.postgres)
            await asyncio.to_thread(self._prepare_database, self.postgres)
            self._spawn(self._parts["realtime"])
        self._spawn(self._parts["api"])  # now: a worker must not begin between two migrations
        await self._all_ready()
        self._state.ready_file.write_text(f"{os.getpid()}\n")

    async def watch(self) -> None:
        """Restart parts that die until `stop`, and say so; StackFailed if they die too fast."""
        self._files = self._found_files()
        while not self._stopping:
            await self._apply_new_files()
            for name, process in list(self._processes.items()):
                if process.poll() is not None and not self._stopping:
                    await self._heal(name, process)
            await asyncio.sleep(LOOK_SECONDS)

    def _found_files(self) -> dict[Path, int]:
        """The migrations by the time of their change."""
        files = [each.path for each in migrations.find_migrations(self.project)]
        return {path: path.stat().st_mtime_ns for path in files if path.exists()}

    async def _apply_new_files(self) -> None:
        """Apply what was written since; a file that fails is tried again once it has changed."""
        if self.postgres is None or (found := self._found_files()) == self._files:
            return
        self._files = found
        owner = migrations.as_user(self.database_url, "postgres")
        wanted = migrations.find_migrations(self.project)
        try:
            applied = await asyncio.to_thread(migrations.apply_migrations, owner, wanted)
        except migrations.MigrationFailed as failed:
            self._say(f"[bold red]a migration was not applied[/]: {escape(str(failed))}")
        else:
            for each in applied:
                self._say(f"[green]applied {each.path.name}[/]")

    async def stop(self) -> None:
        """Stop every child: the API first, so that it can release jobs, Postgres last."""
        self._stopping = True
        self._state.ready_file.unlink(missing_ok=True)
        for names in (("api",), ("realtime", "gateway", "aws", *self._companions)):
            processes = [self._processes.pop(name) for name in names if name in self._processes]
            await asyncio.gather(*(asyncio.to_thread(stop, process) for process in processes))
        if self.postgres is not None:
            self._processes.pop("postgres", None)
            await asyncio.to_thread(self.postgres.stop)
        await self._logs.drain()

    async def _start_postgres(self, server: Postgres) -> None:
        started = time.monotonic()
        if server.is_fresh:
            self._say("Postgres: making a new database cluster")
            await asyncio.to_thread(server.initialise)
        await asyncio.to_thread(server.end_leftovers)
        self._launch_postgres(server)
        await asyncio.to_thread(server.wait_ready)
        self._say(f"Postgres on port {server.port} ({time.monotonic() - started:.1f} s)")

    def _launch_postgres(self, server: Postgres) -> None:
        server.launch()  # here and not in a thread: the kernel ends it with the thread
        assert server.process is not None
        self._processes["postgres"] = server.process

    def _prepare_database(self, server: Postgres) -> None:
        url = self.database_url
        migrations.prepare_hosted(url, say=self._say)
        owner = migrations.as_user(url, "postgres")
        migrations.set_project_owner(url, server.password)
        migrations.expose_new_tables(owner, self.project.root)
        applied = migrations.apply_project(owner, self.project)
        if applied:
            self._say(f"migrations: {len(applied)} applied, up to {applied[-1].path.name}")
        migrations.check_engine(url, self.project)
        if self.project.tenancy == "workspaces":
            create_demo_users(url)
        elif self.project.tenancy == "personal":
            self._create_own_tenants(url)
        for path in (*self._demo_seed(), *migrations.seed_files(self.project)):
            if migrations.apply_seed(owner, path):
                self._say(f"seed: {path.name}")

    def _create_own_tenants(self, url: str) -> None:
        """Two accounts to sign in with; a project's trigger on new users may refuse them."""
        try:
            create_demo_users(url, (ADA, EVE))
        except psycopg.DatabaseError as error:
            self._say(f"[yellow]no demo account: {str(error).splitlines()[0]}[/]")
            for name in demo_values("personal"):
                self.values.pop(name)
            self._state.write_env(self.values)

    def _demo_seed(self) -> list[Path]:
        """Our demo workspaces, for a project that has our tables and not our seed."""
        if self.project.tenancy != "workspaces" or checkout() == self.project.root:
            return []
        text = (resource("seed") / "seed.sql").read_text("utf-8")
        text = text.replace("public.", f"{self.project.schema_}.")
        text = text.replace("queue.", f"{self.project.engine_schema}.")
        seed = self._state.path / "demo_seed.sql"
        seed.write_text(text, "utf-8")
        return [seed]

    async def _check_remote(self) -> None:
        url, key = self.values["SUPABASE_URL"], self.values["SUPABASE_PUBLISHABLE_KEY"]
        headers = {"apikey": key, "accept-profile": self.project.schema_}
        async with httpx.AsyncClient(timeout=10, headers=headers) as client:
            try:
                answer = await client.get(f"{url}/rest/v1/jobs?select=id&limit=1")
            except httpx.TransportError as error:
                raise StackFailed(f"no Supabase answers at {url}: `supabase start`") from error
        if answer.status_code in {404, 406}:
            raise StackFailed(
                f"{url} has no Minutehand in schema {self.project.schema_}: `minutehand install`, "
                "then `supabase migration up`, and expose the schema in supabase/config.toml"
            )

    def _spawn(self, part: Part) -> None:
        process = spawn(
            part.command, env={**self._environment, **part.environment}, cwd=self.project.root
        )
        self._processes[part.name] = process
        self._logs.follow(part.name, process)

    async def _all_ready(self) -> None:
        async with httpx.AsyncClient(timeout=5) as client:
            await asyncio.gather(*(self._ready(part, client) for part in self._parts.values()))

    async def _ready(self, part: Part, client: httpx.AsyncClient) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await part.probe(client):
                    self._check_alive(part.name, "postgres")
                    await asyncio.sleep(0.15)
        except TimeoutError as late:
            raise StackFailed(
                f"{part.name} did not become ready within {READY_SECONDS:.0f} s; "
                f"{self._logs.last_lines(part.name)}"
            ) from late

    def _check_alive(self, *names: str) -> None:
        for name in names:
            process = self._processes.get(name)
            if process is not None and process.poll() is not None:
                raise StackFailed(
                    f"{name} {describe_end(process.returncode)} while the stack was starting; "
                    f"{self._logs.last_lines(name)}"
                )

    async def _heal(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self._say(f"[bold red]{name} {describe_end(process.returncode)}[/]; starting it again")
        now = time.monotonic()
        deaths = self._deaths[name]
        if len(deaths) == RESTARTS and now - deaths[0] < WITHIN_SECONDS:
            raise StackFailed(
                f"{name} ended {RESTARTS + 1} times within {WITHIN_SECONDS:.0f} s, so the stack "
                f"stops; {self._logs.last_lines(name)}"
            )
        deaths.append(now)
        if name == "postgres":
            server = self.postgres
            assert server is not None
            await asyncio.to_thread(server.end_leftovers)
            self._launch_postgres(server)
            await asyncio.to_thread(server.wait_ready)
        else:
            self._spawn(self._parts[name])
            async with httpx.AsyncClient(timeout=5) as client:
                await self._ready(self._parts[name], client)
        self._say(f"[green]{name} is back[/] after {time.monotonic() - now:.1f} s")


def describe_end(code: int | None) -> str:
    """Say how a child ended."""
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"
