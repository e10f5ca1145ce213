"""`minutehand init … --reads … --writes …` creates SQL functions for a project's own tables.

The created processor calls these SQL functions. A template produces the functions, which the owner
of the tables may edit. Each table must have a column `id` and a column with the tenant's id. The
functions never write these two columns or foreign keys. After a write, the functions check that the
row still belongs to the tenant.
"""

import re
from pathlib import Path

from minutehand.install.errors import InstallError
from minutehand.install.project import FileWrite, Plan, processor_files, processor_names
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import TENANCY_ORIGIN, installed, timestamp
from minutehand.install.tenancy import sql_name
from minutehand.project import Project

FUNCTION = """
select id, {tenant} from public.{table} limit 0; -- fails if the table lacks these columns
create function public.{name}(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on tables
set search_path = ''
as $$
declare
  -- the job that the caller has leased at present; lease_lost for any other caller
  v_job {schema}.jobs := {engine}.held_job(p_request, array['{job_type}'], 'nothing was changed');
  v_id public.{table}.id%type := v_job.payload ->> '{one}_id';
begin
  perform {engine}.refuse_revoked(); -- rejects a revoked worker key
{write}  return (
    select to_jsonb(t) from public.{table} as t
    where t.id = v_id and t.{tenant} = v_job.workspace_id);
end;
$$;
select {engine}.allow('job_worker', 'public.{name}');
"""
WRITE = """\
  declare
    v_set text := (select string_agg(format('%1$I = r.%1$I', c), ', ')
      from jsonb_object_keys(p_request -> 'row') as c where c not in ('id', '{tenant}')
        and not exists ( -- nor foreign keys, which may refer to another tenant's row
          select from pg_catalog.pg_constraint as k join pg_catalog.pg_attribute as a
            on a.attrelid = k.conrelid and a.attnum = any (k.conkey)
          where k.contype = 'f' and k.conrelid = 'public.{table}'::regclass and a.attname = c));
    v_count integer := 0;
  begin
    if v_set is not null then
      execute 'update public.{table} as t set ' || v_set
        || ' from jsonb_populate_record(null::public.{table}, $1) as r'
        || ' where t.id = $2 and t.{tenant} = $3'
        using p_request -> 'row', v_id, v_job.workspace_id;
      get diagnostics v_count = row_count;
    end if;
    if v_count > 0 and exists (select from public.{table} as t
      where t.id = v_id and t.{tenant} <> v_job.workspace_id) then
      raise 'the row must stay the tenant''s own' using errcode = '42501';
    end if;
  end;
"""
PROCESSOR = '''"""`{job_type}`. Edit it, and the migration with the functions that it calls."""

from minutehand.config import Settings
from minutehand.queue.functions import WorkerFunctions
from minutehand.worker import Fail, Job, JobContext, Registry
from pydantic import BaseModel


class {model}(BaseModel):
    """The rows to work on, by their ids."""

{ids}

def register(
    registry: Registry, settings: Settings, functions: WorkerFunctions | None = None
) -> None:
    """Register the processor. Each worker calls this once, and tests pass their own functions."""
    database = functions or WorkerFunctions(settings, schema="public")

    @registry.processor("{job_type}", payload={model})
    async def {function}(job: Job[{model}], ctx: JobContext) -> Fail | bool:
        """Read the row, do the work, and write changes as `row`; other tenants' rows are hidden."""
{calls}        return True
'''
TEST = '''"""Test of `{job_type}`, without a queue and a database."""

import asyncio

from minutehand.worker.testing import HeldFunctions, ProcessorTest

from {package}.processors.{module} import {model}, register


def test_{function}_works_on_its_rows() -> None:
    database = HeldFunctions({results})
    run = asyncio.run(ProcessorTest.of(register, {model}({arguments}), database).run())

    assert (run.outcome, run.result) == ("completed", True)
'''
CALL = """\
        {one} = await database.call_held("{name}", job.id, job.fence)
        if {one} is None:
            return Fail("row of {table} not found")
"""
CALL_WRITE = '        await database.call_held("{name}", job.id, job.fence, row={{}})\n'


def tenant_column(project: Project) -> str:
    """Guess the name of the tenant's column in the project's tables from the memberships table."""
    if project.tenancy == "personal":
        return "user_id"
    parts = (part for part in installed(project.root) if part.origin.startswith(TENANCY_ORIGIN))
    text = next((part.text for part in parts), "")
    match = re.search(r'm\."?(\w+)"? as workspace_id', text)
    return match[1] if match else "workspace_id"


def own_tables(
    project: Project,
    source: Path,
    package: str,
    job_type: str,
    *,
    reads: str,
    writes: str,
    tenant: str = "",
) -> Plan:
    """Plan the files of a job type that uses a project's own tables.

    Args:
        reads: Names of tables in the schema `public` that the processor reads, separated by commas.
        writes: Names of tables that the processor reads and writes, in the form of `reads`.
        tenant: Column with the tenant's id in these tables. By default, the column has the same
            name as in the memberships table.

    Raises:
        InstallError: The name of a table or column is invalid, or a file already exists.
    """
    *new_files, processor, test = processor_files(source, package, job_type)
    names = processor_names(package, job_type)
    tenant = sql_name(tenant or tenant_column(project))
    sql = f"-- Functions by which `{job_type}` reads and writes your tables. Edit them as needed.\n"
    call_lines, functions = "", {}
    for table in dict.fromkeys(filter(None, (*reads.split(","), *writes.split(",")))):
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", table) or not re.fullmatch(r'"?\w+"?', tenant):
            raise InstallError(
                f"{table!r} must be a table of public", code="bad_table", fix="e.g. --writes leads"
            )
        singular = re.sub(r"(ch|sh|ss|x)es$|s$", r"\1", table)
        name = functions[singular] = f"{names['function']}_{singular}"
        values = {**names, "table": table, "one": singular, "name": name, "tenant": tenant}
        write = WRITE.format(**values) if table in writes.split(",") else ""
        sql += FUNCTION.format(
            **values, schema=project.schema_, engine=Schemas(project.schema_).engine, write=write
        )
        call_lines += CALL.format(**values) + (CALL_WRITE.format(**values) if write else "")
    stamp = timestamp(project.root)
    migration = project.root / "supabase/migrations" / f"{stamp}_minutehand_{names['function']}.sql"
    ids = "".join(f"    {singular}_id: int | str\n" for singular in functions)
    results = ", ".join(f'{name}={{"id": 1}}' for name in functions.values())
    arguments = ", ".join(f"{singular}_id=1" for singular in functions)
    contents = {
        migration: sql,
        processor.path: PROCESSOR.format(**names, ids=ids, calls=call_lines),
        test.path: TEST.format(**names, results=results, arguments=arguments),
    }
    payload = ", ".join(f'"{singular}_id": "…"' for singular in functions)
    files = (FileWrite(path, text) for path, text in contents.items())
    return Plan((*new_files, *files), ("{" + payload + "}",))
