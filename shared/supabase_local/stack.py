"""A stack of processes, which are started in parallel, watched, restarted and stopped.

`parts` describes the processes. `migrations` applies migrations to the stack's database.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from pathlib import Path

import httpx
from rich.markup import escape

from supabase_local import migrations
from supabase_local.config import Config
from supabase_local.logs import Logs, Say
from supabase_local.parts import Part
from supabase_local.postgres import Postgres, PostgresEnded
from supabase_local.processes import spawn, stop
from supabase_local.state import StateFolder

MAX_RESTARTS, WITHIN_SECONDS = 5, 60.0
READY_SECONDS = 90.0
#: Seconds between two checks of the processes and the migrations. Ten checks per second would use
#: more CPU time than an idle API.
POLL_SECONDS = 0.4


class StackFailed(Exception):
    """The stack could not start or continue. The message names the part and the reason."""


class PartEnded(StackFailed):
    """A part ended before it was ready."""


class Stack:
    """All processes of a stack for the project in a folder.

    Subclasses override `migrations`, `apply`, `before_seeds` and `seeds`.

    Args:
        state: Folder of the stack's state, which the caller has locked.
        say: Function that prints a message for people.
        root: Folder of the project.
        values: Content of the env file of the stack.
        environment: Environment variables of each part.
        parts: Parts of the stack, in the order in which they start.
        postgres: The stack's Postgres server. `postgres` is None if the parts use a Supabase that
            already runs.
    """

    def __init__(
        self,
        state: StateFolder,
        logs: Logs,
        say: Say,
        *,
        root: Path,
        values: Mapping[str, str],
        environment: Mapping[str, str],
        parts: Iterable[Part],
        postgres: Postgres | None,
    ) -> None:
        self.state = state
        self.say = say
        self.root = root
        self.values = dict(values)
        self.postgres = postgres
        self.config = Config.read(root)
        self._logs = logs
        self.environment = dict(environment)
        self._parts = {part.name: part for part in parts}
        self._stopping = False
        self._files: dict[Path, int] = {}
        #: Message of the last failure to apply migrations, or "".
        self._failure = ""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._deaths: defaultdict[str, deque[float]] = defaultdict(
            lambda: deque(maxlen=MAX_RESTARTS)
        )

    def migrations(self) -> list[Path]:
        """List the migrations of the project, in the order of their execution."""
        return migrations.migrations_in(self.root / "supabase" / "migrations")

    def apply(self, owner: str) -> list[Path]:
        """Apply pending migrations as the role in the URL `owner`. Return the migrations."""
        return migrations.apply_migrations(owner, self.migrations())

    def before_seeds(self, url: str) -> None:
        """Create rows to which seeds refer, as the superuser in `url`.

        The base class creates no objects.
        """

    def seeds(self) -> list[Path]:
        """List the seeds of the project, in the order in which they run."""
        return self.config.seeds()

    async def start(self) -> None:
        """Start all parts. Raises StackFailed if a part ends or does not respond."""
        self.state.write_env(self.values)
        # start these parts first, because they load longer than the database and can wait for it
        for part in self._parts.values():
            if not part.needs_database:
                self._spawn(part)
        if self.postgres is not None:
            await self._start_postgres(self.postgres)
            await asyncio.to_thread(self._prepare_database, self.postgres)
        for part in self._parts.values():
            if part.needs_database:
                self._spawn(part)
        await self._await_ready(*self._parts.values())
        self.state.ready_file.write_text(f"{os.getpid()}\n")

    async def watch(self) -> None:
        """Restart parts that die, and print a message for each, until `stop`.

        Raises StackFailed after too many restarts of a part.
        """
        self._files = self._migration_times()
        while not self._stopping:
            await self._apply_new_files()
            for name, process in list(self._processes.items()):
                if process.poll() is not None and not self._stopping:
                    await self._restart(name, process)
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self) -> None:
        """Stop all child processes.

        Parts that use the database stop first, and Postgres stops last.
        """
        self._stopping = True
        self.state.ready_file.unlink(missing_ok=True)
        for needs_database in (True, False):
            processes = [
                self._processes.pop(part.name)
                for part in self._parts.values()
                if part.needs_database == needs_database and part.name in self._processes
            ]
            await asyncio.gather(*(asyncio.to_thread(stop, process) for process in processes))
        if self.postgres is not None:
            self._processes.pop("postgres", None)
            await asyncio.to_thread(self.postgres.stop)
        await self._logs.drain()

    def _migration_times(self) -> dict[Path, int]:
        """Return the times of the last change of all migrations, by path."""
        return {path: path.stat().st_mtime_ns for path in self.migrations() if path.exists()}

    async def _apply_new_files(self) -> None:
        """Apply new migrations, and print why one cannot be applied.

        A migration that the database rejects is retried when a file has changed, and after other
        failures, such as a lost connection, all are retried.
        """
        if self.postgres is None:
            return
        failure = ""
        try:
            if (files := self._migration_times()) == self._files:
                return
            self._files = files
            owner = migrations.as_owner(self.postgres.url())
            for path in await asyncio.to_thread(migrations.apply_migrations, owner, list(files)):
                self.say(f"[green]applied {path.name}[/]")
        except Exception as failed:  # a person may save, move or delete a file at any time
            failure, is_rejected = str(failed), isinstance(failed, migrations.MigrationFailed)
            if is_rejected or failure != self._failure:
                self.say(f"[bold red]a migration was not applied[/]: {escape(failure)}")
            if not is_rejected:
                self._files = {}
        self._failure = failure

    async def _start_postgres(self, server: Postgres) -> None:
        started = time.monotonic()
        if server.is_fresh:
            self.say("Postgres: creating a database cluster")
            await asyncio.to_thread(server.initialise)
        await self._launch_postgres(server)
        self.say(f"Postgres on port {server.port} ({time.monotonic() - started:.1f} s)")

    async def _launch_postgres(self, server: Postgres) -> None:
        await asyncio.to_thread(server.end_leftovers)
        # start the process in the main thread, because the kernel ends a child when its thread ends
        server.launch()
        assert server.process is not None
        self._processes["postgres"] = server.process
        await asyncio.to_thread(server.wait_ready)

    def _prepare_database(self, server: Postgres) -> None:
        url = server.url()
        owner = migrations.as_owner(url)
        migrations.prepare_hosted(url, say=self.say)
        migrations.set_project_owner(url, server.password)
        migrations.expose_new_tables(owner, self.config)
        if applied := self.apply(owner):
            self.say(f"migrations: {len(applied)} applied, up to {applied[-1].name}")
        self.before_seeds(url)
        for path in self.seeds():
            if migrations.apply_seed(owner, path, root=self.root):
                self.say(f"seed: {path.name}")

    def _spawn(self, part: Part) -> None:
        process = spawn(part.command, env={**self.environment, **part.environment}, cwd=self.root)
        self._processes[part.name] = process
        self._logs.follow(part.name, process)

    async def _await_ready(self, *parts: Part) -> None:
        async with httpx.AsyncClient(timeout=5) as client:
            await asyncio.gather(*(self._ready(part, client) for part in parts))

    async def _ready(self, part: Part, client: httpx.AsyncClient) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await part.probe(client):
                    self._check_alive(part.name, "postgres")
                    await asyncio.sleep(0.15)
        except TimeoutError as late:
            raise StackFailed(
                f"{part.name} did not become ready within {READY_SECONDS:.0f} s, "
                f"{self._logs.last_lines(part.name)}"
            ) from late

    def _check_alive(self, *names: str) -> None:
        for name in names:
            process = self._processes.get(name)
            if process is not None and process.poll() is not None:
                raise PartEnded(
                    f"{name} {describe_end(process.returncode)} before it was ready, "
                    f"{self._logs.last_lines(name)}"
                )

    async def _restart(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.say(f"[bold red]{name} {describe_end(process.returncode)}[/], restarting")
        now = time.monotonic()
        deaths = self._deaths[name]
        if len(deaths) == MAX_RESTARTS and now - deaths[0] < WITHIN_SECONDS:
            raise StackFailed(
                f"{name} ended {MAX_RESTARTS + 1} times within {WITHIN_SECONDS:.0f} s, so the "
                f"stack stops, {self._logs.last_lines(name)}"
            )
        deaths.append(now)
        try:
            if name == "postgres":
                assert self.postgres is not None
                await self._launch_postgres(self.postgres)
            else:
                self._spawn(self._parts[name])
                await self._await_ready(self._parts[name])
        except (PartEnded, PostgresEnded):
            return  # `watch` restarts the part that ended, up to the limit
        self.say(f"[green]{name} is back[/] after {time.monotonic() - now:.1f} s")


def describe_end(code: int) -> str:
    """Describe in words how a child process has ended."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"
