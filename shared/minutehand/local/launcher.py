"""The foreground process of `minutehand dev`: the stack, its URLs, and the demo."""

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
            self.stopped = FAILED  # until every demo job has ended

    def describe(self, failure: Exception) -> str:
        """Return the message of a failure for a person."""
        if isinstance(failure, PartMissing):
            return (
                f"{failure}\nTo use it, run: minutehand dev --supabase-url http://127.0.0.1:54321"
            )
        return str(failure)

    def make_stack(self, state: StateFolder, logs: Logs) -> Stack:
        """Return the project's stack. Mentions a Supabase of the CLI that runs as well."""
        url = self._options.supabase_url
        here = None if url or self.any_ports else _supabase_here(Project.find())
        if here:
            self.say(
                f"[bold]a Supabase runs at {here}[/]. This stack uses its own database."
                f" To use that Supabase instead, run: minutehand dev --supabase-url {here}"
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
        """List URLs and accounts, and the apps' variables that are not set here."""
        values = stack.values
        postgres = values.get("DATABASE_URL") or "unknown, so the worker polls (set DATABASE_URL)"
        lines = [
            ("Console", values["CONSOLE_URL"]),
            ("API", f"{values['API_URL']}/api/jobs"),
            ("Supabase", values["SUPABASE_URL"]),
            ("Postgres", postgres),
            *_sign_in(values),
        ]
        if unset := needs_of(Project.find()).unset(os.environ):
            lines.append(("Unset here", ", ".join(unset)))
            lines.append(("", "set it in the environment, or in lambda.yml under `local`"))
        return lines

    async def show(self, stack: SupabaseStack) -> int | None:
        """Run the demo jobs. With --once the run ends after them."""
        ended_well = True
        if not self._options.no_demo and "DEMO_EMAIL" in stack.values:
            ended_well = await demo.show(stack.values, self.say, started=self.started)
        if self._options.once:
            return 0 if ended_well else FAILED
        return None


def _supabase_here(project: Project) -> str | None:
    """Return the URL of a running `supabase start` of this project, or None."""
    url = Config.read(project.root).address
    try:
        httpx.get(f"{url}/rest/v1/", timeout=1)
    except httpx.HTTPError:
        return None
    return url


def _sign_in(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the lines about accounts."""
    if "DEMO_EMAIL" in values:
        return [
            ("Sign in", f"{values['DEMO_EMAIL']} / {values['DEMO_PASSWORD']}"),
            ("", f"{values['DEMO_OTHER_EMAIL']} (another workspace, same password)"),
        ]
    if not default_user.is_available(values):
        return []
    member = default_user.find_member(values)
    if member is None:
        return [
            (
                "Sign in",
                "no account belongs to a tenant yet. See `minutehand docs local` for how to",
            ),
            ("", "create one with a membership. `minutehand` then acts as that account"),
        ]
    return [
        ("Sign in", f"{member.email} with its password, for {member.tenant}"),
        ("", "`minutehand` acts as that account here, without a password"),
    ]
