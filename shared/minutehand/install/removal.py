"""The SQL that takes an installed engine out of a database, and nothing else with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from minutehand.install.rewrite import CLIENTS, Schemas
from minutehand.install.sources import FILE_NAME, installed, not_installed
from minutehand.project import Project

_SQL = """\
-- Removes Minutehand and every job with it. Written by `minutehand uninstall`. Stop the worker,
-- then run this once, in the dashboard's SQL editor or with psql, and delete the files listed at
-- its end.
begin;
set local client_min_messages = warning; -- nothing for each object that goes with its schema

-- a schema without Minutehand's mark is someone else's; what of yours uses Minutehand would be
-- dropped with it, or fail from now on
do $$
declare
  c_ours constant text := '{pattern}';
  v_theirs text;
begin
  set local search_path = '';
  if coalesce(obj_description(to_regnamespace('{engine}'), 'pg_namespace'), '')
      !~ '^Minutehand:' then
    raise exception 'Minutehand is not installed in the schema {engine}'
      using hint = 'Nothing was removed. Run this in the database that has it.';
  end if;
  with elsewhere as (
    select n.oid, n.nspname from pg_catalog.pg_namespace as n
    where n.nspname <> '{engine}' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  ),
  theirs as (
    select c.oid, c.relkind from pg_catalog.pg_class as c
    join elsewhere as n on n.oid = c.relnamespace
    where not (n.nspname = '{clients}' and c.relname in ({relations}))
  )
  select string_agg(found.what, ', ' order by found.what) into v_theirs from (
    select 'function ' || p.oid::regprocedure as what
    from pg_catalog.pg_proc as p join elsewhere as n on n.oid = p.pronamespace
    where p.prokind in ('f', 'p') and not (n.nspname = '{clients}' and p.proname in ({functions}))
      and p.prolang in (select oid from pg_catalog.pg_language where lanname in ('sql', 'plpgsql'))
      and pg_get_functiondef(p.oid) ~ c_ours
    union all select 'view ' || c.oid::regclass
    from theirs as c where c.relkind in ('v', 'm') and pg_get_viewdef(c.oid) ~ c_ours
    union all select format('trigger %I on %s', t.tgname, c.oid::regclass)
    from pg_catalog.pg_trigger as t join theirs as c on c.oid = t.tgrelid
    where not t.tgisinternal and not starts_with(t.tgname::text, 'minutehand_')
      and pg_get_triggerdef(t.oid) ~ c_ours
    union all select format('policy %I on %s', p.polname, c.oid::regclass)
    from pg_catalog.pg_policy as p join theirs as c on c.oid = p.polrelid
    where not starts_with(p.polname::text, 'minutehand:') and concat(
      pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid)) ~ c_ours
    union all select format('constraint %I on %s', k.conname, c.oid::regclass)
    from pg_catalog.pg_constraint as k join theirs as c on c.oid = k.conrelid
    where pg_get_constraintdef(k.oid) ~ c_ours
    union all select 'table ' || c.oid::regclass
    from pg_catalog.pg_class as c
    where c.relnamespace = to_regnamespace('{engine}') and c.relkind in ('r', 'p')
      and c.relname not in ({tables})
  ) as found;
  if v_theirs is not null then
    raise exception 'these of yours use Minutehand: %', v_theirs
      using hint = 'Change or drop them, then run this again. Nothing was removed.';
  end if;
end;
$$;

do $$
declare
  v_job bigint;
begin
  if to_regprocedure('cron.unschedule(bigint)') is not null then
    -- by number: by name only the role that made a schedule finds it
    for v_job in execute 'select jobid from cron.job where jobname like ''minutehand-%''' loop
      execute 'select cron.unschedule($1)' using v_job;
    end loop;
  end if;
end;
$$;

-- policies on realtime.messages, triggers on tables of yours and published tables are dropped too
{drops}
do $$
begin
  -- a schema of yours, or one in which you have made something, stays
  if obj_description(to_regnamespace('{clients}'), 'pg_namespace') ~ '^Minutehand:' then
    drop schema {clients};
  end if;
exception when dependent_objects_still_exist then
  raise warning 'the schema {clients} holds something of yours and stays';
end;
$$;

do $$
begin
  if to_regclass('vault.secrets') is not null then
    execute 'delete from vault.secrets where name = ''minutehand_worker_token''';
  end if;
  -- where the Supabase CLI applied them
  if to_regclass('supabase_migrations.schema_migrations') is not null then
    delete from supabase_migrations.schema_migrations where version in (
  {versions});
  end if;
end;
$$;

do $$
declare
  v_granted text;
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'job_worker') then
    return;
  end if;
  -- functions of yours that the worker might call stay, for yourself
  for v_granted in
    select 'function ' || p.oid::regprocedure
      from pg_catalog.pg_proc as p, aclexplode(p.proacl) as a
      where a.grantee = 'job_worker'::regrole and pg_has_role(p.proowner, 'usage')
    union select 'schema ' || n.oid::regnamespace
      from pg_catalog.pg_namespace as n, aclexplode(n.nspacl) as a
      where a.grantee = 'job_worker'::regrole and pg_has_role(n.nspowner, 'usage')
  loop
    execute 'revoke all on ' || v_granted || ' from job_worker';
  end loop;
  begin
    drop role job_worker;
  exception when dependent_objects_still_exist then
    raise warning 'the role job_worker is used elsewhere and stays';
  end;
end;
$$;

commit;

{files}
"""
#: In the order in which they go; triggers, policies and indexes go with their table.
_KINDS = ("view", "table", "function")


def removal_sql(folder: Path) -> str:
    """Write the SQL for the project in `folder`.

    Raises:
        InstallError: Nothing is installed there.
    """
    files = installed(folder)
    if not files:
        raise not_installed(folder, fix="name the project's folder")
    project = Project.at(folder)
    schemas = Schemas(project.schema_)
    paths = sorted({file.path for file in files})
    texts = "\n".join(path.read_text("utf-8") for path in paths)
    found = _objects(texts, schemas.clients)
    names = {kind: sorted(name for one, name in found if one == kind) for kind in _KINDS}
    relations = [*names["view"], *names["table"]]
    tables = [name for kind, name in _objects(texts, schemas.engine) if kind == "table"]
    lines = [_drop(kind, f"{schemas.clients}.{name}") for kind, name in found]
    lines.append(_drop("schema", schemas.engine))
    versions = [match["version"] for path in paths if (match := FILE_NAME.match(path.name))]
    return _SQL.format(
        pattern=_calls(schemas, relations, names["function"]),
        engine=schemas.engine,
        clients=schemas.clients,
        tables=_quoted(tables),
        functions=_quoted(names["function"]),
        relations=_quoted(relations),
        drops="".join(f"{line}\n" for line in lines),
        versions=",\n  ".join(f"'{version}'" for version in versions),
        files="\n".join(f"-- supabase/migrations/{path.name}" for path in paths),
    )


def _calls(schemas: Schemas, relations: list[str], functions: list[str]) -> str:
    """The pattern of SQL that names something of ours."""
    either = "|".join(functions)
    named = rf"\m{schemas.engine}\.|\m{schemas.clients}\.({'|'.join(relations)}|{either})\M"
    # in public they need not be named with their schema
    return rf"{named}|\m({either})\s*\(" if schemas.clients == CLIENTS else named


def _objects(texts: str, schema: str) -> list[tuple[str, str]]:
    # each by its name, for others may use the schema too; functions have no overloads
    pattern = rf"^create (?:or replace |unlogged )?({'|'.join(_KINDS)}) {schema}\.(\w+)"
    # the last counts: where the tenants are yours, a view takes the place of a table
    kinds = {name: kind for kind, name in re.findall(pattern, texts, re.MULTILINE)}
    found = [(kind, name) for name, kind in kinds.items()]
    return sorted(found, key=lambda each: (_KINDS.index(each[0]), each[1]))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "''"


def _drop(kind: str, name: str) -> str:
    return f"drop {kind} if exists {name} cascade;"
