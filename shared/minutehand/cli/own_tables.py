"""`minutehand init <type> --reads … --writes …`: a processor over tables of the project's own.

The tables are read from a scratch server that takes the project's SQL; what is written is for its
owner to edit, and nothing here is needed to run it.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minutehand.install.project import Plan, Write, package_folder, processor_names
from minutehand.install.sources import timestamp
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed

if TYPE_CHECKING:  # of the extra `dev`
    import psycopg

COLUMNS = """
select attname::text, quote_ident(attname), format_type(atttypid, null),
  attgenerated <> '' or attidentity = 'a' or coalesce(attnum = any(indkey), false),
  coalesce(indkey::text = attnum::text, false)
from pg_catalog.pg_attribute left join pg_catalog.pg_index on indrelid = attrelid and indisprimary
where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attnum
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
#: One table's function: what is read of the row, after what is written to it.
FUNCTION = """
create function {function}(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on tables
set search_path = ''
as $$
declare
  -- the job that is leased to the caller right now; lease_lost for any other caller
  v_job {clients}.jobs := {engine}.held_job(p_request, array['{job_type}'], 'nothing was changed');
begin
{write}  return (
    select jsonb_build_object({reads})
    from {table} as t
    where {where});
end;
$$;
revoke execute on function {function} from public, anon, authenticated, service_role;
grant execute on function {function} to job_worker;
"""
WRITE = """\
  if p_request ? 'row' then
    update {table} as t set {sets}
    from jsonb_populate_record(null::{table}, p_request -> 'row') as v_row
    where {where};
    -- a trigger of yours may have changed whose the row is
    if found and not exists (select from {table} as t where {where}) then
      raise 'the row of {table} would be another tenant''s' using errcode = '42501';
    end if;
  end if;
"""
PROCESSOR = '''"""`{job_type}`: yours to edit, as the migration of what it may touch."""

from __future__ import annotations

from pydantic import BaseModel

from minutehand.config import Settings
from minutehand.queue.functions import WorkerFunctions
from minutehand.worker import Fail, Job, JobContext, Registry


class {model}(BaseModel):
{ids}

def register(registry: Registry, settings: Settings) -> None:
    """Called once per worker, with its settings."""
    database = WorkerFunctions(settings, schema="public")

    @registry.processor("{job_type}", payload={model}, timeout=120)
    async def {function}(job: Job[{model}], ctx: JobContext) -> Fail | bool:
        """Read, work, write; another tenant's row is not there."""
{calls}        return True
'''
CALL = """\
        {one} = await database.call_held("{name}", job.id, job.fence)
        if {one} is None:
            return Fail("there is no such row of {table}")
"""
CALL_WRITE = '        await database.call_held("{name}", job.id, job.fence, row={one})\n'


def plan_own_tables(
    project: Project, package: str, source: Path, job_type: str, *, reads: str, writes: str
) -> Plan:
    """Decide what is written for a job type over own tables; what is written is read as well."""
    # the extra `dev`, which has the server
    import psycopg

    from minutehand.local import migrations
    from minutehand.local.postgres import Postgres, PostgresFailed

    with tempfile.TemporaryDirectory(prefix="minutehand-tables-") as state:
        server = Postgres(Path(state), scratch=True)
        try:
            server.start()
            migrations.prepare_hosted(server.url())
            files = migrations.migrations_in(project.root / "supabase" / "migrations")
            migrations.apply_migrations(migrations.as_user(server.url(), "postgres"), files)
            with psycopg.connect(server.url(), autocommit=True) as connection:
                tables = {"reads": reads, "writes": writes}
                return planned(connection, project, package, source, job_type, **tables)
        except (migrations.MigrationFailed, PostgresFailed) as failed:
            raise CommandFailed(str(failed), code="not_applied") from failed
        finally:
            server.destroy()


def planned(
    connection: psycopg.Connection[Any], project: Project, package: str, source: Path,
    job_type: str, *, reads: str, writes: str,
) -> Plan:  # fmt: skip
    """As `plan_own_tables`, from a database that has the tables; its note is a payload's form."""
    connection.execute("set search_path = ''")
    names = processor_names(package, job_type)
    wanted, changed = _named(reads), _named(writes)
    sql = f"-- What the processor of `{job_type}` may read and write; yours to edit.\n"
    ids, calls, payload = "", "", []
    for table in {**wanted, **changed}:
        columns = {row[0]: row for row in connection.execute(COLUMNS, (table,))}
        key = next((row for row in columns.values() if row[4]), None)
        owner = _owner(connection, project, table) if key else None
        if key is None or owner is None:
            raise CommandFailed(
                f"{table} must be a table with a primary key of one column, and a foreign key to"
                " the tenants' table or a column workspace_id uuid",
                code="bad_table",
            )
        named = {**wanted.get(table, {}), **changed.get(table, {})}
        if unknown := set(named) - set(columns):
            raise CommandFailed(f"{table} has no column {unknown.pop()}", code="no_column")
        read = columns if wanted.get(table) == {} or not named else named
        # neither what Postgres makes nor what says whose a row is
        written = [
            columns[column][1]
            for column in (changed[table] or columns if table in changed else ())
            if not columns[column][3] and columns[column][1] != owner[1]
        ]
        one = table.rpartition(".")[2].lower().removesuffix("s")
        name = f"{names['function']}_{one}"
        where = f"t.{key[1]} = (v_job.payload ->> '{one}_id')::{key[2]}\n      and {owner[0]}"
        sets = ", ".join(f"{column} = v_row.{column}" for column in written)
        sql += FUNCTION.format(
            function=f"public.{name}", clients=project.schema_, engine=project.engine_schema,
            job_type=job_type, table=table, where=where,
            reads=", ".join(f"'{column}', t.{columns[column][1]}" for column in read),
            write=WRITE.format(table=table, sets=sets, where=where) if sets else "",
        )  # fmt: skip
        ids += f"    {one}_id: {'int' if key[2] in ('bigint', 'integer') else 'str'}\n"
        calls += CALL.format(one=one, name=name, table=table)
        calls += CALL_WRITE.format(one=one, name=name) if sets else ""
        payload.append(f'"{one}_id": …')
    sql += f"select {project.schema_}.attach_extensions(); -- refuses a revoked worker's key\n"
    stamp = timestamp(project.root, datetime.now(UTC))
    migration = project.root / "supabase/migrations" / f"{stamp}_{names['function']}_functions.sql"
    processor = package_folder(source, package) / "processors" / f"{names['module']}.py"
    text = PROCESSOR.format(**names, ids=ids, calls=calls)
    return Plan((Write(migration, sql), Write(processor, text)), ("{" + ", ".join(payload) + "}",))


def _named(listed: str) -> dict[str, dict[str, None]]:
    """`accounts.domain,companies` → the columns of each table of `public`, none for all."""
    found: dict[str, dict[str, None]] = {}
    for one in filter(None, (part.strip() for part in listed.split(","))):
        table, _, column = one.partition(".")
        found.setdefault(f"public.{table}", {}).update({column: None} if column else {})
    return found


def _owner(
    connection: psycopg.Connection[Any], project: Project, table: str
) -> tuple[str, str] | None:
    """The shortest way from a row to the job's tenant, as a condition, and its first column."""
    tenants = connection.execute(TENANTS).fetchone()
    if tenants is None or project.tenancy == "workspaces":
        tenants = (f"{project.schema_}.workspaces", "id")
    ways = [(table, "t", "{}", "")]
    for _ in range(4):
        further: list[tuple[str, str, str, str]] = []
        for here, name, around, first in ways:
            columns = [(row[1], row[2]) for row in connection.execute(COLUMNS, (here,))]
            links = connection.execute(REFERENCES, (here,)).fetchall()
            if ("workspace_id", "uuid") in columns:
                links.insert(0, ("workspace_id", *tenants))
            for column, target, refers in links:
                link = first or column
                if (target, refers) == tenants:
                    return around.format(f"{name}.{column} = v_job.workspace_id"), link
                inner = f"{name}{len(further) + 1}"
                step = f"{name}.{column} in (select {inner}.{refers} from {target} as {inner}"
                further.append((target, inner, around.format(f"{step} where {{}})"), link))
        ways = further
    return None
