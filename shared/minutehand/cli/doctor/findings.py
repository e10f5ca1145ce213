"""What a check is, what it reports, and what it is given.

A check reads one part, changes nothing, and returns; that the part cannot be reached is for the
runner to say, so that each check has one sentence for it less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import httpx
import psycopg

from minutehand.cli.stage import Stage
from minutehand.cli.supabase_cli import how_to_migrate
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed, Connection

#: `skip` means that there was nothing to check.
Verdict = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` is one line a person can act on."""

    verdict: Verdict
    detail: str
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
    #: Why AWS cannot be asked about the stage; what the functions hold is then unknown.
    aws_away: CommandFailed | None = None
    project: Project = field(default_factory=Project.find)
    _database: psycopg.Connection[tuple[Any, ...]] | None = None

    @property
    def is_local(self) -> bool:
        """Whether this is a stack of a developer's machine."""
        return self.stage is None and self.values.get("STAGE", "local") == "local"

    @property
    def migrate(self) -> str:
        """The one line that brings the database up to date."""
        name = None if self.stage is None else self.stage.name
        return how_to_migrate(self.values.get("SUPABASE_URL", ""), name)

    @cached_property
    def schemas(self) -> Schemas:
        """Where this project keeps what clients see, and the engine."""
        return Schemas(self.project.schema_)

    @cached_property
    def person(self) -> Connection:
        """The stack as a signed-in person sees it."""
        return Connection(self.values)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query by the database's owner, in a transaction of its own that reads only.

        The query names the schemas as the migrations' source does.
        """
        if self._database is None or self._database.closed:
            self._database = psycopg.connect(self.values["DATABASE_URL"], connect_timeout=5)
            # of psycopg: it begins each transaction as `begin read only`, and sets nothing that a
            # pooler would leave to anyone who gets the server's connection next
            self._database.read_only = True
        with self._database.transaction():
            return self._database.execute(rewrite(sql, self.schemas).encode()).fetchall()

    def get(self, name: str, path: str, **headers: str) -> httpx.Response:
        """One GET below the address in a setting, with a short timeout."""
        url = self.values[name].rstrip("/") + path
        return httpx.get(url, headers=headers, timeout=httpx.Timeout(10.0, connect=3.0))

    def data(self, query: str, schema: str) -> httpx.Response:
        """One GET of the Data API with the publishable key."""
        key = self.values["SUPABASE_PUBLISHABLE_KEY"]
        headers = {"apikey": key, "accept-profile": schema}
        return self.get("SUPABASE_URL", f"/rest/v1/{query}", **headers)

    def close(self) -> None:
        """Close what is open."""
        if self._database is not None:
            self._database.close()
        self.person.close()


Look = Callable[[Target], Finding]


@dataclass(frozen=True)
class Check:
    """One check: its name, itself, and when it is worth running."""

    name: str
    run: Look
    #: Settings without which there is nothing to check.
    needs: tuple[str, ...] = ()
    #: Checks whose failure would be this one's cause: it is skipped then.
    after: tuple[str, ...] = ()
    #: Only of a deployed stage, or when it is named.
    staged: bool = False
    #: Signs in with the worker's key, which a stage keeps in AWS.
    as_worker: bool = False


#: In the order of the text: causes come before what follows from them.
CHECKS: list[Check] = []


def check(name: str, **when: Any) -> Callable[[Look], Look]:
    """Make a check of a function; `when` is what `Check` takes besides."""

    def register(run: Look) -> Look:
        CHECKS.append(Check(name, run, **when))
        return run

    return register
