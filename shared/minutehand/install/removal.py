"""The SQL that takes an installed engine out of a database, and nothing else with it."""

from __future__ import annotations

import re
from pathlib import Path

from minutehand.install.rewrite import CLIENTS, Schemas
from minutehand.install.sources import ENGINE_ORIGIN, FILE_NAME, InstallError, installed
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

-- policies on realtime.messages, triggers on tables of yours and published tables go along
{schemas}
do $$
begin
  if exists (select from pg_catalog.pg_roles where rolname = 'job_worker') then
    {revoke}drop role job_worker;
  end if;
exception when dependent_objects_still_exist then
  raise notice 'the role job_worker is used elsewhere and stays';
end;
$$;

delete from supabase_migrations.schema_migrations where version in (
  {versions});

commit;

{files}
"""
_MADE = re.compile(
    r"^create (?:or replace )?(?:unlogged )?(?P<kind>table|view|function|type|sequence)"
    r" (?:if not exists )?public\.(?P<name>\w+)",
    re.MULTILINE,
)


def removal_sql(folder: Path) -> str:
    """Write the SQL for the project in `folder`.

    Raises:
        InstallError: Nothing is installed there.
    """
    files = installed(folder)
    if not files:
        raise InstallError(
            f"no migration of {folder} was installed by Minutehand",
            code="not_installed",
            fix="name the project's folder",
        )
    project = Project.at(folder)
    schemas = Schemas(project.schema_, project.engine_schema)
    apps = sorted({file.origin.partition("/")[0] for file in files} - {ENGINE_ORIGIN, "tenancy"})
    texts = [file.path.read_text("utf-8") for file in files]
    own = [*_schemas_of(texts, schemas, bool(apps)), schemas.engine]
    lines = [f"drop schema if exists {name} cascade;" for name in own]
    if schemas.clients == CLIENTS:
        lines = [*_objects(texts), *lines]
    else:
        lines.insert(0, f"drop schema if exists {schemas.clients} cascade;")
    versions = [match["version"] for file in files if (match := FILE_NAME.match(file.path.name))]
    return _SQL.format(
        schemas="".join(f"{line}\n" for line in lines),
        revoke=f"revoke all on schema {CLIENTS} from job_worker;\n    "
        if schemas.clients == CLIENTS
        else "",
        versions=",\n  ".join(f"'{version}'" for version in versions),
        files="\n".join(f"-- supabase/migrations/{file.path.name}" for file in files),
    )


def _schemas_of(texts: list[str], schemas: Schemas, has_apps: bool) -> list[str]:
    if not has_apps:
        return []
    made = re.findall(r"^create schema (?:if not exists )?(\w+)", "\n".join(texts), re.MULTILINE)
    return sorted(set(made) - {schemas.clients, schemas.engine})


def _objects(texts: list[str]) -> list[str]:
    # in a schema that others use, each by its name; functions have no overloads
    found = {(match["kind"], match["name"]) for text in texts for match in _MADE.finditer(text)}
    order = ["view", "table", "function", "type", "sequence"]
    return [
        f"drop {kind} if exists {CLIENTS}.{name} cascade;"
        for kind, name in sorted(found, key=lambda each: (order.index(each[0]), each[1]))
    ]
