"""Generates SQL that removes an installed engine from a database, but no object of the project."""

import re
from pathlib import Path

from minutehand.install.rewrite import CLIENTS, Schemas, rewrite
from minutehand.install.sources import require_installed, version_of
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
  c_use constant text := '{use}';
  c_ours constant text := '{ours}';
  v_theirs text;
begin
  set local search_path = '';
  if coalesce(obj_description(to_regnamespace('{engine}'), 'pg_namespace'), '')
      !~ '^Minutehand:' then
    raise exception 'Minutehand is not installed in the schema {engine}'
      using hint = 'Nothing was removed. Run this in the database that has it.';
  end if;
  select string_agg(o.type || ' ' || o.identity, ', ' order by o.identity) into v_theirs
  from (
    select 'pg_proc'::regclass as class, p.oid, pg_get_functiondef(p.oid) as text
    from pg_proc as p
    join pg_language as l on l.oid = p.prolang and l.lanname in ('sql', 'plpgsql')
    where p.prokind in ('f', 'p')
    union all select 'pg_class'::regclass, c.oid, pg_get_viewdef(c.oid)
    from pg_class as c where c.relkind in ('v', 'm')
    union all select 'pg_trigger'::regclass, t.oid, pg_get_triggerdef(t.oid)
    from pg_trigger as t where not t.tgisinternal
    union all select 'pg_policy'::regclass, p.oid,
      concat(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    from pg_policy as p
    union all select 'pg_constraint'::regclass, k.oid, pg_get_constraintdef(k.oid)
    from pg_constraint as k
    union all select 'pg_class'::regclass, c.oid, null
    from pg_class as c
    where c.relnamespace = to_regnamespace('{engine}') and c.relkind in ('r', 'p')
      and c.relname not in ({tables})
  ) as f
  cross join lateral pg_identify_object(f.class, f.oid, 0) as o
  where f.text is null or f.text ~ c_use and o.identity !~ c_ours
    -- the trigger and the policies of ours that are on tables of others
    and not (o.type in ('trigger', 'policy') and o.identity ~ '^"?minutehand[_:]');
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
{drops}drop schema if exists {engine} cascade;

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
  if not exists (select from pg_roles where rolname = 'job_worker') then
    return;
  end if;
  -- keep functions of yours that the worker could call, but revoke its rights
  for v_granted in
    select 'function ' || p.oid::regprocedure
      from pg_proc as p, aclexplode(p.proacl) as a
      where a.grantee = 'job_worker'::regrole and pg_has_role(p.proowner, 'usage')
    union select 'schema ' || n.oid::regnamespace
      from pg_namespace as n, aclexplode(n.nspacl) as a
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
_KINDS = ("view", "table", "function")


def removal_sql(folder: Path) -> str:
    """Return the SQL that removes the engine from the database of the project in `folder`.

    Raises:
        InstallError: Minutehand is not installed in the project.
    """
    paths = sorted({part.path for part in require_installed(folder)})
    schemas = Schemas(Project.at(folder).schema_)
    texts = "\n".join(path.read_text("utf-8") for path in paths)
    engine, clients = schemas.engine, schemas.clients
    objects = _objects(texts, clients)
    by_kind = {kind: [name for each, name in objects if each == kind] for kind in _KINDS}
    named = "|".join(name for _, name in objects)
    use = rf"\m{engine}\.|\m{clients}\.({named})\M"
    if clients == CLIENTS:  # the project may call functions without `public.`
        use += rf"|\m({'|'.join(by_kind['function'])})\s*\("
    drops = (f"drop {kind} if exists {clients}.{name} cascade;\n" for kind, name in objects)
    engine_tables = [f"'{name}'" for kind, name in _objects(texts, engine) if kind == "table"]
    lock = Path(__file__).with_name("lock_tables.sql").read_text("utf-8")
    lock = lock.replace("{tables}", f"{{{','.join(by_kind['table'])}}}")
    return _SQL.format(
        use=use,
        ours=rf"(^| on )({engine}\.|{clients}\.({named})(\(|$))",
        lock=rewrite(lock, schemas),
        engine=engine,
        clients=clients,
        tables=", ".join(engine_tables),
        drops="".join(drops),
        versions=",\n  ".join(f"'{version_of(path)}'" for path in paths),
        files="\n".join(f"-- supabase/migrations/{path.name}" for path in paths),
    )


def _objects(texts: str, schema: str) -> list[tuple[str, str]]:
    """List Minutehand's objects in the order in which to drop them: views, tables, functions."""
    # find Minutehand's objects by name, because the schema may contain the project's objects. A
    # name identifies a function, because no function of Minutehand has overloads.
    pattern = rf"^create (?:or replace |unlogged )?({'|'.join(_KINDS)}) {schema}\.(\w+)"
    # use the last statement for a name, because a view may replace a table of the tenants
    kinds = {name: kind for kind, name in re.findall(pattern, texts, re.MULTILINE)}
    return sorted(((kind, name) for name, kind in kinds.items()), reverse=True)
