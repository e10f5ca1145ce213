"""The foreground process of `make run`: brings the stack up, shows the demo, stays, tears down."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from minutehand.config import ConfigurationError
from minutehand.deploy.service import needs_of
from minutehand.local import demo
from minutehand.local.environment import remote_values
from minutehand.local.migrations import MigrationFailed, supabase_here
from minutehand.local.stack import Stack, StackFailed
from minutehand.node import NodeMissing
from minutehand.project import Project
from minutehand.terminal import local_member
from supabase_local.logs import Logs
from supabase_local.postgres import Postgres, PostgresFailed
from supabase_local.processes import die_with_parent
from supabase_local.state import AlreadyRunning, StateFolder

FAILED, IN_USE = 1, 3
#: What is said to a person in its own words, without a traceback.
FAILURES = (
    StackFailed,
    MigrationFailed,
    PostgresFailed,
    ConfigurationError,
    NodeMissing,
    demo.DemoFailed,
)


class Launcher:
    """One run of the stack."""

    def __init__(self, options: argparse.Namespace, *, started: float) -> None:
        self._options = options
        self._started = started
        self._console = Console(highlight=False, soft_wrap=True)

    def run(self) -> int:
        """Run until a signal, a failure or, with --once, the end of the demo."""
        if self._options.with_parent and (ask := die_with_parent()) is not None:
            ask()
        state = StateFolder(self._options.state)
        try:
            state.lock()
        except AlreadyRunning as held:
            self._console.print(f"[red]{held}[/]")
            return IN_USE
        try:
            return asyncio.run(self._run(state))
        except FAILURES as failed:
            self._console.print(str(failed), style="bold red", markup=False)
            return FAILED

    def say(self, sentence: str) -> None:
        """Print a sentence with the time since the command was given."""
        seconds = time.monotonic() - self._started
        self._console.print(f"[dim]{seconds:6.1f} s[/]  {sentence}")

    async def _run(self, state: StateFolder) -> int:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stopping.set)
        # while the demo shows its progress, only what went wrong is printed between
        logs = Logs(self._console, state.path / "logs", threshold="WARNING")
        url = self._options.supabase_url
        here = None if url or self._options.any_ports else supabase_here(Project.find().root)
        if here:
            self.say(
                f"[bold]a Supabase answers at {here}[/]; this stack has a database of its own,"
                f" and works with that one by: minutehand dev --supabase-url {here}"
            )
        remote = remote_values(url, os.environ) if url else None
        stack = Stack(
            state,
            logs,
            self.say,
            inherited=os.environ,
            remote=remote,
            scratch=self._options.scratch,
            prefer_known=not self._options.any_ports,
        )
        tasks = [
            asyncio.create_task(self._serve(stack, logs)),
            asyncio.create_task(stopping.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                return tasks[0].result()
            self.say("stopping")
            return FAILED if self._options.once else 0
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await stack.stop()
            self.say("everything is stopped")

    async def _serve(self, stack: Stack, logs: Logs) -> int:
        await stack.start()
        self.say("[bold green]ready[/]")
        self._print_addresses(stack)
        watching = asyncio.create_task(stack.watch())
        try:
            if not self._options.no_demo and "DEMO_EMAIL" in stack.values:
                showing = asyncio.create_task(
                    demo.show(stack.values, self.say, started=self._started)
                )
                await asyncio.wait([watching, showing], return_when=asyncio.FIRST_COMPLETED)
                if not showing.done():
                    showing.cancel()
                    await watching  # raises why it ended
                ended_well = showing.result()
                if self._options.once:
                    return 0 if ended_well else FAILED
            elif self._options.once:
                return 0
            logs.threshold = "INFO"
            self.say("the stack serves until Ctrl-C")
            await watching
            return FAILED
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def _print_addresses(self, stack: Stack) -> None:
        values = stack.values
        lines = [
            ("Console", values["CONSOLE_URL"]),
            ("API", f"{values['API_URL']}/api/jobs"),
            ("Supabase", values["SUPABASE_URL"]),
            ("Postgres", stack.database_url or "not known, so the worker polls: DATABASE_URL"),
        ]
        lines += _sign_in(values)
        if unset := needs_of(Project.find()).unset(os.environ):
            lines.append(("Unset here", ", ".join(unset)))
            lines.append(("", "lambda.yml gives it a value here under `local`, or the environment"))
        for name, address in (*lines, ("Tools read", str(stack.env_file))):
            self._console.print(f"           [bold]{name:<11}[/] {address}")


def _sign_in(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """With which account to look around."""
    if "DEMO_EMAIL" in values:
        return [
            ("Sign in", f"{values['DEMO_EMAIL']} / {values['DEMO_PASSWORD']}"),
            ("", f"{values['DEMO_OTHER_EMAIL']} of another workspace, same password"),
        ]
    if not local_member.is_possible(values):
        return []
    member = local_member.first_member(values)
    if member is None:
        return [
            ("Sign in", "no account belongs to a tenant yet: `minutehand docs local` says how to"),
            ("", "make one and its membership; `minutehand` then acts as that account"),
        ]
    return [
        ("Sign in", f"{member.email}, with its own password, for {member.tenant}"),
        ("", "`minutehand` acts as that account here, without a password"),
    ]


def reset(folder: Path) -> int:
    """Delete the data, keys and logs of a stack that does not run."""
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
