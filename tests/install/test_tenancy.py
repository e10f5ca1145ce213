"""The migration rejects an existing tenancy with unknown roles and names the roles."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from minutehand.install.project import InstallOptions, plan_install
from minutehand.install.rewrite import Schemas
from minutehand.install.tenancy import existing
from supabase_local.migrations import MigrationFailed, apply_migrations, migrations_in
from tests.install.projects import Hosted
from tests.support.engine import ACME, ADA

TABLES = """
create schema rbac; create table rbac.groups (id uuid primary key, name text);
create table rbac.members (group_id uuid, user_id uuid, "Role" {type});
"""
KNOWN = "text check (\"Role\" in ('owner', 'member'))"


@pytest.mark.parametrize(
    ("type_", "rows", "words"),
    [
        ("text[]", "", "text[]"),
        ("text", f"insert into rbac.members values ('{ACME}', '{ADA}', 'editor')", "editor"),
        ("text check (\"Role\" in ('owner', 'viewer'))", "", "viewer"),
        ("rbac.role", "", "guest"),
        (KNOWN, "", None),
    ],
)
def test_an_unknown_role_is_refused_with_the_words_found(
    hosted: Hosted, tmp_path: Path, type_: str, rows: str, words: str | None
) -> None:
    """Otherwise users would silently be members of nothing; the error names the view to edit."""
    tenants = existing("rbac.groups(id,name)", 'rbac.members(group_id,user_id,"Role")')
    plan = plan_install(
        tmp_path, InstallOptions(Schemas("minutehand"), tenants), now=datetime.now(UTC)
    )
    plan.apply()
    files = migrations_in(tmp_path / "supabase/migrations")
    with hosted.database() as database:
        enum = "create schema if not exists rbac; create type rbac.role as enum ('owner', 'guest');"
        script = TABLES.replace("create schema rbac;", enum).replace("{type}", type_)
        database.as_owner(script + rows)
        if words is None:
            apply_migrations(database.owner_url, files)
            return
        with pytest.raises(MigrationFailed) as error:
            apply_migrations(database.owner_url, files)

    assert words in str(error.value)
    assert "tenant_members" in str(error.value)
