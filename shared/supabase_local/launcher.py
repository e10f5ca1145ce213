"""The foreground process of a stack, which starts the stack, prints URLs, waits, and stops it."""

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

from rich.console import Console

from supabase_local.config import Config, InvalidConfig
from supabase_local.environment import (
    PREFERRED_GATEWAY,
    PREFERRED_POSTGRES,
    addresses,
    for_children,
    with_other_names,
)
from supabase_local.logs import Logs
from supabase_local.migrations import MigrationFailed
from supabase_local.node import NodeMissing
from supabase_local.parts import supabase_parts
from supabase_local.ports import reserve_port
from supabase_local.postgres import Postgres, PostgresFailed
from supabase_local.processes import die_with_parent
from supabase_local.stack import Stack, StackFailed
from supabase_local.state import AlreadyRunning, StateFolder

FAILED, IN_USE = 1, 3


class Launcher:
    """One run of a stack. A subclass overrides public methods for its own stack.

    Args:
        folder: Folder for the state of the stack.
        started: Time on the monotonic clock at which the command started.
        any_ports: True to use free ports instead of the documented ports.
        scratch: True to disable the database's durability, for tests.
    """

    #: Errors that are printed as one message, without a traceback.
    failures: tuple[type[Exception], ...] = (
        StackFailed,
        MigrationFailed,
        InvalidConfig,
        PostgresFailed,
        NodeMissing,
    )
    #: Exit code after a signal has stopped the stack.
    stopped = 0

    def __init__(
        self, folder: Path, *, started: float, any_ports: bool = False, scratch: bool = False
    ) -> None:
        self.folder = folder
        self.started = started
        self.any_ports = any_ports
        self.scratch = scratch
        self.console = Console(highlight=False, soft_wrap=True)

    def run(self, *, with_parent: bool = False) -> int:
        """Run the stack until a signal or a failure.

        Args:
            with_parent: True to stop also when the parent process ends.
        """
        if with_parent and (ask := die_with_parent()) is not None:
            ask()
        state = StateFolder(self.folder)
        try:
            state.lock()
        except AlreadyRunning as held:
            self.console.print(f"[red]{held}[/]")
            return IN_USE
        try:
            return asyncio.run(self._run(state))
        except self.failures as failed:
            self.console.print(self.describe(failed), style="bold red", markup=False)
            return FAILED

    def say(self, sentence: str) -> None:
        """Print a message with the time since the start of the command."""
        seconds = time.monotonic() - self.started
        self.console.print(f"[dim]{seconds:6.1f} s[/]  {sentence}")

    def describe(self, failure: Exception) -> str:
        """Return the message about a failure for people."""
        return str(failure)

    def make_stack(self, state: StateFolder, logs: Logs) -> Stack:
        """Create the stack, but do not start it."""
        root = Path.cwd()
        preferred = (None, None) if self.any_ports else (PREFERRED_POSTGRES, PREFERRED_GATEWAY)
        postgres = Postgres(state.path, scratch=self.scratch, preferred_port=preferred[0])
        gateway_port = reserve_port(preferred[1])
        settings = {**addresses(gateway_port, postgres.url()), **state.secrets()}
        values = with_other_names(settings)
        config = Config.read(root)
        parts = supabase_parts(
            gateway_port=gateway_port,
            realtime_port=reserve_port(),
            site_url=config.site_url,
            schemas=config.schemas,
        )
        return Stack(
            state,
            logs,
            self.say,
            root=root,
            values=values,
            environment=for_children(values, os.environ),
            parts=parts,
            postgres=postgres,
        )

    def lines(self, stack: Stack) -> list[tuple[str, str]]:
        """Return the lines to print when the stack is ready: names with values."""
        names = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "DATABASE_URL")
        return [(name, stack.values[name]) for name in names]

    async def show(self, stack: Stack) -> int | None:
        """Do work while the stack is ready. The stack ends when `show` returns an exit code."""
        return None

    async def _run(self, state: StateFolder) -> int:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stopping.set)
        logs = Logs(self.console, state.path / "logs", threshold="WARNING")
        stack = self.make_stack(state, logs)
        tasks = [
            asyncio.create_task(self._serve(stack, logs)),
            asyncio.create_task(stopping.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                return int(tasks[0].result())
            self.say("stopping")
            return self.stopped
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await stack.stop()
            self.say("everything has stopped")

    async def _serve(self, stack: Stack, logs: Logs) -> int:
        await stack.start()
        self.say("[bold green]ready[/]")
        lines = [*self.lines(stack), ("Tools read", str(stack.state.env_file))]
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            self.console.print(f"           [bold]{name:<{width}}[/] {value}")
        watching = asyncio.create_task(stack.watch())
        showing = asyncio.create_task(self.show(stack))
        try:
            await asyncio.wait([watching, showing], return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching  # raises the error because of which the task ended
            elif (code := showing.result()) is not None:
                return code
            logs.threshold = "INFO"
            self.say("the stack serves until Ctrl-C")
            await watching
            return FAILED
        finally:
            for task in (watching, showing):
                task.cancel()
            await asyncio.gather(watching, showing, return_exceptions=True)


def reset(folder: Path) -> int:
    """Delete the data, keys and logs of a stack that is stopped."""
    console = Console(highlight=False)
    if not folder.exists():
        console.print(f"nothing to delete: {folder} does not exist")
        return 0
    state = StateFolder(folder)
    try:
        state.lock()
    except AlreadyRunning as held:
        console.print(f"[red]{held}[/]")
        return IN_USE
    if (folder / "postgres.password").exists():
        server = Postgres(folder)
        server.end_leftovers()
        server.destroy()
    shutil.rmtree(folder)
    console.print(f"deleted {folder}")
    return 0
