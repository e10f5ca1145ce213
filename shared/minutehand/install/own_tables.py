"""`minutehand init … --reads … --writes …`: what lies between a processor and the project's tables.

One template, for the owner of the tables to edit. It expects `id` and a column that leads to the
tenant, and never writes these, nor what refers to other rows; whose a row is then is asked again.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from minutehand.install.project import FileWrite, Plan, processor_files, processor_names
from minutehand.install.sources import TENANCY_ORIGIN, InstallError, installed, timestamp
from minutehand.install.tenancy import sql_name
from minutehand.project import Project

FUNCTION = """
select id, {tenant} from public.{table} limit 0; -- it has these columns
create function public.{name}(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on tables
set search_path = ''
as $$
declare
  -- the job that is leased to the caller right now; lease_lost for any other caller
  v_job {schema}.jobs := {engine}.held_job(p_request, array['{job_type}'], 'nothing was changed');
  v_id public.{table}.id%type := v_job.payload ->> '{one}_id';
begin
  perform {engine}.refuse_revoked(); -- a worker key that was revoked
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
        and not exists ( -- nor what refers to a row, which may be another tenant's
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
      raise 'the row would be another tenant''s' using errcode = '42501';
    end if;
  end;
"""
PROCESSOR = '''"""`{job_type}`: yours to edit, as the migration of what it may touch."""

from __future__ import annotations

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
    """Called once per worker, with its settings; by a test also with functions."""
    database = functions or WorkerFunctions(settings, schema="public")

    @registry.processor("{job_type}", payload={model})
    async def {function}(job: Job[{model}], ctx: JobContext) -> Fail | bool:
        """Read, work, write as `row` what changes; another tenant's row is not there."""
{calls}        return True
'''
TEST = '''"""`{job_type}`, tried without a queue and a database."""

import asyncio

from minutehand.worker.testing import HeldFunctions, ProcessorTest

from {package}.processors.{module} import {model}, register


def test_{function}_works_on_its_rows() -> None:
    database = HeldFunctions({answers})
    run = asyncio.run(ProcessorTest.of(register, {model}({given}), database).run())

    assert (run.outcome, run.result) == ("completed", True)
'''
CALL = """\
        {one} = await database.call_held("{name}", job.id, job.fence)
        if {one} is None:
            return Fail("row of {table} not found")
"""
CALL_WRITE = '        await database.call_held("{name}", job.id, job.fence, row={{}})\n'


def tenant_column(project: Project) -> str:
    """What own tables call their tenant, most likely: as the memberships do."""
    if project.tenancy == "personal":
        return "user_id"
    parts = (part for part in installed(project.root) if part.origin.startswith(TENANCY_ORIGIN))
    found = [re.search(r'm\."?(\w+)"? as workspace_id', part.text) for part in parts][:1]
    return found[0][1] if found and found[0] else "workspace_id"


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
    """Decide what is written for a job type over own tables; the note is a payload's form.

    Args:
        reads: Tables of `public`, with a comma between.
        writes: Like `reads`; what is written is read as well.
        tenant: The column of these tables that leads to the tenant; the memberships' when empty.

    Raises:
        InstallError: A name is none, or a file is there.
    """
    *made, processor, test = processor_files(source, package, job_type)
    names = processor_names(package, job_type)
    tenant = sql_name(tenant or tenant_column(project))
    sql = f"-- What the processor of `{job_type}` may read and write; yours to edit.\n"
    calls, functions = "", {}
    for table in dict.fromkeys(filter(None, (*reads.split(","), *writes.split(",")))):
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", table) or not re.fullmatch(r'"?\w+"?', tenant):
            raise InstallError(
                f"{table!r} must be a table of public", code="bad_table", fix="e.g. --writes leads"
            )
        one = re.sub(r"(ch|sh|ss|x)es$|s$", r"\1", table)
        name = functions[one] = f"{names['function']}_{one}"
        here = {**names, "table": table, "one": one, "name": name, "tenant": tenant}
        write = WRITE.format(**here) if table in writes.split(",") else ""
        sql += FUNCTION.format(
            **here, schema=project.schema_, engine=project.engine_schema, write=write
        )
        calls += CALL.format(**here) + (CALL_WRITE.format(**here) if write else "")
    stamp = timestamp(project.root, datetime.now(UTC))
    migration = project.root / "supabase/migrations" / f"{stamp}_minutehand_{names['function']}.sql"
    ids = "".join(f"    {one}_id: int | str\n" for one in functions)
    answers = ", ".join(f'{name}={{"id": 1}}' for name in functions.values())
    given = ", ".join(f"{one}_id=1" for one in functions)
    texts = {
        migration: sql,
        processor.path: PROCESSOR.format(**names, ids=ids, calls=calls),
        test.path: TEST.format(**names, answers=answers, given=given),
    }
    payload = ", ".join(f'"{one}_id": "…"' for one in functions)
    return Plan((*made, *(FileWrite(*each) for each in texts.items())), ("{" + payload + "}",))
