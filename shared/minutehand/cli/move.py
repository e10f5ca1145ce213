"""`minutehand move-workspace`, which moves a paused workspace's jobs to another database.

The command moves jobs in rounds. A round moves some jobs, their descendants, and the jobs that
await them. Each round uses one transaction in each database, and the destination commits first. If
the command is interrupted between the two commits, the next call of the command repeats the round
and replaces the rows in the destination. The workspace is paused in both databases until the last
round, so that no job runs twice.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from psycopg.types.json import Jsonb

from minutehand.cli.control import Yes, confirm
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.terminal.connection import CommandFailed, Connection, read_env_file
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import Output

#: Number of jobs without a parent job that one round moves with all their descendants.
FAMILIES = 500
REASON = "move-workspace"
#: Tables that this command does not copy. The destination creates rows of these tables itself, or
#: their rows describe workers, messages and limits of the source.
NOT_COPIED = {
    *("ready", "unpublished", "notes", "turns", "refusals", "leases", "suspects"),
    *("feed", "followers", "stats"),
}
#: SQL condition of the rows to copy, by table. If a table has no condition here, all its rows are
#: copied.
CONDITIONS = {
    "deferred": "not t.is_place",
    "pauses": "t.kind = 'workspace_type'",
    # copy jobs that count against the limit of their concurrency key while their start is delayed
    "gated": (
        "t.admitted and not t.ended and exists (select from queue.job_types as y"
        " where y.job_type = t.job_type and y.in_order)"
    ),
}
#: SQL expression of the value to write to the destination, by column. The source's values in these
#: columns are valid only in the source. A moved webhook reads the destination's feed from the
#: feed's beginning, because jobs of the workspace may have run in the destination before the move.
VALUES = {
    "lane": "0",
    "read_to": "0::bigint",
    "read_id": "0::bigint",
    "worker": "coalesce((select w.there from moved_workers as w where w.here = t.worker), 0)",
}

TABLES = """
select
  quote_ident(n.nspname), c.relname,
  array_agg(quote_ident(a.attname) order by a.attname)
    filter (where a.attgenerated = '' and a.attidentity = ''),
  bool_or(a.attname = 'job_id') or c.relname = 'jobs',
  (array_agg(quote_ident(a.attname)) filter (where a.attidentity <> ''))[1],
  (
    select jsonb_agg((
      select jsonb_agg(quote_ident(u.attname))
      from pg_attribute as u
      where u.attrelid = c.oid and u.attnum = any (k.conkey)
    ) order by k.conname)
    from pg_constraint as k
    where k.conrelid = c.oid and k.contype in ('p', 'u')
  )
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind = 'r'
  and (
    c.relnamespace = 'queue'::regnamespace
    or c.oid in ('public.jobs'::regclass, 'public.job_logs'::regclass)
  )
group by n.nspname, c.relname, c.oid
having bool_or(a.attname in ('job_id', 'workspace_id'))
order by n.nspname, c.relname
"""
#: Inserts jobs, their ancestors and descendants, and jobs that await each other. A job may await a
#: job of another family, because a spawn with an idempotency key returns an existing job.
FAMILY = """
insert into moved_jobs
with recursive awaited as materialized (
  select w.job_id as waiting, j.id
  from queue.waits as w
  cross join lateral jsonb_array_elements_text(w.data -> 'job_ids') as a (id)
  join public.jobs as j on j.id = a.id::uuid and j.parent_id is distinct from w.job_id
  where w.workspace_id = %(workspace)s
),
family as (
  (
    select j.id from public.jobs as j
    where j.workspace_id = %(workspace)s
      and not exists (select from public.jobs as p where p.id = j.parent_id)
    order by j.id
    limit %(families)s
  )
  union
  select r.id
  from family as f
  cross join lateral (
    select j.id from public.jobs as j where j.parent_id = f.id
    union all
    select p.id
    from public.jobs as j join public.jobs as p on p.id = j.parent_id
    where j.id = f.id
    union all
    select a.id from awaited as a where a.waiting = f.id
    union all
    select a.waiting from awaited as a where a.id = f.id
  ) as r
)
select id from family
"""
PAUSES = "select reason from queue.pauses where kind = 'workspace' and name = %(workspace)s::text"
#: Finds events that webhooks of the source database have not read.
UNREAD = """
select 1
from queue.webhooks as w
join queue.feed as f
  on f.workspace_id = w.workspace_id and (f.number, f.id) > (w.read_to, w.read_id)
where w.workspace_id = %(workspace)s and w.enabled
limit 1
"""
QUEUE_PENDING = """
select queue.place(j, queue.clock())
from (
  select j.* from public.jobs as j join moved_jobs as m on m.id = j.id
  where j.status = 'pending'
  order by j.ord
) as j
"""
EVENTS = """
insert into queue.signals (kind, workspace_id, name)
select 'event', w.workspace_id, w.event_name
from queue.waits as w join queue.named_events as e
  on e.workspace_id = w.workspace_id and e.name = w.event_name
where w.workspace_id = %(workspace)s
"""
LANES_OF_GATED = """
update queue.gated as g set lane = y.lane from queue.job_types as y, moved_jobs as m
where g.job_id = m.id and y.job_type = g.job_type and y.lane is not null
"""


@dataclass(frozen=True)
class Table:
    """A table of the engine whose rows belong to a job or to a workspace."""

    schema: str
    name: str
    columns: list[str]
    of_job: bool
    identity: str | None
    #: Columns of each primary or unique key of the table.
    keys: list[list[str]]

    @property
    def condition(self) -> str:
        """SQL condition of the table's rows that a round moves. The alias of the table is t."""
        if not self.of_job:
            return "t.workspace_id = %(workspace)s"
        column = "id" if self.name == "jobs" else "job_id"
        return f"t.{column} in (select m.id from moved_jobs as m)"

    @property
    def copied(self) -> str:
        """SQL condition of the table's rows that a round copies to the destination."""
        return f"{self.condition} and {CONDITIONS.get(self.name, 'true')}"

    def select(self) -> str:
        """Return a query of the rows to copy, with the values to write to the destination."""
        columns = ", ".join(VALUES.get(name, f"t.{name}") for name in self.columns)
        order = f" order by t.{self.identity}" if self.identity else ""
        return f"select {columns} from {self.schema}.{self.name} as t where {self.copied}{order}"


@dataclass
class Move:
    """Moves a workspace by one connection to each database as the database's owner."""

    source: psycopg.Connection[Any]
    destination: psycopg.Connection[Any]
    workspace: str
    schemas: Schemas
    rows: Counter[str] = field(default_factory=Counter)

    def check(self) -> None:
        """Raise CommandFailed if the workspace cannot be moved."""
        source, destination = (
            self._all(side, "select queue.version()") for side in (self.source, self.destination)
        )
        if source != destination:
            raise CommandFailed(
                f"the databases have different releases, {source[0][0]} and {destination[0][0]}",
                code="invalid_state",
                fix="run `minutehand upgrade` in both projects and push the migrations",
            )
        # take a lock, so that a second call of this command fails, and a call with FROM equal to TO
        lock = (
            "select pg_try_advisory_lock(hashtextextended('move-workspace ' || %(workspace)s, 0))"
        )
        if not all(self._all(side, lock)[0][0] for side in (self.source, self.destination)):
            raise CommandFailed(
                "FROM and TO are the same database, or another call moves this workspace",
                code="invalid_state",
            )
        if not self._all(
            self.destination, "select 1 from queue.tenants as t where t.id = %(workspace)s"
        ):
            raise CommandFailed(
                f"the destination has no tenant {self.workspace}",
                code="workspace_not_found",
                fix="copy your own tables first: tenants, members and users with their ids",
            )
        self._check_source()

    def _check_source(self) -> None:
        """Raise CommandFailed if jobs run in FROM, or if its webhooks have events to read."""
        if not self._all(self.source, PAUSES):
            raise CommandFailed(
                "the workspace must be paused in FROM",
                code="invalid_state",
                fix=f"minutehand pause --all -w {self.workspace}",
            )
        [[running]] = self._all(
            self.source, "select count(*) from queue.leases where workspace_id = %(workspace)s"
        )
        if running:
            raise CommandFailed(
                f"{running} jobs of the workspace still run in FROM",
                code="invalid_state",
                fix="wait until they have ended, then repeat the command",
            )
        [[webhooks]] = self._all(self.source, "select to_regclass('queue.webhooks')")
        if webhooks and self._all(self.source, UNREAD):
            raise CommandFailed(
                "webhooks in FROM have not read all events of the workspace",
                code="invalid_state",
                fix="let a worker run in FROM for some seconds, then repeat the command",
            )

    def run(self) -> Iterator[int]:
        """Move all rows of the workspace. Yield the number of moved jobs after each round."""
        tables = [Table(*row) for row in self._all(self.source, TABLES)]
        self._set_paused(paused=True)
        while moved := self._move_jobs(tables):
            yield moved
        with self._round():
            for table in tables:
                if not table.of_job and table.name not in NOT_COPIED:
                    self._copy_rows(table)
                    self._delete(self.source, table, table.copied)
            # end waits for events that arrived during the move
            self._all(self.destination, EVENTS)
        # also move jobs that schedules enqueued during the move
        while moved := self._move_jobs(tables):
            yield moved
        self._set_paused(paused=False)

    def _move_jobs(self, tables: list[Table]) -> int:
        jobs = [table for table in tables if table.of_job]
        with self._round():
            arguments = {"workspace": self.workspace, "families": FAMILIES}
            found = self.source.execute(self._sql(FAMILY), arguments).rowcount
            if not found:
                return 0
            self._copy("select id from moved_jobs", "moved_jobs (id)")
            self._map_workers()
            for table in jobs:
                self._delete(self.destination, table, table.condition)
            for table in jobs:
                if table.name not in NOT_COPIED:
                    self._copy_rows(table)
            self._all(self.destination, LANES_OF_GATED)
            self._all(self.destination, QUEUE_PENDING)
            for table in jobs:
                self._delete(self.source, table, table.condition)
        return found

    def _copy_rows(self, table: Table) -> None:
        """Copy the rows of a table that belong to the round.

        A copied row replaces a row of the destination that has the same key.
        """
        name, columns = f"{table.schema}.{table.name}", ", ".join(table.columns)
        self._all(
            self.destination,
            f"create temp table moved_rows on commit drop as select {columns} from {name} limit 0",
        )
        self._copy(table.select(), f"moved_rows ({columns})")
        self._compare(table)
        for key in [] if table.of_job else table.keys:
            same = " and ".join(f"t.{column} = m.{column}" for column in key)
            self._all(
                self.destination, f"delete from {name} as t using moved_rows as m where {same}"
            )
        # if a newer job in the destination has the key of a copied row, keep the newer job's row
        kept = " on conflict do nothing" if table.name == "job_keys" else ""
        self._all(
            self.destination,
            f"insert into {name} ({columns}) select {columns} from moved_rows{kept}",
        )
        self._all(self.destination, "drop table moved_rows")

    @contextmanager
    def _round(self) -> Iterator[None]:
        """Open a transaction in each database, in which no triggers run."""
        with self.source.transaction(), self.destination.transaction():
            # use an isolation level in which the round fails if another transaction changes its
            # rows
            self.source.execute("set transaction isolation level repeatable read")
            for side in (self.source, self.destination):
                side.execute(
                    "set local session_replication_role = replica; set local timezone = 'UTC';"
                    " set local statement_timeout = 0;"
                    " create temp table moved_jobs (id uuid primary key) on commit drop"
                )
            self._check_source()
            self.source.execute(
                "create temp table moved_workers (here integer, there integer) on commit drop"
            )
            yield

    def _map_workers(self) -> None:
        """Register in the destination the workers that ran the moved jobs."""
        rows = self._all(
            self.source,
            "select w.worker, w.worker_id, w.started_at, w.seen_at, w.ended_at"
            " from queue.workers as w where w.worker in ("
            "select j.worker from public.jobs as j join moved_jobs as m on m.id = j.id"
            " union"
            " select a.worker from queue.attempts as a join moved_jobs as m on m.id = a.job_id)",
        )
        add = self._sql(
            "insert into queue.workers as w (worker_id, started_at, seen_at, ended_at)"
            " values (%s, %s, %s, %s)"
            " on conflict (worker_id) do update set worker_id = excluded.worker_id"
            " returning w.worker"
        )
        for source_id, *values in rows:
            [[destination_id]] = self.destination.execute(add, values).fetchall()
            self.source.execute(
                "insert into moved_workers values (%s, %s)", [source_id, destination_id]
            )

    def _copy(self, select: str, target: str) -> None:
        with (
            self.source.cursor().copy(
                self._sql(f"copy ({select}) to stdout (format binary)"),
                {"workspace": self.workspace},
            ) as rows,
            self.destination.cursor().copy(
                self._sql(f"copy {target} from stdin (format binary)")
            ) as copied,
        ):
            for block in rows:
                copied.write(block)

    def _compare(self, table: Table) -> None:
        """Raise CommandFailed if the copied rows differ from the rows in the source database."""
        checksum = "coalesce(sum(hashtextextended(r::text, 0)::numeric), 0)"
        query = f"select count(*), {checksum} from ({{}}) as r"
        [source] = self._all(self.source, query.format(table.select()))
        [destination] = self._all(self.destination, query.format("select * from moved_rows"))
        if source != destination:
            raise CommandFailed(
                f"the rows of {table.name} differ after the copy; nothing of this round is stored",
                code="checksum_mismatch",
            )
        self.rows[table.name] += source[0]

    def _delete(self, side: psycopg.Connection[Any], table: Table, condition: str) -> None:
        self._all(side, f"delete from {table.schema}.{table.name} as t where {condition}")

    def _set_paused(self, *, paused: bool) -> None:
        """Pause the workspace in TO unless it is paused, or end a pause that this command began."""
        if self._all(self.destination, PAUSES) == ([] if paused else [(REASON,)]):
            request = {
                "kind": "workspace",
                "name": self.workspace,
                "paused": paused,
                "reason": REASON,
            }
            self._all(self.destination, "select public.pause_jobs(%(request)s)", request=request)

    def _all(self, side: psycopg.Connection[Any], query: str, **values: Any) -> list[Any]:
        arguments: dict[str, Any] = {"workspace": self.workspace}
        arguments |= {name: Jsonb(value) for name, value in values.items()}
        cursor = side.execute(self._sql(query), arguments)
        return cursor.fetchall() if cursor.description else []

    def _sql(self, query: str) -> bytes:
        return rewrite(query, self.schemas).encode()


@workspace_verb
def move_workspace(
    output: Output,
    connection: Connection,
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="The owner's DATABASE_URL, or a file with it.")
    ],
    destination: Annotated[str, typer.Argument(metavar="TO", help="Likewise, of the destination.")],
    *,
    yes: Yes = False,
) -> None:
    """Move a paused workspace's jobs, schedules, events and limits to another database."""
    workspace = connection.workspace
    if not yes:
        confirm(output, lambda: f"Move {workspace}? Its jobs will be deleted in FROM.")
    with ExitStack() as stack:
        try:
            source_db, destination_db = (
                stack.enter_context(psycopg.connect(address, autocommit=True))
                for address in (_address(source), _address(destination))
            )
            move = Move(source_db, destination_db, workspace, Schemas(connection.schema))
            move.check()
        except psycopg.Error as error:
            is_lost = isinstance(error, psycopg.OperationalError)
            raise CommandFailed(
                f"the move cannot begin: {error.diag.message_primary or error}",
                code="unreachable" if is_lost else "invalid_state",
            ) from error
        try:
            for _ in move.run():
                output.hint(f"{move.rows['jobs']} jobs moved")
        except psycopg.Error as error:
            hint = "repeat the command; it continues where it stopped"
            raise CommandFailed(
                f"the round was rolled back: {error.diag.message_primary or error}",
                code="move_interrupted",
                # suggest no repetition, which would violate the same constraint
                fix=None if isinstance(error, psycopg.IntegrityError) else hint,
            ) from error
    text = "\n".join(f"{count} {table}" for table, count in sorted(move.rows.items()))
    output.value({"rows": dict(sorted(move.rows.items()))}, text=text or "nothing to move")


def _address(argument: str) -> str:
    """Return the database's address in the argument, or DATABASE_URL in the file that it names."""
    if argument.startswith(("postgres://", "postgresql://")):
        return argument
    path = Path(argument)
    address = read_env_file(path).get("DATABASE_URL") if path.is_file() else None
    if not address:
        raise CommandFailed(
            "FROM and TO must be postgresql:// addresses, or files with DATABASE_URL",
            code="bad_usage",
        )
    return address
