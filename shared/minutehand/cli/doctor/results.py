"""Types of the doctor: a check, its target and its result.

A check reads one part of the stack and changes nothing. The runner reports parts that are
unreachable or have no settings, so checks need not report them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import httpx
import psycopg

from minutehand.app import App, built_in
from minutehand.cli.stage import Stage
from minutehand.cli.supabase_cli import migration_command
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.terminal.connection import Connection

#: Result of a check; `skip` means that there was nothing to check.
CheckStatus = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class CheckResult:
    """A line of the report; `fix` is a line that a person can act on."""

    verdict: CheckStatus
    detail: str = ""
    fix: str | None = None
    #: Name of the check, set by the runner.
    check: str = ""


ok, skip = partial(CheckResult, "ok"), partial(CheckResult, "skip")
# `warn` is for a part that works but should be changed, `fail` for one that is broken or unsafe;
# both take the fix.
warn, fail = partial(CheckResult, "warn"), partial(CheckResult, "fail")


@dataclass
class Target:
    """A stack to check, deployed if it has a `stage`.

    The database is checked only if its address is known.
    """

    values: Mapping[str, str]
    stage: Stage | None = None
    workspace: str | None = None

    @property
    def migrate(self) -> str:
        """Command line that applies pending migrations."""
        name = None if self.stage is None else self.stage.name
        return migration_command(self.values.get("SUPABASE_URL", ""), name)

    @cached_property
    def schemas(self) -> Schemas:
        """Names of the schemas of clients and of the engine."""
        return Schemas(self.person.schema)

    @property
    def apps(self) -> list[App]:
        """Apps of this package that the stack uses."""
        return built_in(
            [name.strip() for name in self.values.get("MINUTEHAND_APPS", "").split(",")]
        )

    @cached_property
    def person(self) -> Connection:
        """Connection of a signed-in person."""
        return Connection(self.values, given_workspace=self.workspace)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query as the database's owner, in a read-only transaction.

        The query must use the schema names of the migrations' source.
        """
        with self.transaction(read_only=True) as owner:
            return owner.execute(rewrite(sql, self.schemas).encode()).fetchall()

    @contextmanager
    def transaction(
        self, *, read_only: bool | None
    ) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Open a transaction of the database's owner that is rolled back.

        A statement waits two seconds for a lock.
        """
        with psycopg.connect(self.person.need("DATABASE_URL"), connect_timeout=5) as owner:
            # psycopg starts the transaction with `begin read only`, so that no session setting is
            # left on a server connection that a pooler gives to someone else
            owner.read_only = read_only
            # set it only for this transaction, because the checks read settings of sessions
            owner.execute(
                "select set_config('statement_timeout', '30s', true),"
                " set_config('lock_timeout', '2s', true)"
            )
            try:
                yield owner
            finally:
                owner.rollback()

    def call(self, method: str, name: str, path: str, **options: Any) -> httpx.Response:
        """Call a path below the address in the setting `name`, with a short timeout."""
        url = self.person.need(name).rstrip("/") + path
        return httpx.request(method, url, timeout=httpx.Timeout(10.0, connect=3.0), **options)


CheckFunction = Callable[[Target], CheckResult]


@dataclass(frozen=True)
class Check:
    """A check with its name and the conditions to run it."""

    name: str
    run: CheckFunction
    #: Names of checks whose failure would explain a failure of this check, which is then skipped.
    after: tuple[str, ...]
    #: Whether the check runs only for a deployed stage, or when --only names it.
    staged: bool


#: Checks in the order of their definition, in which causes come before their consequences.
CHECKS: list[Check] = []


def check(name: str, *after: str, staged: bool = False) -> Callable[[CheckFunction], CheckFunction]:
    """Register a function as a check."""

    def register(run: CheckFunction) -> CheckFunction:
        CHECKS.append(Check(name, run, after, staged))
        return run

    return register
