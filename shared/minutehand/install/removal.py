"""The SQL that takes an installed engine out of a database, and nothing else with it."""

from __future__ import annotations

import re
from pathlib import Path

from minutehand.install.rewrite import CLIENTS, Schemas
from minutehand.install.sources import FILE_NAME, installed, migration_files, not_installed
from minutehand.project import Project

_SQL = """\
-- Removes Minutehand and every job with it. Written by `minutehand uninstall`; run it once, in the
-- dashboard's SQL editor or with psql, then delete the files listed at its end.
begin;

do $$
begin
  if to_regprocedure('cron.unschedule(text)') is not null then
    execute 'select cron.unschedule(jobname) from cron.job where jobname like ''minutehand-%''';
  end if;
end;
$$;

-- policies on realtime.messages, triggers on tables of yours and published tables are dropped too
{schemas}
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
    raise notice 'the role job_worker is used elsewhere and stays';
  end;
end;
$$;

do $$
begin
  -- where the Supabase CLI applied them
  if to_regclass('supabase_migrations.schema_migrations') is not null then
    delete from supabase_migrations.schema_migrations where version in (
  {versions});
  end if;
end;
$$;

commit;

{files}
"""
#: In the order in which they go; triggers, policies and indexes go with their table.
_KINDS = ("view", "table", "function", "type", "sequence")


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
    made = re.findall(r"^create schema (?:if not exists )?(\w+)", texts, re.MULTILINE)
    own = sorted({*made, schemas.engine} - {schemas.clients})
    lines = [*_objects(texts, schemas.clients), *(_drop("schema", name) for name in own)]
    if schemas.clients != CLIENTS:
        # without cascade: what is not ours in there stops it before anything is lost
        lines.append(f"drop schema if exists {schemas.clients};")
    theirs = _that_name(folder, set(paths), {schemas.engine, schemas.clients} - {CLIENTS})
    versions = [match["version"] for path in paths if (match := FILE_NAME.match(path.name))]
    return _SQL.format(
        clients=schemas.clients,
        engine=schemas.engine,
        schemas="".join(f"{line}\n" for line in lines),
        versions=",\n  ".join(f"'{version}'" for version in versions),
        files="\n".join([*(f"-- supabase/migrations/{path.name}" for path in paths), *theirs]),
    )


def _that_name(folder: Path, ours: set[Path], schemas: set[str]) -> list[str]:
    """The project's own migrations that a database made again would not take any more."""
    uses = re.compile(rf"\b({'|'.join(sorted(schemas))})\.")
    found = [
        f"--   supabase/migrations/{path.name}"
        for path in migration_files(folder)
        if path not in ours and uses.search(path.read_text("utf-8", errors="replace"))
    ]
    said = "-- Yours, and naming what is gone: change them, or `supabase db reset` stops there."
    return [said, *found] if found else []


def _objects(texts: str, schema: str) -> list[str]:
    # each by its name, for others may use the schema too; functions have no overloads
    pattern = rf"^create (?:or replace )?({'|'.join(_KINDS)}) {schema}\.(\w+)"
    found = set(re.findall(pattern, texts, re.MULTILINE))
    ordered = sorted(found, key=lambda each: (_KINDS.index(each[0]), each[1]))
    return [_drop(kind, f"{schema}.{name}") for kind, name in ordered]


def _drop(kind: str, name: str) -> str:
    return f"drop {kind} if exists {name} cascade;"
