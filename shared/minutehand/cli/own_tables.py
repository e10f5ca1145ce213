"""`minutehand init <type> --reads … --writes …`: a processor over tables of the project's own.

The tables are read from a scratch server that takes the project's SQL; what is written is for its
owner to edit, and nothing here is needed to run it.
"""

from __future__ import annotations

import keyword
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minutehand.cli.install_check import declare, scratch_server
from minutehand.install.project import EXPOSED, Plan, Write, package_folder, processor_names
from minutehand.install.sources import timestamp
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed

if TYPE_CHECKING:  # of the extra `dev`
    import psycopg

#: How far a table may be from the tenants' by its foreign keys.
MOST_STEPS = 4
#: A type of Postgres → its type in Python, the import it needs, and a value for the test.
TYPES = {
    "bigint": ("int", "", "1"), "integer": ("int", "", "1"), "smallint": ("int", "", "1"),
    "boolean": ("bool", "", "True"), "text": ("str", "", '"Ada"'),
    "character varying": ("str", "", '"Ada"'), "real": ("float", "", "1.5"),
    "double precision": ("float", "", "1.5"),
    "numeric": ("Decimal", "from decimal import Decimal", '"1.5"'),
    "uuid": ("UUID", "from uuid import UUID", '"11111111-1111-4111-8111-111111111111"'),
    "date": ("date", "from datetime import date", '"2026-01-31"'),
    "timestamp with time zone": (
        "datetime", "from datetime import datetime", '"2026-01-31T12:00:00Z"'
    ),
}  # fmt: skip
ANY = ("Any", "from typing import Any", "None")
#: What the processor's module calls something else by.
TAKEN = {"ctx", "database", "fail", "job", "registry", "row", "settings"}

COLUMNS = """
select attname::text, format_type(atttypid, null), not attnotnull,
  attgenerated <> '' or attidentity = 'a', quote_ident(attname)
from pg_catalog.pg_attribute
where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attnum
"""
KEY = """
select array_agg(a.attname::text) from pg_catalog.pg_index as i
join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
where i.indisprimary and i.indrelid = to_regclass(%s)
"""
REFERENCES = """
select quote_ident(a.attname), confrelid::regclass::text, quote_ident(b.attname)
from pg_catalog.pg_constraint
join pg_catalog.pg_attribute as a on a.attrelid = conrelid and a.attnum = conkey[1]
join pg_catalog.pg_attribute as b on b.attrelid = confrelid and b.attnum = confkey[1]
where contype = 'f' and cardinality(conkey) = 1 and conrelid = to_regclass(%s) order by a.attnum
"""
TENANTS = """
select tgrelid::regclass::text, quote_ident(replace(encode(tgargs, 'escape'), '\\000', ''))
from pg_catalog.pg_trigger where tgname = 'minutehand_before_delete'
"""

FUNCTIONS = """\
-- What the processor of `{job_type}` may read and write, and nothing else; yours to edit.
{functions}
grant usage on schema {schema} to job_worker;
revoke execute on function {names}
  from public, anon, authenticated, service_role;
grant execute on function {names} to job_worker;
select {clients}.attach_extensions(); -- else `db diff` finds what the next worker changes
"""
HEAD = """
create function {schema}.{name}(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on tables
set search_path = ''
as $$
declare
  -- the job that is leased to the caller right now; lease_lost for any other caller
  v_job {clients}.jobs := {engine}.held_job(p_request, array['{job_type}'], 'nothing was {done}');
"""
READ = """\
begin
  return (
    select jsonb_build_object({pairs})
    from {table} as t
    where {where});
end;
$$;
"""
WRITE = """\
  v_row {table} := jsonb_populate_record(null::{table}, p_request -> 'row');
begin
  update {table} as t set {pairs}
  where {where};
  return jsonb_build_object('changed', found);
end;
$$;
"""

PROCESSOR = '''"""`{job_type}`: what it may read and write is in the migration beside it."""

from __future__ import annotations

{imports}from pydantic import BaseModel, ConfigDict

from minutehand.config import Settings
from minutehand.queue.functions import WorkerFunctions
from minutehand.worker import Fail, Job, JobContext, Registry


class {model}(BaseModel):
    """The payload of `{job_type}`; the queue refuses what does not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

{ids}
{classes}
def register(registry: Registry, settings: Settings) -> None:
    """Called once per worker, with its settings."""
    serve(registry, WorkerFunctions(settings, schema="{schema}"))


def serve(registry: Registry, database: WorkerFunctions) -> None:
    """Apart from `register`, so that the test brings rows of its own."""

    @registry.processor("{job_type}", payload={model}, timeout=120)
    async def {function}(job: Job[{model}], ctx: JobContext) -> Fail | bool:
        """Read, work, write; another tenant's row is not there."""
{reads}{writes}        ctx.progress(100, "done")
        return True
{works}'''
READ_ONE = """        {name} = await database.call_held("{function}", job.id, job.fence)
        if {name} is None:
            return Fail("there is no such row of {table}")
"""
WRITE_ONE = """        row = {work}({model}.model_validate({name})).model_dump(mode="json")
        await database.call_held("{function}", job.id, job.fence, row=row)
"""
WORK = '''

def {work}({name}: {model}) -> {model}Change:
    """The work itself, yours to write: what is to be in `{table}`."""
    return {model}Change.model_validate({name}.model_dump())
'''
TEST = '''"""`{job_type}`, tried without a queue."""

from __future__ import annotations

import asyncio
from typing import Any

from {package}.processors.{module} import {model}, serve
from minutehand.worker import Registry
from minutehand.worker.testing import ProcessorTest

FOUND = {{{found}}}


class Rows:
    """Stands for the SQL functions."""

    def __init__(self) -> None:
        self.written: dict[str, Any] = {{}}

    async def call_held(self, function: str, job_id: str, fence: int, **sent: Any) -> Any:
        """Give what is found, keep what is written."""
        self.written |= {{}} if function in FOUND else {{function: sent["row"]}}
        return FOUND.get(function)


def test_{function}_reads_and_writes() -> None:
    """Every function that the migration grants is called."""
    rows: Any = Rows()
    registry = Registry()
    serve(registry, rows)
    payload = {model}.model_validate(
        {{{ids}}}
    )

    run = asyncio.run(ProcessorTest(registry.get("{job_type}").run, payload).run())

    assert run.outcome == "completed", run.error
    assert set(rows.written) == {{{written}}}
'''


@dataclass(frozen=True)
class Column:
    """A column as the catalogue has it; `quoted` is for SQL."""

    name: str
    sql_type: str
    nullable: bool
    generated: bool
    quoted: str

    @property
    def python(self) -> tuple[str, str, str]:
        """Its type in Python, the import and a value."""
        found, needs, value = TYPES.get(self.sql_type, ANY)
        return (f"{found} | None" if self.nullable and found != "Any" else found), needs, value


@dataclass(frozen=True)
class Table:
    """One table that a job reads, and perhaps writes; `owner` is the condition on its tenant."""

    name: str
    key: Column
    reads: tuple[Column, ...]
    writes: tuple[Column, ...]
    owner: str

    @property
    def bare(self) -> str:
        """The name alone."""
        return self.name.rpartition(".")[2].replace('"', "")

    @property
    def one(self) -> str:
        """What one row is called: `accounts` holds an `account`, `OrderItem` an `order_item`."""
        word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.sub(r"\W", "", self.bare)).lower()
        for plural, singular in (("ies", "y"), ("sses", "ss"), ("s", "")):
            if word.endswith(plural) and len(word) > 3 and not word.endswith("ss"):
                word = word.removesuffix(plural) + singular
                break
        return f"{word}_row" if word in TAKEN or keyword.iskeyword(word) else word

    @property
    def model(self) -> str:
        """The class of what is read."""
        return "".join(part.capitalize() for part in self.one.split("_"))

    @property
    def where(self) -> str:
        """The job's row, and no other tenant's."""
        asked = f"(v_job.payload ->> '{self.one}_id')::{self.key.sql_type}"
        return f"t.{self.key.quoted} = {asked}\n      and {self.owner}"


def plan_own_tables(
    project: Project, package: str, source: Path, job_type: str, *, reads: str, writes: str
) -> Plan:
    """Decide what is written for a job type over own tables.

    Args:
        reads: `accounts` or `accounts.domain,companies`: columns, or every column.
        writes: The same; what is written is read as well.

    Raises:
        CommandFailed: A table or column is not there, or no foreign key leads to a tenant.
        InstallError: A file of it is there.
    """
    # the extra `dev`, which has the server
    import psycopg

    from minutehand.local import migrations
    from minutehand.local.postgres import PostgresFailed

    try:
        with scratch_server() as url:
            owner = migrations.as_user(url, "postgres")
            files = migrations.migrations_in(project.root / "supabase" / "migrations")
            migrations.apply_migrations(owner, files)
            declare(owner, project.root)
            with psycopg.connect(url, autocommit=True) as connection:
                return planned(
                    connection, project, package, source, job_type, reads=reads, writes=writes
                )
    except (migrations.MigrationFailed, PostgresFailed) as failed:
        raise CommandFailed(str(failed), code="not_applied") from failed


def planned(
    connection: psycopg.Connection[Any], project: Project, package: str, source: Path,
    job_type: str, *, reads: str, writes: str,
) -> Plan:  # fmt: skip
    """As `plan_own_tables`, from a database that has the tables; its note is a payload's form."""
    connection.execute("set search_path = ''")
    tables = list(_tables(connection, project, reads, writes))
    names = processor_names(package, job_type)
    schema, home = _schema(project, tables[0].name), package_folder(source, package)
    stamp = timestamp(project.root, datetime.now(UTC))
    migration = project.root / "supabase/migrations" / f"{stamp}_{names['function']}_functions.sql"
    return Plan(
        (
            Write(migration, _functions(project, names, schema, tables)),
            Write(home / "processors" / f"{names['module']}.py", _processor(names, schema, tables)),
            Write(home / "tests" / f"test_{names['module']}.py", _test(names, tables)),
        ),
        ("{" + ", ".join(f'"{table.one}_id": …' for table in tables) + "}",),
    )


def _tables(
    connection: psycopg.Connection[Any], project: Project, reads: str, writes: str
) -> Iterator[Table]:
    wanted, changed = _named(reads), _named(writes)
    for name in {**wanted, **changed}:
        full = _full(connection, name if "." in name else f"public.{name}")
        columns = {row[0]: Column(*row) for row in connection.execute(COLUMNS, (full,))}
        row = connection.execute(KEY, (full,)).fetchone()
        key = list(row[0] or ()) if row else []
        if len(key) != 1:
            raise CommandFailed(f"{full} must have a primary key of one column", code="no_key")
        owner = _owner(connection, project, full, "t", _tenants(connection, project))
        if owner is None:
            raise CommandFailed(
                f"no foreign key leads from {full} to the tenants, so no one could say whose"
                " a row is",
                code="no_tenant",
                fix="give it a column that references the tenants' table, or its tenant as"
                " `workspace_id uuid`",
            )
        both = [] if wanted.get(name) == [] else [*wanted.get(name, ()), *changed.get(name, ())]
        listed = _columns(full, columns, both)
        written = _columns(full, columns, changed.get(name, [])) if name in changed else ()
        yield Table(
            full,
            columns[key[0]],
            listed,
            tuple(one for one in written if one.name != key[0] and not one.generated),
            owner,
        )


def _full(connection: psycopg.Connection[Any], name: str) -> str:
    """The table as SQL reads the name, else of exactly these letters."""
    exact = ".".join('"{}"'.format(part.strip('"')) for part in name.split("."))
    asked = "select coalesce(to_regclass(%s), to_regclass(%s))::text"
    row = connection.execute(asked, (name, exact)).fetchone()
    if row is None or row[0] is None:
        raise CommandFailed(
            f"there is no table {name} in this project's migrations",
            code="no_table",
            fix="--reads accounts, or --reads accounts.domain,accounts.name",
        )
    return str(row[0])


def _columns(table: str, columns: dict[str, Column], names: list[str]) -> tuple[Column, ...]:
    for name in names or columns:
        if name not in columns:
            raise CommandFailed(f"{table} has no column {name}", code="no_column")
        if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or keyword.iskeyword(name):
            raise CommandFailed(
                f"{table}.{name} is not a name in Python",
                code="bad_column",
                fix=f"name the columns to read: --reads {table}.…,{table}.…",
            )
    return tuple(columns[name] for name in dict.fromkeys(names or columns))


def _named(listed: str) -> dict[str, list[str]]:
    """`accounts.domain,app.teams.name,companies` → the columns of each table, none for all."""
    found: dict[str, list[str]] = {}
    for one in filter(None, (part.strip() for part in listed.split(","))):
        *table, column = one.split(".")
        name = ".".join(table) or column
        found.setdefault(name, [])
        if table:
            found[name].append(column)
    return found


def _tenants(connection: psycopg.Connection[Any], project: Project) -> tuple[str, str]:
    if project.tenancy == "workspaces":
        return f"{project.schema_}.workspaces", "id"
    row = connection.execute(TENANTS).fetchone()
    if row is None:
        raise CommandFailed("Minutehand is not installed here", code="not_installed",
                            fix="minutehand install")  # fmt: skip
    return row[0], row[1]


def _owner(
    connection: psycopg.Connection[Any],
    project: Project,
    table: str,
    alias: str,
    tenants: tuple[str, str],
) -> str | None:
    """The shortest way from a row to the job's tenant, as a condition."""
    mine = "v_job.workspace_id"
    ways = [(table, alias, "{}")]
    for _ in range(MOST_STEPS):
        further: list[tuple[str, str, str]] = []
        for here, name, around in ways:
            columns = [row[:2] for row in connection.execute(COLUMNS, (here,))]
            if here == tenants[0]:
                return around.format(f"{name}.{tenants[1]} = {mine}")
            if ("workspace_id", "uuid") in columns:
                return around.format(f"{name}.workspace_id = {mine}")
            for column, target, refers in connection.execute(REFERENCES, (here,)).fetchall():
                if (target, refers) == tenants:
                    return around.format(f"{name}.{column} = {mine}")
                inner = f"{name}{len(further) + 1}"
                step = f"{name}.{column} in (select {inner}.{refers}"
                step += f" from {target} as {inner} where {{}})"
                further.append((target, inner, around.format(step)))
        ways = further
    return None


def _schema(project: Project, table: str) -> str:
    """Where the functions go: beside the table, if the Data API exposes that."""
    config = project.root / "supabase" / "config.toml"
    text = config.read_text("utf-8") if config.is_file() else ""
    exposed = tomllib.loads(text).get("api", {}).get("schemas", EXPOSED)
    own = table.partition(".")[0]
    return own if own in exposed else "public"


def _function(names: dict[str, str], tables: list[Table], table: Table, done: str) -> str:
    return f"{names['function']}_{done}" + (f"_{table.one}" if table != tables[0] else "")


def _functions(project: Project, names: dict[str, str], schema: str, tables: list[Table]) -> str:
    made, called = [], []
    for table in tables:
        kinds = [("read", READ, [f"'{c.name}', t.{c.quoted}" for c in table.reads])]
        if table.writes:
            sets = [f"{c.quoted} = v_row.{c.quoted}" for c in table.writes]
            kinds.append(("write", WRITE, sets))
        for done, body, pairs in kinds:
            name = _function(names, tables, table, done)
            head = HEAD.format(
                schema=schema, name=name, clients=project.schema_, engine=project.engine_schema,
                job_type=names["job_type"], done={"read": "read", "write": "changed"}[done],
            )  # fmt: skip
            joined = ",\n      ".join(pairs)
            made.append(head + body.format(table=table.name, pairs=joined, where=table.where))
            called.append(f"{schema}.{name}")
    return FUNCTIONS.format(
        job_type=names["job_type"], schema=schema, functions="".join(made),
        names=", ".join(called), clients=project.schema_,
    )  # fmt: skip


def _class(name: str, said: str, columns: Iterable[Column]) -> str:
    fields = "".join(f"    {column.name}: {column.python[0]}\n" for column in columns)
    return f'\nclass {name}(BaseModel):\n    """{said}"""\n\n{fields}\n'


def _processor(names: dict[str, str], schema: str, tables: list[Table]) -> str:
    needed = {c.python[1] for table in tables for c in (*table.reads, table.key)} - {""}
    classes, reads, writes, works = "", "", "", ""
    for table in tables:
        work = f"changed_{table.one}"
        classes += _class(table.model, f"What is read of `{table.bare}`.", table.reads)
        reads += READ_ONE.format(
            name=table.one, function=_function(names, tables, table, "read"), table=table.bare
        )
        if table.writes:
            said = f"What is written to `{table.bare}`."
            classes += _class(f"{table.model}Change", said, table.writes)
            writes += WRITE_ONE.format(
                work=work, model=table.model, name=table.one,
                function=_function(names, tables, table, "write"),
            )  # fmt: skip
            works += WORK.format(work=work, name=table.one, model=table.model, table=table.bare)
    return PROCESSOR.format(
        **names,
        schema=schema,
        imports="".join(f"{line}\n" for line in sorted(needed)) + ("\n" if needed else ""),
        ids="".join(f"    {table.one}_id: {table.key.python[0]}\n" for table in tables),
        classes=classes,
        reads=reads,
        writes=writes,
        works=works,
    )


def _test(names: dict[str, str], tables: list[Table]) -> str:
    found = "".join(
        f'    "{_function(names, tables, table, "read")}": {{\n'
        + "".join(f'        "{c.name}": {c.python[2]},\n' for c in table.reads)
        + "    },\n"
        for table in tables
    )
    written = [_function(names, tables, table, "write") for table in tables if table.writes]
    return TEST.format(
        **names,
        found=f"\n{found}",
        ids=", ".join(f'"{table.one}_id": {table.key.python[2]}' for table in tables),
        written=", ".join(f'"{name}"' for name in written) or "",
    ).replace("== {}\n", "== set()\n")
