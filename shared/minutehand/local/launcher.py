"""The foreground process of `minutehand dev`: the stack, its addresses, and the demo."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

import httpx

from minutehand.config import ConfigurationError
from minutehand.deploy.service import needs_of
from minutehand.local import demo
from minutehand.local.environment import remote_values
from minutehand.local.stack import Stack
from minutehand.node import NodeMissing
from minutehand.project import Project
from minutehand.terminal import default_user
from supabase_local import launcher as supabase
from supabase_local.config import Config
from supabase_local.launcher import FAILED
from supabase_local.logs import Logs
from supabase_local.migrations import PartMissing
from supabase_local.stack import Stack as SupabaseStack
from supabase_local.state import StateFolder


class Launcher(supabase.Launcher):
    """One run of the stack."""

    failures = (*supabase.Launcher.failures, ConfigurationError, NodeMissing, demo.DemoFailed)

    def __init__(self, options: argparse.Namespace, *, started: float) -> None:
        super().__init__(
            options.state, started=started, any_ports=options.any_ports, scratch=options.scratch
        )
        self._options = options
        if options.once:
            self.stopped = FAILED  # before every demo job had ended

    def describe(self, failure: Exception) -> str:
        """Return what a person reads of a failure."""
        if isinstance(failure, PartMissing):
            return (
                f"{failure}\nWork with it by: minutehand dev --supabase-url http://127.0.0.1:54321"
            )
        return str(failure)

    def make_stack(self, state: StateFolder, logs: Logs) -> Stack:
        """Return the project's stack; name a Supabase of the CLI that runs beside it."""
        url = self._options.supabase_url
        here = None if url or self.any_ports else _supabase_here(Project.find())
        if here:
            self.say(
                f"[bold]a Supabase answers at {here}[/]; this stack has a database of its own,"
                f" and works with that one by: minutehand dev --supabase-url {here}"
            )
        return Stack(
            state,
            logs,
            self.say,
            inherited=os.environ,
            remote=remote_values(url, os.environ) if url else None,
            scratch=self.scratch,
            prefer_known=not self.any_ports,
        )

    def lines(self, stack: SupabaseStack) -> list[tuple[str, str]]:
        """List where to look, as whom, and which settings of AWS are unset here."""
        values = stack.values
        postgres = values.get("DATABASE_URL") or "not known, so the worker polls: DATABASE_URL"
        lines = [
            ("Console", values["CONSOLE_URL"]),
            ("API", f"{values['API_URL']}/api/jobs"),
            ("Supabase", values["SUPABASE_URL"]),
            ("Postgres", postgres),
            *_sign_in(values),
        ]
        if unset := needs_of(Project.find()).unset(os.environ):
            lines.append(("Unset here", ", ".join(unset)))
            lines.append(("", "lambda.yml gives it a value here under `local`, or the environment"))
        return lines

    async def show(self, stack: SupabaseStack) -> int | None:
        """Run the demo jobs; with --once their end is the run's."""
        ended_well = True
        if not self._options.no_demo and "DEMO_EMAIL" in stack.values:
            ended_well = await demo.show(stack.values, self.say, started=self.started)
        if self._options.once:
            return 0 if ended_well else FAILED
        return None


def _supabase_here(project: Project) -> str | None:
    """The address of a `supabase start` of this project, where one answers."""
    url = Config.read(project.root).address
    try:
        httpx.get(f"{url}/rest/v1/", timeout=1)
    except httpx.HTTPError:
        return None
    return url


def _sign_in(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """With which account to look around."""
    if "DEMO_EMAIL" in values:
        return [
            ("Sign in", f"{values['DEMO_EMAIL']} / {values['DEMO_PASSWORD']}"),
            ("", f"{values['DEMO_OTHER_EMAIL']} of another workspace, same password"),
        ]
    if not default_user.is_available(values):
        return []
    member = default_user.find_member(values)
    if member is None:
        return [
            ("Sign in", "no account belongs to a tenant yet: `minutehand docs local` says how to"),
            ("", "make one and its membership; `minutehand` then acts as that account"),
        ]
    return [
        ("Sign in", f"{member.email}, with its own password, for {member.tenant}"),
        ("", "`minutehand` acts as that account here, without a password"),
    ]
