"""What a check reports, and what it is given.

A check reads one part, never changes it, and returns; reaching the part may fail, which the
runner turns into a finding too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.conninfo import conninfo_to_dict

from minutehand.install.rewrite import Schemas, rewrite
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed, Connection

#: Of Supabase's pooler: transaction mode, and session mode at the same host.
TRANSACTION_PORT, SESSION_PORT = "6543", "5432"


class Verdict(StrEnum):
    """How bad it is; `skip` means that there was nothing to check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` is one line a person can act on."""

    check: str
    verdict: Verdict
    detail: str
    fix: str | None = None


@dataclass
class Target:
    """A stack to check. With `stage`, the deployed one; the database only if it is named."""

    values: Mapping[str, str]
    stage: str | None = None
    root: Path = field(default_factory=lambda: Project.find().root)
    region: str = "us-east-1"
    #: Why AWS cannot be asked about the stage; what the functions hold is then unknown.
    aws_away: CommandFailed | None = None
    _database: psycopg.Connection[tuple[Any, ...]] | None = None
    _connection: Connection | None = field(default=None, repr=False)

    @property
    def is_local(self) -> bool:
        """Whether this is a development stack, where well-known secrets are as they should be."""
        return self.values.get("STAGE", "local") == "local" and self.stage is None

    @property
    def database(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A session of the database's owner; ask through `ask`."""
        if self._database is None or self._database.closed:
            url = self.values["DATABASE_URL"]
            refuse_transaction_pooler(url)
            self._database = psycopg.connect(url, connect_timeout=5)
            # of psycopg: it begins each transaction as `begin read only`, and sets nothing that a
            # pooler would leave to anyone who gets the server's connection next
            self._database.read_only = True
        return self._database

    def ask(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a query in a transaction of its own, which reads only.

        The query names the schemas as the migrations' source does.
        """
        named = rewrite(sql, self.schemas)
        with self.database.transaction():
            return self.database.execute(named.encode(), parameters or None).fetchall()

    @cached_property
    def schemas(self) -> Schemas:
        """Where this project keeps what clients see, and the engine."""
        project = Project.at(self.root)
        return Schemas(project.schema_)

    @property
    def person(self) -> Connection:
        """The stack as a signed-in person sees it."""
        if self._connection is None:
            self._connection = Connection(self.values)
        return self._connection

    def get(self, name: str, path: str, **headers: str) -> httpx.Response:
        """One GET below the address in a setting, with a short timeout."""
        url = self.values[name].rstrip("/") + path
        return httpx.get(url, headers=headers, timeout=httpx.Timeout(10.0, connect=3.0))

    def data(self, query: str, schema: str, **headers: str) -> httpx.Response:
        """One GET of the Data API with the publishable key."""
        headers |= {
            "apikey": self.values["SUPABASE_PUBLISHABLE_KEY"], "accept-profile": schema
        }  # fmt: skip
        return self.get("SUPABASE_URL", f"/rest/v1/{query}", **headers)

    def aws(self, service: str) -> Any:
        """A boto3 client of the stage's account."""
        import boto3

        return boto3.client(  # type: ignore[call-overload]
            service, region_name=self.region, endpoint_url=self.values.get("AWS_ENDPOINT_URL")
        )

    def close(self) -> None:
        """Close the open link."""
        if self._database is not None:
            self._database.close()
        if self._connection is not None:
            self._connection.close()


def refuse_transaction_pooler(url: str) -> None:
    """Refuse the transaction mode of Supabase's pooler, with the address to take instead."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return  # connecting says what is wrong with it
    if str(parts.get("port", "")) != TRANSACTION_PORT:
        return
    host = str(parts.get("host", ""))
    user = str(parts.get("user", "postgres"))
    # 5432 is the direct port of the project's own pooler, and session mode of the shared one
    right = f"postgresql://{user}:…@{host}:{SESSION_PORT}/{parts.get('dbname', 'postgres')}"
    raise CommandFailed(
        f"DATABASE_URL is a pooler in transaction mode ({host}:{TRANSACTION_PORT}): its sessions "
        "are shared with other clients",
        code="transaction_pooler",
        fix=f"take session mode or a direct connection: DATABASE_URL={right}",
    )


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
    #: Only with --stage.
    deployed: bool = False
    #: Looks at what a deployed stage keeps in AWS.
    held_by_aws: bool = False


class Checks(list[Check]):
    """The checks of a module, in the order of its text; causes come first."""

    def add(self, name: str, **when: Any) -> Callable[[Look], Look]:
        """Make a check of a function; `when` is what `Check` takes besides."""

        def register(run: Look) -> Look:
            self.append(Check(name, run, **when))
            return run

        return register


# the runner writes the name of the check into what these make


def ok(detail: str) -> Finding:
    """As it should be."""
    return Finding("", Verdict.OK, detail)


def warn(detail: str, fix: str) -> Finding:
    """Works, but should not stay so."""
    return Finding("", Verdict.WARN, detail, fix)


def fail(detail: str, fix: str) -> Finding:
    """Does not work, or is not safe."""
    return Finding("", Verdict.FAIL, detail, fix)


def skip(detail: str) -> Finding:
    """Nothing to check."""
    return Finding("", Verdict.SKIP, detail)
