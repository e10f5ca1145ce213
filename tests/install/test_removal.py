"""Removal takes what an install brought, and nothing else."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from minutehand.install.project import Answers, plan_install
from minutehand.install.removal import removal_sql
from minutehand.install.rewrite import Schemas
from minutehand.install.tenancy import Personal
from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from tests.install.projects import Hosted
from tests.install.test_install import NOON
from tests.install.test_tenancies import APPS, OURS
from tests.support.extensions import PG_CRON


@pytest.mark.parametrize("schemas", [OURS, Schemas("public")])
def test_removal_takes_everything_and_nothing_else(
    schemas: Schemas, postgres: Postgres, tmp_path: Path
) -> None:
    """With every app, beside tables of theirs, in a schema of its own and in `public`.

    The template is another database of the server, in which the worker's role has rights.
    """
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder / "20250101000000_own.sql").write_text(
        "create table public.recipes (id bigint primary key);\n"
        "create function public.bake() returns int language sql as 'select 1';\n"
    )
    with Hosted(postgres, Path()).database() as database:
        migrations.apply_migrations(database.owner_url, migrations.migrations_in(folder))
        database.as_owner(f"create extension {PG_CRON}")
        database.as_owner("select cron.schedule('theirs', '* * * * *', 'select 1')")
        before = database.everything()
        plan_install(tmp_path, Answers(schemas, Personal(), apps=APPS), now=NOON).apply()
        migrations.apply_migrations(database.owner_url, migrations.migrations_in(folder))
        assert len(database.everything()) > len(before) + 500
        assert len(database.run("select jobname from cron.job")) == 3
        later = folder / "20991231000000_theirs.sql"
        later.write_text(f"create view public.v as select * from {schemas.engine}.tenants;")
        assert removal_sql(tmp_path).endswith(f"stops there.\n--   {later.relative_to(tmp_path)}\n")
        later.unlink()
        assert "stops there" not in removal_sql(tmp_path)

        if schemas.clients != "public":
            database.run("create table minutehand.theirs ()")
            with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="minutehand"):
                database.as_owner(removal_sql(tmp_path))
            assert database.run("select count(*) from minutehand.jobs") == [(0,)]
            database.run("drop table minutehand.theirs")
        database.as_owner(removal_sql(tmp_path))

        assert database.everything() == before
        assert database.run("select jobname from cron.job") == [("theirs",)]
        assert database.run("select name from supabase_migrations.schema_migrations") == [("own",)]
        # another tool may have applied them, which keeps its own record
        database.as_owner("drop schema supabase_migrations cascade")
        database.as_owner(removal_sql(tmp_path))
