"""Types of the doctor: a check, the stack that it checks, and its result.

A check reads one part of the stack and changes nothing. The runner reports a part that is
unreachable or has no settings, so that checks need not report it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import httpx
import psycopg

from minutehand.app import App, built_in
from minutehand.cli.stage import Stage
from minutehand.cli.supabase_cli import migration_command
from minutehand.config import Settings
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.local.running import find_launcher
from minutehand.queue.outbound_http import is_local
from minutehand.terminal.connection import CommandFailed, Connection

#: Result of a check. `skip` means that the check did not apply.
CheckStatus = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class CheckResult:
    """A result in the report. `fix` is a line that a person can act on."""

    verdict: CheckStatus
    detail: str = ""
    fix: str | None = None
    #: Name of the check, which the runner sets.
    check: str = ""


#: Start of a further line in the report. Only such lines are indented, because the lines of a
#: function's body in a fix must stay as released.
LINE = "\n        "
#: Statements that set the timeouts of a transaction, and that names have no needless quotes. Some
#: versions of Postgres lack some timeouts. The database's statement timeout may be so short that it
#: would end the longer statement.
TIMEOUTS = """
    set local statement_timeout = '30s';
    select set_config(t.name, t.value, true)
    from (values ('lock_timeout', '2s'),
      ('idle_in_transaction_session_timeout', '0'), ('transaction_timeout', '0'),
      ('quote_all_identifiers', 'off')) as t (name, value)
    join pg_settings using (name)
"""

#: Query of the relation or function that most running requests of the Data API use. Statements of
#: the Data API that name none are left out.
BUSIEST = """
    select count(*), used
    from pg_stat_activity, substring(query from '"[^"]+"\\."[^"]+"') as used
    where usename = 'authenticator' and state = 'active' and used is not null
    group by 2
    order by 1 desc
    limit 1
"""
END_CALLS = (
    "select pg_cancel_backend(pid) from pg_stat_activity where usename = 'authenticator' and "
    "state = 'active'  -- then make these calls faster, or give their role a statement_timeout"
)

ok, skip = partial(CheckResult, "ok"), partial(CheckResult, "skip")
# `warn` is for a part that works but should be changed, and `fail` for a part that is broken or
# unsafe. The second argument is the fix.
warn, fail = partial(CheckResult, "warn"), partial(CheckResult, "fail")


def merge(results: Sequence[CheckResult]) -> CheckResult:
    """Merge results into one, with a line for each different detail and each different fix."""
    details = dict.fromkeys(result.detail for result in results)
    fixes = dict.fromkeys(result.fix for result in results if result.fix)
    return CheckResult(results[0].verdict, LINE.join(details), LINE.join(fixes) or None)


#: Next steps for an address of another server than this machine's `minutehand dev`.
RESTART_HOSTED = "Project settings → General → Restart project"
RESTART_CLI = "supabase stop && supabase start  # or correct {}, if another server listens there"
ADDRESS = (
    "{}=…  # a reachable address, as in .local/env; or start it by `supabase start`; a hosted one"
    " may be paused"
)
SILENT = "restart `minutehand serve`  # a job that blocks the API's event loop silences it"


@dataclass
class Target:
    """A stack to check. The stack is deployed if it has a `stage`.

    The checks of the database need its address, DATABASE_URL.
    """

    values: Mapping[str, str]
    stage: Stage | None = None
    workspace: str | None = None
    #: Steps of the findings about sessions that the check `locks` has reported.
    reported: set[str] = field(default_factory=set)

    @cached_property
    def settings(self) -> Settings:
        """Settings of the stack. Raise an error if a setting is missing or invalid."""
        return Settings.from_env(self.values)

    @property
    def migrate(self) -> str:
        """Command line that applies the pending migrations of the stack."""
        if pid := find_launcher(self.values, "DATABASE_URL"):  # it applies each new migration
            return (
                f"minutehand dev  # first stop process {pid}; its output names a failed migration"
            )
        name = None if self.stage is None else self.stage.name
        return migration_command(self.values.get("SUPABASE_URL", ""), name)

    @cached_property
    def schemas(self) -> Schemas:
        """Names of the schema that clients see and of the engine's schema."""
        return Schemas(self.person.schema)

    @property
    def apps(self) -> list[App]:
        """Apps of Minutehand that the stack uses."""
        return built_in(
            [name.strip() for name in self.values.get("MINUTEHAND_APPS", "").split(",")]
        )

    @cached_property
    def person(self) -> Connection:
        """Connection to the API as a signed-in person."""
        return Connection(self.values, given_workspace=self.workspace)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query as the database's owner, in a read-only transaction.

        The query must use the schema names of the SQL sources, `public` and `queue`.
        """
        with self.transaction("read only") as owner:
            return owner.execute(rewrite(sql, self.schemas).encode()).fetchall()

    def restart(self, name: str, *, is_silent: bool) -> str:
        """Return the next step if the server at the address in a setting does not respond.

        Args:
            name: Name of the setting.
            is_silent: True if the server accepts connections.
        """
        pid = find_launcher(self.values, name)
        if pid == 0:
            return "minutehand dev  # it does not run"
        if pid and is_silent:
            return f"minutehand dev  # first stop process {pid}, which runs the part that hangs"
        if pid:
            return (
                f"minutehand doctor  # in a minute, because `minutehand dev` (process {pid}) starts"
                " this part; its output has the reason if the part fails"
            )
        if not is_silent:
            return ADDRESS.format(name)
        if self.stage and name == "API_URL":
            return f"aws logs tail {self.stage.stack} --since 10m"
        if name == "API_URL":
            return SILENT
        if name == "DATABASE_URL" or is_local(self.values.get(name, "")):
            return RESTART_CLI.format(name)
        return RESTART_HOSTED

    @contextmanager
    def transaction(self, mode: str = "") -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Open a transaction as the database's owner, which is rolled back at the end.

        The mode is `read only`, `read write` or the database's default. A statement in the
        transaction waits up to two seconds for a lock.
        """
        address = self.person.need("DATABASE_URL")
        with psycopg.connect(address, connect_timeout=5, autocommit=True) as owner:
            # Set the timeouts only for this transaction, because some checks read the settings of
            # sessions, and a pooler may give the session to another client. Begin in the same
            # message, because the role may end idle transactions after a millisecond.
            owner.execute(f"begin {mode}; {TIMEOUTS}".encode())
            try:
                yield owner
            finally:
                owner.rollback()

    def call(self, method: str, name: str, path: str, **options: Any) -> httpx.Response:
        """Request a path below the address in the setting `name`, with a short timeout.

        Raise CommandFailed if the Data API has no free connection to the database.
        """
        url = self.person.need(name).rstrip("/") + path
        # the Data API waits ten seconds for a connection to the database
        timeout = httpx.Timeout(15.0, connect=3.0)
        response = httpx.request(method, url, timeout=timeout, **options)
        if response.is_error and "PGRST003" in response.text:
            rows = self.query(BUSIEST) if self.values.get("DATABASE_URL") else []
            used = "".join(f", {count} by requests of {name}" for count, name in rows)
            raise CommandFailed(f"all connections of the Data API are in use{used}", fix=END_CALLS)
        return response


CheckFunction = Callable[[Target], CheckResult]


@dataclass(frozen=True)
class Check:
    """A check with its name, and the conditions under which it runs."""

    name: str
    run: CheckFunction
    #: Names of earlier checks. If one of them has failed, it probably explains a failure of this
    #: check, which is then skipped.
    after: tuple[str, ...]
    #: True if the check runs only for a deployed stage, or if --only names the check.
    staged: bool


#: All checks. A check of a cause comes before the checks of its consequences.
CHECKS: list[Check] = []


def check(name: str, *after: str, staged: bool = False) -> Callable[[CheckFunction], CheckFunction]:
    """Register the decorated function as a check."""

    def register(run: CheckFunction) -> CheckFunction:
        CHECKS.append(Check(name, run, after, staged))
        return run

    return register
