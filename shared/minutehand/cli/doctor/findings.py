"""What a check is, what it reports, and what it is given.

A check reads one part, changes nothing, and returns; that the part cannot be reached, or is not
set, is for the runner to say, so that each check has one sentence for it less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import httpx
import psycopg

from minutehand.app import App, built_in
from minutehand.cli.stage import Stage
from minutehand.cli.supabase_cli import how_to_migrate
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.terminal.connection import Connection

#: `skip` means that there was nothing to check.
Verdict = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` is one line a person can act on."""

    verdict: Verdict
    detail: str = ""
    fix: str | None = None
    #: Its name, which the runner writes.
    check: str = ""


ok, skip = partial(Finding, "ok"), partial(Finding, "skip")
#: Works, but should not stay so; does not work, or is not safe. Both take the fix.
warn, fail = partial(Finding, "warn"), partial(Finding, "fail")


@dataclass
class Target:
    """A stack to check: with `stage` a deployed one. The database only if its address is known."""

    values: Mapping[str, str]
    stage: Stage | None = None
    workspace: str | None = None

    @property
    def migrate(self) -> str:
        """The one line that brings the database up to date."""
        name = None if self.stage is None else self.stage.name
        return how_to_migrate(self.values.get("SUPABASE_URL", ""), name)

    @cached_property
    def schemas(self) -> Schemas:
        """Where the stack keeps what clients see, and the engine."""
        return Schemas(self.person.schema)

    @property
    def apps(self) -> list[App]:
        """The apps of this package that the stack has."""
        return built_in(
            [name.strip() for name in self.values.get("MINUTEHAND_APPS", "").split(",")]
        )

    @cached_property
    def person(self) -> Connection:
        """The stack as a signed-in person sees it."""
        return Connection(self.values, given_workspace=self.workspace)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of the database's owner, in which each statement is a transaction."""
        url = self.person.need("DATABASE_URL")
        return psycopg.connect(url, connect_timeout=5, autocommit=True)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query by the database's owner, in a transaction that reads only.

        The query names the schemas as the migrations' source does.
        """
        with self.connect() as owner:
            owner.autocommit = False
            # of psycopg: it begins the transaction as `begin read only`, and sets nothing that a
            # pooler would leave to anyone who gets the server's connection next
            owner.read_only = True
            # for this transaction: what someone set for every session is what is looked for
            owner.execute("select set_config('statement_timeout', '30s', true)")
            return owner.execute(rewrite(sql, self.schemas).encode()).fetchall()

    def call(self, method: str, name: str, path: str, **more: Any) -> httpx.Response:
        """One call below the address in a setting, with a short timeout."""
        url = self.person.need(name).rstrip("/") + path
        return httpx.request(method, url, timeout=httpx.Timeout(10.0, connect=3.0), **more)


Look = Callable[[Target], Finding]


@dataclass(frozen=True)
class Check:
    """One check: its name, itself, and when it is worth running."""

    name: str
    run: Look
    #: Checks whose failure would be this one's cause: it is skipped then.
    after: tuple[str, ...]
    #: Only of a deployed stage, or when it is named.
    staged: bool


#: In the order of the text: causes come before what follows from them.
CHECKS: list[Check] = []


def check(name: str, *after: str, staged: bool = False) -> Callable[[Look], Look]:
    """Make a check of a function."""

    def register(run: Look) -> Look:
        CHECKS.append(Check(name, run, after, staged))
        return run

    return register
