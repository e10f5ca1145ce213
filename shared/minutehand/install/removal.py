"""The SQL that removes an installed engine from a database, and nothing that the project owns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from minutehand.install.rewrite import CLIENTS, Schemas, rewrite
from minutehand.install.sources import FILE_NAME, installed, not_installed
from minutehand.project import Project

_SQL = """\
-- Removes Minutehand and all jobs. Written by `minutehand uninstall`. Stop the worker, then run
-- this once, in the dashboard's SQL editor or with psql, and delete the files listed at its end.
begin;
set local client_min_messages = warning; -- no notice for each object that is dropped in cascade

-- stop if the schema lacks Minutehand's mark, because then it is someone else's, or if your own
-- objects use Minutehand, because they would be dropped or fail from now on
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
    raise exception 'objects of yours use Minutehand: %', v_theirs
      using hint = 'Change or drop them, then run this again. Nothing was removed.';
  end if;
end;
$$;

{lock}
do $$
declare
  v_job bigint;
begin
  if to_regprocedure('cron.unschedule(bigint)') is not null then
    -- by number, because by name only the role that created a schedule can find it
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
  -- keep the schema if it is yours or contains objects of yours
  if obj_description(to_regnamespace('{clients}'), 'pg_namespace') ~ '^Minutehand:' then
    drop schema {clients};
  end if;
exception when dependent_objects_still_exist then
  raise warning 'the schema {clients} contains objects of yours and is kept';
end;
$$;

do $$
begin
  if to_regclass('vault.secrets') is not null then
    execute 'delete from vault.secrets where name = ''minutehand_worker_token''';
  end if;
  -- forget the migrations if the Supabase CLI applied them
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
  -- keep functions of yours that the worker could call, but revoke its rights
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
    raise warning 'the role job_worker is used elsewhere and is kept';
  end;
end;
$$;

commit;

{files}
"""
#: Kinds of objects in the order of their drops, which include a table's triggers and policies.
_KINDS = ("view", "table", "function")


def removal_sql(folder: Path) -> str:
    """Write the SQL for the project in `folder`.

    Raises:
        InstallError: Minutehand is not installed in the project.
    """
    files = installed(folder)
    if not files:
        raise not_installed(folder, fix="name the project's folder")
    project = Project.at(folder)
    schemas = Schemas(project.schema_)
    paths = sorted({file.path for file in files})
    texts = "\n".join(path.read_text("utf-8") for path in paths)
    objects = _objects(texts, schemas.clients)
    names = {kind: sorted(name for k, name in objects if k == kind) for kind in _KINDS}
    relations = [*names["view"], *names["table"]]
    engine_names = [name for kind, name in _objects(texts, schemas.engine) if kind == "table"]
    lines = [_drop(kind, f"{schemas.clients}.{name}") for kind, name in objects]
    lines.append(_drop("schema", schemas.engine))
    lock = Path(__file__).with_name("lock_tables.sql").read_text("utf-8")
    lock = lock.replace("{tables}", f"{{{','.join(names['table'])}}}")
    versions = [match["version"] for path in paths if (match := FILE_NAME.match(path.name))]
    return _SQL.format(
        pattern=_usage_pattern(schemas, relations, names["function"]),
        lock=rewrite(lock, schemas),
        engine=schemas.engine,
        clients=schemas.clients,
        tables=_quoted(engine_names),
        functions=_quoted(names["function"]),
        relations=_quoted(relations),
        drops="".join(f"{line}\n" for line in lines),
        versions=",\n  ".join(f"'{version}'" for version in versions),
        files="\n".join(f"-- supabase/migrations/{path.name}" for path in paths),
    )


def _usage_pattern(schemas: Schemas, relations: list[str], functions: list[str]) -> str:
    """Return a regular expression for SQL that names our objects."""
    function = "|".join(functions)
    qualified = rf"\m{schemas.engine}\.|\m{schemas.clients}\.({'|'.join(relations)}|{function})\M"
    # functions in public may be named without their schema
    return rf"{qualified}|\m({function})\s*\(" if schemas.clients == CLIENTS else qualified


def _objects(texts: str, schema: str) -> list[tuple[str, str]]:
    # find objects by name, because other objects may be in the schema. No function has overloads.
    pattern = rf"^create (?:or replace |unlogged )?({'|'.join(_KINDS)}) {schema}\.(\w+)"
    # the last statement for a name decides, because a view may replace a table of tenants
    kinds = {name: kind for kind, name in re.findall(pattern, texts, re.MULTILINE)}
    return sorted(
        ((kind, name) for name, kind in kinds.items()),
        key=lambda entry: (_KINDS.index(entry[0]), entry[1]),
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "''"


def _drop(kind: str, name: str) -> str:
    return f"drop {kind} if exists {name} cascade;"
