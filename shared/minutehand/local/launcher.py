"""The foreground process of `minutehand dev`, which runs the stack and prints URLs and the demo."""

import argparse
import os
from collections.abc import Mapping

from minutehand.config import ConfigurationError
from minutehand.deploy.service import needs_of
from minutehand.local import demo
from minutehand.local.cli_stack import read_status
from minutehand.local.environment import CLI_NAMES, remote_values
from minutehand.local.stack import Stack
from minutehand.project import Project
from minutehand.terminal import default_user
from minutehand.terminal.connection import CommandFailed, Connection
from supabase_local import launcher as supabase
from supabase_local.launcher import FAILED
from supabase_local.logs import Logs
from supabase_local.migrations import PartMissing
from supabase_local.stack import Stack as SupabaseStack
from supabase_local.state import StateFolder

LACKING = "without Storage, Edge Functions and Auth's admin API, which `supabase start` has"


class Launcher(supabase.Launcher):
    """One run of `minutehand dev`."""

    failures = (*supabase.Launcher.failures, ConfigurationError, CommandFailed)

    def __init__(self, options: argparse.Namespace, *, started: float) -> None:
        super().__init__(
            options.state, started=started, any_ports=options.any_ports, scratch=options.scratch
        )
        self._options = options
        if options.once:
            self.stopped = FAILED  # exit code if the demo jobs do not end

    def describe(self, failure: Exception) -> str:
        """Return a message for people about a failure of the local stack."""
        if isinstance(failure, PartMissing):
            return f"{failure}\nTo use it, run `supabase start` and `supabase migration up` first"
        return str(failure)

    def make_stack(self, state: StateFolder, logs: Logs) -> Stack:
        """Return the project's stack.

        If the Supabase CLI already runs a Supabase for the project, the local stack uses that
        Supabase.
        """
        remote = None
        if url := self._options.supabase_url:
            remote = remote_values(url, os.environ)
        elif not self.any_ports and (printed := read_status(Project.find(), os.environ)):
            remote = remote_values(printed["API_URL"], printed)
            lacking = [name for name in CLI_NAMES if name not in remote]
            self.say(
                f"uses the Supabase of `supabase start` at {remote['SUPABASE_URL']}"
                + (f", which prints no {', '.join(lacking)}" if lacking else "")
                + ". Apply your migrations with `supabase migration up`"
            )
        return Stack(
            state,
            logs,
            self.say,
            parent_env=os.environ,
            remote=remote,
            scratch=self.scratch,
            prefer_known=not self.any_ports,
        )

    def lines(self, stack: SupabaseStack) -> list[tuple[str, str]]:
        """List URLs and accounts, and the variables of apps that are not set on this machine."""
        values = stack.values
        postgres = values.get("DATABASE_URL") or "unknown, so the worker polls (set DATABASE_URL)"
        lines = [
            ("Console", values["CONSOLE_URL"]),
            ("API", f"{values['API_URL']}/api/jobs"),
            ("Supabase", values["SUPABASE_URL"]),
            *([("", LACKING)] if stack.postgres is not None else []),
            ("Postgres", postgres),
            *_sign_in(values),
        ]
        if unset := needs_of(Project.find()).unset(os.environ):
            lines.append(("Unset here", ", ".join(unset)))
            lines.append(("", "set it in the environment, or in lambda.yml under `local`"))
        return lines

    async def show(self, stack: SupabaseStack) -> int | None:
        """Run the demo jobs. With --once, the stack ends after the demo jobs."""
        has_completed = True
        if not self._options.no_demo and "DEMO_EMAIL" in stack.values:
            has_completed = await demo.show(stack.values, self.say, started=self.started)
        if self._options.once:
            return 0 if has_completed else FAILED
        return None


def _signs_in(values: Mapping[str, str], name: str) -> bool:
    """Return whether the demo account whose e-mail is in the variable `name` can sign in.

    A seed of the project may have deleted the demo account.
    """
    try:
        Connection(values).sign_in(values[name], values.get("DEMO_PASSWORD", ""))
    except CommandFailed:
        return False
    return True


def _sign_in(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the lines to print about the accounts that can sign in."""
    if "DEMO_EMAIL" in values:
        names = ("DEMO_EMAIL", "DEMO_OTHER_EMAIL")
        emails = [values[name] for name in names if name in values and _signs_in(values, name)]
        if not emails:
            return [("Sign in", f"{values['DEMO_EMAIL']} cannot; a seed may have deleted the user")]
        first, *rest = emails
        return [
            ("Sign in", f"{first} / {values['DEMO_PASSWORD']}"),
            *(("", f"{other} (another workspace, same password)") for other in rest),
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
